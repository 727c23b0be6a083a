"""Databases for the contract tests: a SQLite file, and a PostgreSQL of its own in a temporary directory."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from contract.hub_region import Region, running_region

POSTGRESQL = Path("/usr/lib/postgresql/18/bin")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL server for the session; yield `USER@127.0.0.1:PORT`."""
    # Without it half of the promise would go untested, silently: a missing server fails, it does not skip.
    assert (POSTGRESQL / "initdb").exists(), f"PostgreSQL 18 is not installed in {POSTGRESQL}"
    home = Path(tempfile.mkdtemp(prefix="usmed-postgresql-"))
    # initdb and postgres refuse to run as root.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    become = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(home, user, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = home / "data"
    subprocess.run(
        [*become, POSTGRESQL / "initdb", "-D", data, "-A", "trust", "-E", "UTF8", "--no-locale"],
        check=True,
        capture_output=True,
    )
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c max_connections=200"
    control = [*become, POSTGRESQL / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", home / "log", "-o", options, "start"], check=True, capture_output=True)
    try:
        yield f"{user}@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)
        shutil.rmtree(home)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Return a function that makes an empty database on one of the two engines and returns its URL."""

    def new() -> str:
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path / uuid4().hex}.db"
        server = request.getfixturevalue("postgresql")
        name = "t" + uuid4().hex
        with psycopg.connect(f"postgresql://{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return f"postgresql+psycopg://{server}/{name}"

    return new


@pytest.fixture
def database_url(new_database_url: Callable[[], str]) -> str:
    """Return the URL of an empty database."""
    return new_database_url()


@pytest.fixture
def region(database_url: str) -> Iterator[Region]:
    """Start a hub with three hospitals on an empty database."""
    with running_region(database_url) as running:
        yield running
