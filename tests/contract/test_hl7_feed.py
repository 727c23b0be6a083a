"""HL7 messages over a real line into a real database: each is acknowledged right, kept once, and lost never."""

import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from support.hl7 import END, START, Ack, Sender, adt, block, feed_of
from support.process import eventually, free_port
from usmed.domain.adt import Authorities
from usmed.domain.arrival import Prefetch
from usmed.domain.identifiers import Naming, NationalNumber, PatientIdentifier
from usmed.hospital import mllp_listener
from usmed.hospital.arrival_store import ArrivalStore
from usmed.hospital.hl7_feed import Hl7Feed, Senders
from usmed.hospital.mllp_listener import MllpListener
from usmed.hospital.settings import Hl7Settings
from usmed.hospital.store import CHAIN
from usmed.hospital.wiring_arrivals import tls_context
from usmed.platform.audit_log import AuditLog
from usmed.platform.keys import generate_certificate
from usmed.platform.storage import Database, StorageError, open_database

DAY = date(2026, 11, 22)
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
AUTHORITIES = Authorities(Naming("SPIRIDON", NationalNumber("RO-CNP")), {"HIS": "SPIRIDON", "CNP": "RO-CNP"})
LIMIT = 65536


class Node:
    """The part of a node that takes messages."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.audit = AuditLog(database)
        self.store = ArrivalStore(database)
        self.arrived = 0
        self.port = free_port()
        self.senders: list[Sender] = []
        self.feed = Hl7Feed(
            senders=Senders({"HIS^SPIRIDON": ip_network("127.0.0.1"), "LAB^SPIRIDON": ip_network("127.0.0.2")}),
            authorities=AUTHORITIES,
            processing_id="P",
            character_set="UNICODE UTF-8",
            database=database,
            store=self.store,
            audit=self.audit,
            clock=lambda: NOW,
            today=lambda: DAY,
            arrived=self._arrive,
        )
        self.listener = self.listen(self.port)

    def _arrive(self) -> None:
        self.arrived += 1

    def listen(self, port: int, *, idle_s: float = 30, context: ssl.SSLContext | None = None) -> MllpListener:
        listener = MllpListener(
            self.feed, address="127.0.0.1", port=port, limit_bytes=LIMIT, idle_s=idle_s, context=context
        )
        listener.start()
        return listener

    def sender(self, port: int = 0, source: str = "") -> Sender:
        """Connect."""
        self.senders.append(Sender(port or self.port, source=source))
        return self.senders[-1]

    def names(self) -> list[str]:
        return [one.arrival.name for one in self.store.entries(DAY, None, offset=0, limit=2000)]

    def refusals(self) -> list[str]:
        time.sleep(0.3)
        return [one["reason"] for one in self.audit.tail(5000) if one["event"] == "refused"]

    def close(self) -> None:
        for one in self.senders:
            one.close()
        self.listener.stop()
        self.audit.close()
        self.database.close()


@pytest.fixture
def node(database_url: str) -> Iterator[Node]:
    running = Node(open_database(database_url, [CHAIN]))
    yield running
    running.close()


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Node]:
    """For what has nothing to do with the engine."""
    running = Node(open_database(f"sqlite:///{tmp_path / 'a.db'}", [CHAIN]))
    yield running
    running.close()


@pytest.fixture
def sender(node: Node) -> Sender:
    return node.sender()


def test_an_admission_is_kept_and_a_repeated_message_is_done_once(node: Node, sender: Sender) -> None:
    assert sender.send(adt()) == Ack("AA", "1", "", "", "")
    (entry,) = node.store.entries(DAY, None, offset=0, limit=10)
    assert entry.arrival.name == "Țîrlea^Ștefan^Ion^Dr"
    numbers = {PatientIdentifier("SPIRIDON", "1042"), PatientIdentifier("RO-CNP", "1800101221144")}
    assert entry.arrival.identifiers == numbers
    assert (entry.state, node.arrived) == (Prefetch.WAITING, 1)
    node.store.set(entry.arrival, Prefetch.HERE)
    assert sender.send(adt()).code == "AA"
    assert node.arrived == 1
    assert [one["event"] for one in node.audit.tail()] == ["feed"]
    # the same control id on another message is another message
    assert sender.send(adt(pid={5: "Pop^Ion"})).code == "AA"
    (entry,) = node.store.entries(DAY, None, offset=0, limit=10)
    assert (entry.arrival.name, entry.state) == ("Pop^Ion", Prefetch.HERE)


def test_an_update_changes_who_is_expected_and_makes_nobody_arrive(node: Node, sender: Sender) -> None:
    assert sender.send(adt("A08", "u1")).code == "AA"
    assert node.names() == []
    sender.send(adt("A04", "2"))
    assert sender.send(adt("A08", "u2", pid={5: "Țîrlea^Ștefania", 8: "F", 3: "1042^^^HIS"})).code == "AA"
    (entry,) = node.store.entries(DAY, None, offset=0, limit=10)
    assert (entry.arrival.name, entry.arrival.sex, entry.arrival.time) == ("Țîrlea^Ștefania", "F", "1025")
    assert entry.arrival.identifiers == {PatientIdentifier("SPIRIDON", "1042")}


def test_a_merge_is_noted_for_a_person_and_joins_nothing(node: Node, sender: Sender) -> None:
    sender.send(adt("A04", "1"))
    sender.send(adt("A04", "2", pid={3: "77^^^HIS", 5: "Tirlea^S"}))
    for control_id in ("3", "4"):
        assert sender.send(adt("A40", control_id, more=("MRG|77^^^HIS",))).code == "AA"
    (known,) = node.store.merges()
    assert (known.merge.surviving.value, {one.value for one in known.merge.prior}) == ("1042", {"77"})
    assert len(node.names()) == 2
    recorded = [one for one in node.audit.tail() if one["event"] == "identity"]
    assert [(one["patient"], one["detail"]["prior"]) for one in recorded] == [("SPIRIDON:1042", "SPIRIDON:77")] * 2
    with node.database.write() as connection:
        assert node.store.end_merge(connection, known.id, "done", "ionescu", NOW) is not None
        assert node.store.end_merge(connection, known.id, "done", "ionescu", NOW) is None
    assert node.store.merges() == []


def test_what_is_refused_is_audited_without_the_patients_name(node: Node, sender: Sender) -> None:
    assert sender.send(adt("A03")).code == "AR"
    assert sender.send(adt(pid={3: "", 5: "Popescu"})).code == "AE"
    assert sender.send(adt(msh={18: "KLINGON"}, pid={5: "Popescu"})).error == "103"
    assert sender.send(adt(msh={3: "LAB"})) == Ack(
        "AE", "1", "103", "MSH^1^3", "this sender (MSH-3, MSH-4) is not known at this address"
    )
    refusals = node.refusals()
    assert len(refusals) == 4
    assert any("character set 'KLINGON'" in one for one in refusals)
    assert node.names() == []
    assert "Popescu" not in str(node.audit.tail(100))


def test_nobody_sends_from_an_address_that_is_not_listed(on_sqlite: Node) -> None:
    stranger = on_sqlite.sender(source="127.0.0.3")
    assert stranger.hung_up()
    assert on_sqlite.refusals() == ["no sender of HL7 messages is known at this address"]
    laboratory = on_sqlite.sender(source="127.0.0.2")
    assert laboratory.send(adt(msh={3: "LAB"})).code == "AA"
    assert laboratory.send(adt()).error == "103"


def test_a_database_that_fails_is_no_acknowledgement(on_sqlite: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    sender = on_sqlite.sender()
    monkeypatch.setattr(on_sqlite.store, "arrive", fail)
    assert sender.send(adt()).code == "AR"
    monkeypatch.undo()
    assert on_sqlite.names() == []
    # nothing of it was kept: it is not taken for a repetition
    assert sender.send(adt()).code == "AA"
    assert len(on_sqlite.names()) == 1


def test_silent_and_slow_senders_hold_nobody_up(on_sqlite: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mllp_listener, "MESSAGE_S", 1.0)
    silent = [on_sqlite.sender() for _ in range(3 * mllp_listener.CONNECTIONS)]
    sender = on_sqlite.sender()
    start = time.monotonic()
    assert sender.send(adt()).code == "AA"
    assert time.monotonic() - start < 2
    # one that begins and never ends is hung up on, and it is written down
    slow = on_sqlite.sender()
    slow.raw(START + adt()[:50])
    assert slow.hung_up()
    assert "a message had not ended after 1 s" in on_sqlite.refusals()
    for one in (*silent, sender, slow):
        one.close()
    eventually(lambda: not on_sqlite.listener._lines, 5, "all lines have ended")


def test_a_silent_line_ends_after_its_time(on_sqlite: Node) -> None:
    port = free_port()
    listener = on_sqlite.listen(port, idle_s=1)
    sender = on_sqlite.sender(port)
    assert sender.send(adt()).code == "AA"
    start = time.monotonic()
    assert sender.hung_up()
    assert 0.5 < time.monotonic() - start < 5
    assert on_sqlite.refusals() == []
    listener.stop()


def test_it_ends_at_once_with_lines_open(on_sqlite: Node) -> None:
    lines = [on_sqlite.sender() for _ in range(5)]
    lines[0].raw(START + b"MSH")
    eventually(lambda: len(on_sqlite.listener._lines) == 5, 5, "five lines")
    start = time.monotonic()
    on_sqlite.listener.stop()
    assert time.monotonic() - start < 3
    assert not [one for one in threading.enumerate() if one.name.startswith("hl7")]


def test_tls(on_sqlite: Node, tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    generate_certificate("127.0.0.1", certificate=certificate, key=key, now=datetime.now(UTC))
    files = {"TlsCertificateFile": str(certificate), "TlsPrivateKeyFile": str(key)}
    port = free_port()
    listener = on_sqlite.listen(port, context=tls_context(Hl7Settings(**files)))
    plain = on_sqlite.sender(port)
    plain.raw(block(adt()))
    secure = on_sqlite.sender(port)
    trust = ssl.create_default_context(cafile=str(certificate))
    secure.socket = trust.wrap_socket(secure.socket, server_hostname="127.0.0.1")
    assert secure.send(adt("A01", "2", more=("OBX|1|TX|||" + "x" * 40_000,))).code == "AA"
    secure.close()
    assert plain.hung_up()
    listener.stop()
    port, files["TlsClientAuthoritiesFile"] = free_port(), str(certificate)
    listener = on_sqlite.listen(port, context=tls_context(Hl7Settings(**files)))
    stranger, known = on_sqlite.sender(port), on_sqlite.sender(port)
    stranger.socket = trust.wrap_socket(stranger.socket, server_hostname="127.0.0.1")
    with pytest.raises(OSError, match=r"certificate required|reset"):
        stranger.send(adt("A01", "3"))
    trust.load_cert_chain(certificate, key)
    known.socket = trust.wrap_socket(known.socket, server_hostname="127.0.0.1")
    assert known.send(adt("A01", "4")).code == "AA"
    listener.stop()


def test_a_feed_of_a_thousand_messages_some_broken(node: Node, sender: Sender) -> None:
    feed = feed_of(1000, LIMIT)
    good = [int(id[1:]) for _, code, id in feed if code == "AA"]
    answers = Counter[str]()
    start = time.monotonic()
    for content, code, id in feed:
        sender.raw(content)
        if not code:
            continue
        ack = sender.answer()
        assert (ack.code, ack.control_id) == (code, id), content[:200]
        answers[ack.code] += 1
    print(f"{len(feed)} messages in {time.monotonic() - start:.1f} s: {dict(answers)}")
    assert answers["AA"] == len(good) == 800
    assert min(answers["AE"], answers["AR"]) > 20
    kept = {one.arrival.name for one in node.store.entries(DAY, None, offset=0, limit=2000)}
    assert kept == {f"Șt^{n}" for n in good if n % 3 != 2}
    # Strays are told once each, or with the block that followed them.
    assert len(node.refusals()) >= 200 - 45


def test_what_is_sent_in_one_go_is_answered_in_its_order(on_sqlite: Node) -> None:
    sender = on_sqlite.sender()
    sender.raw(b"".join(block(adt("A04", str(n), pid={3: f"{n}^^^HIS", 7: ""})) for n in range(50)) + START + b"MSH")
    assert [sender.answer().control_id for _ in range(50)] == [str(n) for n in range(50)]
    sender.close()
    assert on_sqlite.refusals()[-1] == "the connection ended in the middle of a message"
    assert END not in sender._received
