"""Databases for the contract tests: a SQLite file, and a PostgreSQL of its own in a temporary directory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from contract.hub_region import Region, running_region
from contract.key_servers import SERVERS, Servers, running_servers
from support.postgresql import drop_database, new_database, running_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL server for the session; yield `USER@127.0.0.1:PORT`."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Give a function that makes an empty database on one of the two engines and returns its URL."""
    made = []

    def new() -> str:
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path / uuid4().hex}.db"
        made.append(new_database(request.getfixturevalue("postgresql")))
        return made[-1]

    yield new
    # A thousand of them would not fit into memory.
    for one in made:
        drop_database(one)


@pytest.fixture
def database_url(new_database_url: Callable[[], str]) -> str:
    """Return the URL of an empty database."""
    return new_database_url()


@pytest.fixture
def region(database_url: str) -> Iterator[Region]:
    """Start a hub with three hospitals on an empty database."""
    with running_region(database_url) as running:
        yield running


@pytest.fixture
def servers(new_database_url: Callable[[], str]) -> Iterator[Servers]:
    """Start three key servers, each on an empty database."""
    with running_servers(new_database_url) as running:
        yield running


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Servers]:
    """For what has nothing to do with the engine."""
    names = iter(range(len(SERVERS)))
    with running_servers(lambda: f"sqlite:///{tmp_path / str(next(names))}.db") as running:
        yield running
