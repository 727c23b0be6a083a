"""A long-lived process has its tables made by one that ends, on both engines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from usmed.domain.errors import ConfigurationError
from usmed.hospital.store import CHAIN
from usmed.platform.migration_process import migrate_first
from usmed.platform.storage import StorageError, is_current, open_database

PLUGINS = Path(__file__).parents[2] / "plugins"
OPEN = """
import json, sys
from usmed.platform.migration_process import migrate_first
from usmed.platform.storage import open_database
url, chain = json.load(sys.stdin)
migrate_first(url, [chain])
open_database(url, [chain]).close()
print(json.dumps("alembic" in sys.modules))
"""


def test_a_process_that_opens_a_new_database_never_loads_what_migrates(database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        input=json.dumps([database_url, CHAIN]),
        env={"PYTHONPATH": str(PLUGINS), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout) is False
    assert is_current(database_url, [CHAIN])


def test_a_database_without_tables_is_not_current(database_url: str) -> None:
    assert not is_current(database_url, [CHAIN])


def test_a_migration_that_fails_apart_is_refused_where_the_database_is_opened(database_url: str) -> None:
    open_database(database_url, [CHAIN]).close()
    database = open_database(database_url, [CHAIN])
    with database.write() as connection:
        connection.execute(sa.text("UPDATE usmed_version_hospital SET version_num = 'r9999'"))
    database.close()

    migrate_first(database_url, [CHAIN])

    with pytest.raises(StorageError, match="newer version"):
        open_database(database_url, [CHAIN])


def test_what_is_no_url_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError):
        migrate_first("no url", [CHAIN])
