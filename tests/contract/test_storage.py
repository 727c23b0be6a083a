"""What both engines promise: transactions, snapshots, migrations that run forward, clear refusals."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType, ChainHead, chain_record
from usmed.domain.canonical import canonical_json
from usmed.domain.errors import ConfigurationError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.study_record import bucket_of, digests, study_record
from usmed.hub import studies
from usmed.hub.tables import CHAIN as HUB_CHAIN
from usmed.platform import storage
from usmed.platform.audit_log import AuditLog
from usmed.platform.audit_query import Question, ask
from usmed.platform.storage import (
    PLATFORM_CHAIN,
    Database,
    Statement,
    StorageError,
    migrate,
    open_database,
    version_table,
)

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
SPAWN = multiprocessing.get_context("spawn")
nonce = sa.table("nonce", *map(sa.column, ("sender", "jti", "expires")))
ROW = {"sender": "iasi", "jti": "j", "expires": 1}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [HUB_CHAIN])
    yield opened
    opened.close()


@pytest.fixture
def bare(database_url: str) -> Iterator[Database]:
    """A database without our tables, as they were before a migration."""
    engine = open_database(database_url, [])._engine
    with engine.begin() as connection:
        for table in sa.inspect(connection).get_table_names():
            connection.execute(sa.text(f'DROP TABLE "{table}"'))
    yield Database(engine)
    engine.dispose()


def count(connection: Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(nonce)).scalar_one()


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(KeyError), database.write() as connection:
        connection.execute(sa.insert(nonce).values(ROW))
        raise KeyError
    with database.read() as connection:
        assert count(connection) == 0
    with database.write() as connection:
        connection.execute(sa.insert(nonce).values(ROW))
    with database.read() as connection:
        assert count(connection) == 1


def test_a_read_sees_one_snapshot(database: Database) -> None:
    with database.read() as reading:
        assert count(reading) == 0
        with database.write() as writing:
            writing.execute(sa.insert(nonce).values(ROW))
        assert count(reading) == 0
    with database.read() as reading:
        assert count(reading) == 1


def test_a_read_keeps_nothing(database: Database) -> None:
    try:
        with database.read() as connection:
            connection.execute(sa.insert(nonce).values(ROW))
    except StorageError as error:
        assert "read-only" in str(error)  # PostgreSQL refuses at once; SQLite rolls back
    with database.read() as connection:
        assert count(connection) == 0


def test_writers_that_read_first_do_not_lose_each_others_work(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.insert(nonce).values(ROW))

    def increment() -> None:
        for _ in range(20):
            with database.write() as connection:
                value = connection.execute(sa.select(nonce.c.expires).with_for_update()).scalar_one()
                connection.execute(sa.update(nonce).values(expires=value + 1))

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(sa.select(nonce.c.expires)).scalar_one() == 81


def test_a_statement_that_was_compiled_belongs_to_the_transaction(database: Database) -> None:
    insert = Statement(sa.insert(nonce))
    jti = Statement(sa.select(nonce.c.jti).where(nonce.c.sender == sa.bindparam("who")).order_by(nonce.c.jti))
    with pytest.raises(KeyError), database.write() as connection:
        assert insert.run(connection, ROW) == []
        raise KeyError
    with database.write() as connection:
        insert.run_each(connection, [{**ROW, "jti": one} for one in ("a", "b")])
    with database.read() as reading:
        assert jti.run(reading, {"who": "iasi"}) == [("a",), ("b",)]
        with database.write() as connection:
            insert.run(connection, {**ROW, "jti": "c"})
        assert len(jti.run(reading, {"who": "iasi"})) == 2
    with database.read() as reading:
        assert len(jti.run(reading, {"who": "iasi"})) == 3


def test_a_statement_that_fails_says_so_without_its_values(database: Database) -> None:
    insert = Statement(sa.insert(nonce))
    secret = {**ROW, "sender": "1800101070011"}
    for run in (lambda one: insert.run(one, secret), lambda one: insert.run_each(one, [secret])):
        with database.write() as connection:
            connection.execute(sa.delete(nonce))
            insert.run(connection, secret)
        with pytest.raises(StorageError) as failed, database.write() as connection:
            run(connection)
        assert secret["sender"] not in str(failed.value)
    with database.write() as connection:
        assert count(connection) == 1


def test_changes_of_many_threads_share_transactions_and_each_gets_its_own_result(database: Database) -> None:
    begun: list[object] = []
    sa.event.listen(database._engine, "begin", begun.append)

    def change(number: int) -> int:
        def insert(connection: Connection) -> int:
            connection.execute(sa.insert(nonce).values({**ROW, "jti": str(number)}))
            return number

        return database.together(insert)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(change, range(400))) == list(range(400))
    assert len(begun) < 300
    with database.read() as connection:
        assert count(connection) == 400


def test_a_change_that_fails_takes_no_other_with_it(database: Database) -> None:
    barrier = threading.Barrier(16)

    def change(number: int) -> str:
        def insert(connection: Connection) -> str:
            connection.execute(sa.insert(nonce).values({**ROW, "jti": str(number)}))
            if number % 4 == 0:
                raise KeyError(number)
            return "kept"

        barrier.wait()
        try:
            return database.together(insert)
        except KeyError as error:
            assert error.args == (number,)
            return "refused"

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(change, range(64)))
    assert answers == ["refused" if number % 4 == 0 else "kept" for number in range(64)]
    with database.read() as connection:
        assert {int(one) for one in connection.scalars(sa.select(nonce.c.jti))} == {n for n in range(64) if n % 4}


def test_a_database_that_fails_fails_all_who_wait(database: Database) -> None:
    def wrong(connection: Connection) -> None:
        connection.execute(sa.text("SELECT * FROM nowhere"))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(database.together, wrong) for _ in range(8)]:
            with pytest.raises(StorageError, match="nowhere"):
                done.result()
    assert database.together(count) == 0


def test_a_failure_is_a_storage_error_that_names_no_values(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.insert(nonce).values(ROW))
    with pytest.raises(StorageError, match=r"(?i)unique") as caught, database.write() as connection:
        connection.execute(sa.insert(nonce).values(ROW))
    assert "iasi" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://root:geheim@host/x", "sqlite://", "sqlite:///:memory:"])
def test_other_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="database URL") as caught:
        open_database(url, [])
    assert "geheim" not in str(caught.value)


def test_a_server_that_is_not_there_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="database failed"):
        open_database("postgresql+psycopg://nobody@127.0.0.1:1/none", [])
    with pytest.raises(StorageError, match="database failed"):
        open_database("sqlite:////nonexistent/folder/x.db", [])


def test_a_restarted_server_is_used_again(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(f"postgresql://{postgresql}/postgres", [])
    with database.read() as connection:
        assert count(connection) == 0
    with psycopg.connect(f"postgresql://{postgresql}/postgres", autocommit=True) as killer:
        killer.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'usmed'")
    # As after a second in which nobody used the connection.
    monkeypatch.setattr(storage, "IDLE_S", 0)
    with database.read() as connection:
        assert count(connection) == 0
    database.close()


def test_a_connection_that_broke_under_a_statement_is_not_used_again(postgresql: str) -> None:
    database = open_database(f"postgresql://{postgresql}/postgres", [])
    read = Statement(sa.select(sa.func.count()).select_from(nonce))
    for transaction in (database.read, database.write):
        with pytest.raises(StorageError), transaction() as connection:
            read.run(connection)
            with psycopg.connect(f"postgresql://{postgresql}/postgres", autocommit=True) as killer:
                killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'usmed'"
                )
            read.run(connection)
        with transaction() as connection:
            assert read.run(connection) == [(0,)]
    database.close()


def test_the_files_path_may_hold_anything(tmp_path: Path) -> None:
    folder = tmp_path / "spațiu %s %(here)s"
    folder.mkdir()
    open_database(f"sqlite:///{folder / 'x.db'}", [HUB_CHAIN]).close()
    assert (folder / "x.db").exists()


def test_migrations_from_empty_reach_the_newest_and_then_do_nothing(database_url: str) -> None:
    for _ in range(2):
        database = open_database(database_url, [HUB_CHAIN])
        with database.read() as connection:
            assert _revision(connection, PLATFORM_CHAIN) == "r0007"
            assert _revision(connection, HUB_CHAIN) == "r0010"
        database.close()


@pytest.mark.parametrize(
    "chain", [PLATFORM_CHAIN, HUB_CHAIN, "usmed.hospital.migrations", "usmed.keyserver.migrations"]
)
def test_migrations_are_named_by_their_revision(chain: str) -> None:
    """By the names of the files it is known whether there is anything to do."""
    package, _, name = chain.rpartition(".")
    names = sorted(one.name for one in files(package).joinpath(name).iterdir() if one.name.startswith("r"))
    previous = "None"
    for number, file in enumerate(names, start=1):
        code = files(package).joinpath(name, file).read_text()
        assert file.startswith(f"r{number:04d}_")
        assert f'\nrevision = "r{number:04d}"\ndown_revision = {previous}\n' in code
        previous = f'"r{number:04d}"'


def test_the_platform_migrates_from_the_previous_version_with_its_records(bare: Database) -> None:
    with bare.write() as connection:
        migrate(connection, [PLATFORM_CHAIN], "r0001")
        old = sa.table("audit_record", *map(sa.column, ("sequence", "hash", "content")))
        head = ChainHead()
        for patient in ("", "BACAU:9"):
            record = chain_record(AuditEvent(NOW, AuditEventType.LOOKUP, "WS", patient=patient).to_json(), head)
            head = ChainHead(record.sequence, record.hash)
            row = {"sequence": record.sequence, "hash": record.hash, "content": record.content.decode()}
            connection.execute(sa.insert(old).values(row))
        connection.execute(
            sa.update(sa.table("audit_head", sa.column("count"), sa.column("hash"))).values(count=2, hash=head.hash)
        )
    with bare.write() as connection:
        migrate(connection, [PLATFORM_CHAIN])
    log = AuditLog(bare)
    try:
        assert log.verify().unbroken
        assert [event["sequence"] for event in log.tail(patient="BACAU:9")] == [2]
        assert len(ask(bare, Question(agent="WS", event="lookup", outcome="success", since=NOW, until=NOW)).events) == 2
    finally:
        log.close()


def test_the_hub_migrates_from_the_previous_version_with_its_consents(bare: Database) -> None:
    with bare.write() as connection:
        migrate(connection, [PLATFORM_CHAIN])
        migrate(connection, [HUB_CHAIN], "r0001")
        columns = ("id", "version", "status", "issuer", "value", "current", "resource", "recorded")
        consent = sa.table("consent", *map(sa.column, columns))
        row = {"status": "active", "issuer": "BACAU", "value": "9", "resource": "{}", "recorded": 1}
        for version in (1, 2):
            one = {**row, "id": "c", "version": version, "current": version == 2}
            connection.execute(sa.insert(consent).values(one))
    with bare.write() as connection:
        migrate(connection, [HUB_CHAIN])
    with bare.read() as connection:
        change = sa.table("consent_change", *map(sa.column, ("cursor", "issuer", "value")))
        assert connection.execute(sa.select(change)).all() == [(1, "BACAU", "9")]
        assert connection.execute(sa.text("SELECT cursor FROM hub_state")).scalar_one() == 1


def test_the_hub_migrates_from_the_previous_version_with_its_studies(bare: Database) -> None:
    patient = PatientIdentifier("BACAU", "9")
    records = [
        study_record(f"1.{n}", [patient], study_date="20260102", modalities=["SR", "CT"][n % 3 :]) for n in range(1300)
    ]
    with bare.write() as connection:
        migrate(connection, [PLATFORM_CHAIN])
        migrate(connection, [HUB_CHAIN], "r0006")
        columns = "hospital study_instance_uid chart bucket accession_number record"
        old = sa.table("study", *map(sa.column, columns.split()))
        connection.execute(
            sa.text("INSERT INTO chart (hospital, key, birth_date, sex, person) VALUES ('bacau', 'k', '', '', 1)")
        )
        connection.execute(
            sa.insert(old),
            [
                {
                    "hospital": "bacau", "study_instance_uid": one.study_instance_uid, "chart": 1,
                    "bucket": bucket_of(one.study_instance_uid), "accession_number": "A",
                    "record": canonical_json(one.to_json()).decode(),
                }
                for one in records
            ],
        )  # fmt: skip
        for cursor in (1, 2):
            connection.execute(
                sa.text("INSERT INTO consent_change (cursor, issuer, value) VALUES (:cursor, 'BACAU', '9')"),
                {"cursor": cursor},
            )
    with bare.write() as connection:
        migrate(connection, [HUB_CHAIN])
    with bare.read() as connection:
        assert studies.digests(connection, "bacau") == digests(records)
        found = {one.facts.study_instance_uid: one.facts for one in studies.of_charts(connection, [1])}
        assert found.keys() == {one.study_instance_uid for one in records}
        assert found["1.0"].modalities == {"SR", "CT"}
        assert found["1.2"].modalities == set()
        assert found["1.2"].study_date == date(2026, 1, 2)
        assert connection.execute(sa.text("SELECT cursor FROM consent_change")).scalar_one() == 2


def test_a_migration_that_fails_leaves_the_database_as_it_was(bare: Database) -> None:
    with bare.write() as connection:
        connection.execute(sa.text("CREATE TABLE audit_head (id INTEGER)"))
    with pytest.raises(StorageError), bare.write() as connection:
        migrate(connection, [PLATFORM_CHAIN])
    with bare.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["audit_head"]


def test_a_database_of_a_newer_version_is_refused(database: Database, database_url: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text(f"UPDATE {version_table(HUB_CHAIN)} SET version_num = 'r9999'"))
    with pytest.raises(StorageError, match=r"newer version.*usmed\.hub\.migrations is at 'r9999'.*'r0010'"):
        open_database(database_url, [HUB_CHAIN])
    with database.read() as connection:
        assert _revision(connection, HUB_CHAIN) == "r9999"


def test_processes_that_start_at_once_agree(database_url: str) -> None:
    processes = [SPAWN.Process(target=_open_and_close, args=(database_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4


def test_threads_that_start_at_once_agree(new_database_url: Callable[[], str]) -> None:
    url = new_database_url()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _open_and_close(url)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def _open_and_close(url: str) -> None:
    open_database(url, [HUB_CHAIN]).close()


def _revision(connection: Connection, chain: str) -> str:
    return str(connection.execute(sa.text(f"SELECT version_num FROM {version_table(chain)}")).scalar_one())
