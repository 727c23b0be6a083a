"""A PostgreSQL server of its own for tests, in a temporary directory."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg

PROGRAMS = Path("/usr/lib/postgresql/18/bin")


@contextmanager
def running_postgresql(kept: Path | None = None, **settings: str) -> Iterator[str]:
    """Start a server; give `USER@127.0.0.1:PORT`.

    Args:
        kept: a folder for its data, which stay there, and are used if they are there; a temporary one else.
        settings: of postgresql.conf.
    """
    # Without it half of the promise would go untested, silently: a missing server fails, it does not skip.
    assert (PROGRAMS / "initdb").exists(), f"PostgreSQL 18 is not installed in {PROGRAMS}"
    home = kept or Path(tempfile.mkdtemp(prefix="usmed-postgresql-"))
    # initdb and postgres refuse to run as root.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    become = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(home, user, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = home / "data"
    if not data.exists():
        subprocess.run(
            [*become, PROGRAMS / "initdb", "-D", data, "-A", "trust", "-U", user, "-E", "UTF8", "--no-locale"],
            check=True,
            capture_output=True,
        )
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c max_connections=200"
    options += "".join(f" -c {name}={value}" for name, value in settings.items())
    control = [*become, PROGRAMS / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", home / "log", "-o", options, "start"], check=True, capture_output=True)
    try:
        yield f"{user}@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "fast" if kept else "immediate", "stop"], check=True, capture_output=True)
        if not kept:
            shutil.rmtree(home)


def new_database(server: str) -> str:
    """Make an empty database on the server (`USER@HOST:PORT`); return its SQLAlchemy URL."""
    name = "t" + uuid4().hex
    with psycopg.connect(f"postgresql://{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    return f"postgresql+psycopg://{server}/{name}"
