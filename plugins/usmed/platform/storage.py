"""The one door to a database: SQLite for one machine, PostgreSQL for the rest; migrations run forward.

Callers write SQLAlchemy Core against `Database.read` and `Database.write`, and mean the same on both engines:
`read` sees one snapshot; `write` is one durable transaction. Tables belong to migration chains, one per
package that stores something, each with a version table of its own.
"""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from importlib.resources import files
from typing import Any, cast

from sqlalchemy import (
    ClauseElement,
    Connection,
    Engine,
    String,
    TableClause,
    column,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy import table as sql_table
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from usmed.domain.errors import ConfigurationError, UsmedError

PLATFORM_CHAIN = "usmed.platform.storage_migrations"
BUSY_TIMEOUT_S = 10
MIGRATION_LOCK = 0x75736D6564
"""Key of the PostgreSQL advisory lock that lets one process at a time migrate ("usmed" in ASCII)."""

IDLE_S = 1.0
"""A connection that was not used for longer is checked before it is used again."""

_NO_VALUES: Mapping[str, Any] = {}
# Alembic keeps the migration that runs in module globals.
_migrating = threading.Lock()


class StorageError(UsmedError):
    """The database cannot be reached, refuses, or is not one that this version can use."""


class Database:
    """An open database. Safe to use from many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = self._alone = engine
        if self.is_postgresql:
            # SQLite's deferred transaction is a snapshot already.
            self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            # Where each statement is a transaction of its own there is nothing to begin, to end, or to take back.
            self._alone = _engine(engine.url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None)
        # SQLite's own queue for its one writer is a series of naps, the longest of 100 ms.
        self._writer = nullcontext() if self.is_postgresql else _Turn()
        self._jobs: deque[_Job] = deque()
        self._next = _Turn()

    @property
    def is_postgresql(self) -> bool:
        """Tell whether this is PostgreSQL rather than SQLite."""
        return self._engine.dialect.name == "postgresql"

    def insert(self, table: TableClause) -> Any:
        """Return the engine's own INSERT, which knows ON CONFLICT. Each is loaded only where it is used."""
        if self.is_postgresql:
            from sqlalchemy.dialects.postgresql import insert
        else:
            from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
        return insert(table)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection on which every query sees the same snapshot; what it writes is not kept.

        Raises:
            StorageError: the database fails.
        """
        with _translated(), self._reading.connect() as connection:
            # Nobody commits it.
            connection.begin()
            if not self.is_postgresql:
                _BEGIN.run(connection)
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection in a transaction that is committed, durably, unless the block raises.

        On SQLite it holds the write lock from the start (a read that turns into a write could fail half-way);
        on PostgreSQL concurrent writers run side by side until they touch the same rows.

        Raises:
            StorageError: the database fails.
        """
        with self._writer, _translated(), self._engine.begin() as connection:
            if not self.is_postgresql:
                _BEGIN_IMMEDIATE.run(connection)
            yield connection

    def query(self, statement: "Statement", values: Mapping[str, Any] = _NO_VALUES) -> list[tuple[Any, ...]]:
        """Return the rows of one query: a snapshot of its own, in one round trip.

        Raises:
            StorageError: the database fails.
        """
        dialect = self._alone.dialect
        with _translated():
            try:
                connection = self._alone.raw_connection()
            except dialect.loaded_dbapi.Error as error:
                raise _failure(error) from error
            try:
                return statement.run_on(connection, dialect, values)
            except StorageError as error:
                broken: Any = error.__cause__
                if dialect.is_disconnect(broken, connection.dbapi_connection, None):
                    # The server has gone, and with it all that were open.
                    self._alone.dispose()
                connection.invalidate()
                raise
            finally:
                connection.close()

    def change(self, statement: "Statement", values: Mapping[str, Any] = _NO_VALUES) -> list[tuple[Any, ...]]:
        """Run one statement that changes something, durably, and return its rows: the shortest transaction there is.

        Raises:
            StorageError: the database fails.
        """
        if self.is_postgresql:
            return self.query(statement, values)
        return self.together(lambda connection: statement.run(connection, values))

    def together[T](self, change: Callable[[Connection], T]) -> T:
        """Make a small change, durably, in one transaction with those that other threads want at the same moment.

        A transaction costs more than what is done in it, above all the wait for the disk: this way many share one.

        Args:
            change: what to do. It sees what the others of the same transaction did before it, and is done anew, by
                itself, when one of them raises an error of its own.

        Raises:
            StorageError: the database fails, for all of them.
            Exception: what `change` raises; nothing of it is kept then.
        """
        job = _Job(change)
        self._jobs.append(job)
        with self._next:
            if not job.done.done():
                # Nobody else takes any out meanwhile.
                self._run([self._jobs.popleft() for _ in range(len(self._jobs))])
        return cast("T", job.done.result())

    def _run(self, jobs: Sequence["_Job"]) -> None:
        try:
            with self.write() as connection:
                results = [one.change(connection) for one in jobs]
        except Exception as error:  # noqa: BLE001 - it is handed to whoever asked
            if len(jobs) > 1 and not isinstance(error, StorageError):
                for one in jobs:
                    self._run([one])
                return
            # A database that fails is not asked again for each of them, one patience after the other.
            for one in jobs:
                one.done.set_exception(error)
            return
        for one, result in zip(jobs, results, strict=True):
            one.done.set_result(result)

    def close(self) -> None:
        """Close the pooled connections."""
        self._engine.dispose()
        self._alone.dispose()


class Statement:
    """A statement that runs with every request: compiled once, then run by the engine's own driver.

    On its way through SQLAlchemy a statement takes ten times as long as the database needs for it.

    Args:
        statement: SQLAlchemy Core, or `text`; every value in it is a parameter that is bound when it runs.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, str] = {}

    def run(self, connection: Connection, values: Mapping[str, Any] = _NO_VALUES) -> list[tuple[Any, ...]]:
        """Run it in the transaction of a connection that `Database` gave; return its rows, if it has any.

        Raises:
            StorageError: the database fails.
        """
        return self.run_on(connection.connection, connection.dialect, values)

    def run_on(
        self, connection: PoolProxiedConnection, dialect: Dialect, values: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Run it on a driver's connection; the rest as `run`."""
        cursor = connection.cursor()
        try:
            cursor.execute(self._text(dialect), values)
            return list(cursor.fetchall()) if cursor.description else []
        except dialect.loaded_dbapi.Error as error:
            raise _failure(error) from error

    def run_each(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it once for each of many rows of values.

        Raises:
            StorageError: the database fails.
        """
        try:
            connection.connection.cursor().executemany(self._text(connection.dialect), rows)
        except connection.dialect.loaded_dbapi.Error as error:
            raise _failure(error) from error

    def _text(self, dialect: Dialect) -> str:
        if dialect.name not in self._compiled:
            self._compiled[dialect.name] = str(self._statement.compile(dialect=dialect))
        return self._compiled[dialect.name]


# SQLite's driver is told to begin no transaction of its own.
_BEGIN, _BEGIN_IMMEDIATE = Statement(text("BEGIN")), Statement(text("BEGIN IMMEDIATE"))


class _Job:
    """A change that waits for its transaction."""

    def __init__(self, change: Callable[[Connection], Any]) -> None:
        self.change = change
        self.done: Future[Any] = Future()


class _Turn:
    """A lock with an end to its patience."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=BUSY_TIMEOUT_S):
            raise StorageError(f"the database was busy for {BUSY_TIMEOUT_S} s")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def open_database(url: str, chains: Sequence[str]) -> Database:
    """Open a database and bring its tables up to this version.

    Args:
        url: `sqlite:///FILE` or `postgresql+psycopg://USER:PASSWORD@HOST/DATABASE`.
        chains: packages of migrations, such as `usmed.hub.migrations`; the platform's own is always included.

    Raises:
        ConfigurationError: not such a URL.
        StorageError: the database cannot be reached, or a newer version has written to it.
    """
    engine = _engine(_parse(url))
    database = Database(engine)
    try:
        with database.write() as connection:
            migrate(connection, _with_platform(chains))
    except UsmedError:
        engine.dispose()
        raise
    return database


def is_current(url: str, chains: Sequence[str]) -> bool:
    """Tell whether a database has the tables of this version.

    Args:
        url: as `open_database`.
        chains: as `open_database`.

    Raises:
        ConfigurationError: not such a URL.
        StorageError: the database cannot be reached.
    """
    database = Database(_engine(_parse(url)))
    try:
        with database.read() as connection:
            return all(_is_current(chain, connection) for chain in _with_platform(chains))
    finally:
        database.close()


def migrate(connection: Connection, chains: Sequence[str], revision: str = "head") -> None:
    """Run migrations forward to `revision` in the caller's transaction: all of them happen, or none.

    Raises:
        StorageError: the database was written by a newer version; there is no way back.
    """
    with _migrating:
        if connection.dialect.name == "postgresql":
            # Two processes that start together: the second waits, then finds nothing to do.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        for chain in chains:
            if revision == "head" and _is_current(chain, connection):
                continue
            from usmed.platform.migrations import upgrade

            upgrade(chain, connection, version_table(chain), revision)


def version_table(chain: str) -> str:
    """Return the name of the table that says how far a chain has run: `usmed.hub.migrations` → `…_hub`."""
    return "usmed_version_" + chain.split(".")[1]


def _with_platform(chains: Sequence[str]) -> list[str]:
    return [PLATFORM_CHAIN, *(chain for chain in chains if chain != PLATFORM_CHAIN)]


def _is_current(chain: str, connection: Connection) -> bool:
    """Tell whether a chain has run to its end. Alembic takes 10 MB, so it is asked only when something is to do."""
    package, _, name = chain.rpartition(".")
    revisions = [one.name[:5] for one in files(package).joinpath(name).iterdir() if re.match(r"r\d{4}_", one.name)]
    table = version_table(chain)
    if not inspect(connection).has_table(table):
        return False
    query = select(column("version_num", String)).select_from(sql_table(table))
    return list(connection.scalars(query)) == [max(revisions)]


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("database URL", ["is not a URL"]) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    if parsed.drivername == "postgresql+psycopg":
        return parsed
    shown = parsed.render_as_string(hide_password=True)
    raise ConfigurationError(
        "database URL", [f"{shown!r} is neither sqlite:///FILE nor postgresql+psycopg://USER@HOST/DATABASE"]
    )


def _engine(url: URL, **options: Any) -> Engine:
    options = {"pool_size": 5, "max_overflow": 30, **options}
    if url.drivername == "sqlite":
        # Parameters by name, as the PostgreSQL driver has them: see `Statement`.
        engine = create_engine(url, paramstyle="named", connect_args={"timeout": BUSY_TIMEOUT_S}, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    engine = create_engine(
        url,
        **options,
        connect_args={
            "connect_timeout": 5,
            "application_name": "usmed",
            # A server that is silent, and has not hung up, is given up; by itself TCP tries for a quarter of an hour.
            "tcp_user_timeout": BUSY_TIMEOUT_S * 1000,
            "keepalives_idle": BUSY_TIMEOUT_S,
            # A writer that hangs elsewhere must become an error here, not a hang.
            "options": f"-c lock_timeout={BUSY_TIMEOUT_S * 1000}",
        },
    )
    event.listen(engine, "checkin", _remember_use)
    event.listen(engine, "checkout", _check_idle)
    return engine


def _remember_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _check_idle(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """A restarted PostgreSQL leaves dead connections in the pool; asking each time would cost a round trip."""
    if time.monotonic() - record.info.get("used_at", time.monotonic()) < IDLE_S:
        return
    import psycopg  # Here, because on SQLite nobody needs its 8 MB.

    begins = not connection.autocommit
    try:
        connection.autocommit = True
        connection.execute("")
        connection.autocommit = not begins
    except psycopg.Error as error:
        raise DisconnectionError from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # `Database` begins transactions; the driver must not begin or commit any of its own.
    connection.isolation_level = None
    for pragma in (
        "journal_mode = WAL",  # readers and the writer do not wait for each other
        # NORMAL could lose the last commits when the power fails: an audit record of a release that did
        # happen, or a nonce that could then be used again. FULL syncs the log at each commit.
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise _failure(error.orig) from error
    except PoolTimeoutError as error:
        raise StorageError("too many queries at once: no connection to the database became free") from error


def _failure(error: BaseException | None) -> StorageError:
    # The engine's own message, its first line only: the rest can repeat values, which may be patients'.
    message = str(error).strip().partition("\n")[0]
    return StorageError(f"the database failed: {message}")
