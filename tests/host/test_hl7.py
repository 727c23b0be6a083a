"""A hospital information system feeds a real node that is killed again and again: nothing is lost or done twice."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from support.hl7 import Sender, feed_of
from support.region import Hospital, Hub, eventually, free_port, running_region
from usmed.hospital.arrival_store import ArrivalStore
from usmed.hospital.store import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import open_database

KILLS = 5


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def node(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder: Path = tmp_path_factory.mktemp("hl7")
    section = {
        "Hl7": {
            "ListenAddress": "127.0.0.1", "Port": port, "Senders": {"HIS^SPIRIDON": "127.0.0.1"},
            "Issuers": {"HIS": "SPIRIDON", "CNP": "RO-CNP"},
        },
        "Pull": {"Automatic": "arrival"},
    }  # fmt: skip
    one = Hospital("spiridon", "Spitalul „Sf. Spiridon”", "SPIRIDON", folder / "spiridon", section=section)
    with running_region(folder, [one], Hub(folder / "hub")):
        yield one


def kept(node: Hospital) -> set[str]:
    """Return the names of everybody who is expected."""
    database = open_database(node.database_url, [CHAIN])
    try:
        today = datetime.now(UTC).date()
        days = [today + timedelta(days=one) for one in (-1, 0, 1)]
        store = ArrivalStore(database)
        return {one.arrival.name for day in days for one in store.entries(day, None, offset=0, limit=2000)}
    finally:
        database.close()


def connected(port: int) -> Sender:
    def try_to() -> Sender | None:
        try:
            return Sender(port)
        except OSError:
            return None

    found = eventually(try_to, 60, "the port for HL7 messages")
    assert found is not None
    return found


def test_a_feed_of_a_thousand_messages_over_kills(node: Hospital, port: int) -> None:
    feed = feed_of(1000, 65536, f"{datetime.now(UTC):%Y%m%d}")
    chance = random.Random(3)
    arrivals = {f"Șt^{id[1:]}" for _, code, id in feed if code == "AA" and int(id[1:]) % 3 != 2}
    answered, acknowledged, killed = Counter[str](), set[str](), 0
    fatal = set(chance.sample([n for n, (_, code, _) in enumerate(feed) if code == "AA"], KILLS))
    sender, start = connected(port), time.monotonic()
    for n, (content, code, id) in enumerate(feed):
        for attempt in range(5):
            try:
                sender.raw(content)
                if attempt == 0 and n in fatal:
                    # Somewhere between taking the message and acknowledging it.
                    threading.Timer(chance.uniform(0, 0.02), node.stop, [signal.SIGKILL]).start()
                    time.sleep(chance.uniform(0, 0.02))
                if code:
                    ack = sender.answer()
                    assert (ack.code, ack.control_id) == (code, id)
                    answered[code] += 1
                    if code == "AA":
                        acknowledged.add(f"Șt^{id[1:]}")
                break
            except OSError:
                sender.close()
                eventually(lambda: node.process is not None and not node.process.running, 20, "the node is dead")
                assert acknowledged & arrivals <= kept(node), "what was acknowledged is on disk"
                killed += 1
                node.start()
                sender = connected(port)
        else:
            raise AssertionError(f"no answer to message {n}")
    sender.close()
    print(f"{len(feed)} messages, {killed} kills, {time.monotonic() - start:.1f} s: {dict(answered)}")
    assert killed >= KILLS - 1
    assert answered["AA"] == 800
    assert kept(node) == arrivals
    database = open_database(node.database_url, [CHAIN])
    audit = AuditLog(database)
    try:
        with database.read() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM hl7_message")) == 800
        told = Counter(one["detail"]["control_id"] for one in audit.tail(20_000) if one["event"] == "feed")
        assert len(told) == 800
        assert set(told.values()) == {1}, "each was done once"
        assert audit.verify().unbroken
    finally:
        audit.close()
        database.close()


def test_the_node_ends_cleanly_with_a_line_open(node: Hospital, port: int) -> None:
    sender = connected(port)
    start = time.monotonic()
    assert node.stop() == 0
    print(f"ended after {time.monotonic() - start:.1f} s")
    assert time.monotonic() - start < 10
    sender.close()
    assert node.process is not None
    assert "has not ended" not in node.process.text()
    node.start()
