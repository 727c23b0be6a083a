"""Migrations in a process of their own, for one that goes on for months: Alembic's 10 MB end with it.

`python3 -m usmed.platform.migration_process` reads `{"url": …, "chains": […]}` from standard input: a URL can hold a
password, which is nobody's to read in the list of processes.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from usmed.platform.storage import is_current, open_database

log = logging.getLogger(__name__)

_PLUGINS = Path(__file__).parents[2]


def migrate_first(url: str, chains: Sequence[str]) -> None:
    """Bring a database up to this version, so that opening it finds nothing to do.

    Raises nothing of its own: what cannot be done there `open_database` tries anew here, and says what is wrong.

    Args:
        url: as `open_database`.
        chains: as `open_database`.

    Raises:
        ConfigurationError, StorageError: as `open_database`.
    """
    # Inside Orthanc, sys.executable is Orthanc.
    python = Path(sys.exec_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    if is_current(url, chains) or not python.exists():
        return
    done = subprocess.run(
        [python, "-m", __name__],
        input=json.dumps({"url": url, "chains": list(chains)}),
        env={**os.environ, "PYTHONPATH": str(_PLUGINS)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        log.info("the database was not migrated by %s: %s", python, done.stderr.strip()[-300:])


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    open_database(wanted["url"], wanted["chains"]).close()
