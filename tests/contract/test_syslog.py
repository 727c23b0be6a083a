"""The audit log on its way to a syslog server over TLS: framed right, valid, complete through outages and restarts."""

import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lxml import etree

from support.process import eventually
from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.errors import TransportError
from usmed.hospital.store import CHAIN
from usmed.hospital.syslog_feed import REPEATED, SyslogFeed
from usmed.platform.audit_log import append_in
from usmed.platform.keys import generate_certificate
from usmed.platform.storage import Database, open_database
from usmed.platform.syslog import DatagramSender, TlsFiles, TlsSender

NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)
SCHEMA = etree.RelaxNG(file=str(Path(__file__).parents[1] / "support" / "audit-message.rng"))
NAME = "Brâncoveanu-Țepeș"


class Receiver:
    """A TLS server that keeps what it gets; it can be stopped, also in the middle."""

    def __init__(self, folder: Path, port: int = 0, hang_up_after: int = 0) -> None:
        self.certificate = folder / "syslog.pem"
        if not self.certificate.exists():
            key = folder / "syslog.key"
            generate_certificate("127.0.0.1", certificate=self.certificate, key=key, now=datetime.now(UTC))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, folder / "syslog.key")
        self._listener = socket.create_server(("127.0.0.1", port))
        self._context = context
        self.port = self._listener.getsockname()[1]
        self.received = b""
        self._hang_up_after = hang_up_after
        self._open: list[ssl.SSLSocket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                connection = self._context.wrap_socket(plain, server_side=True)
            except OSError:
                plain.close()
                continue
            self._open = [connection]
            with suppress(OSError):
                while data := connection.recv(65536):
                    self.received += data
                    if 0 < self._hang_up_after <= len(self.received):
                        self._hang_up_after = 0
                        break
            connection.close()

    def messages(self) -> list[bytes]:
        """Take the frames apart as RFC 5425 §4.3 says; what is left over belongs to no whole frame."""
        found, rest = [], self.received
        while match := re.match(rb"([1-9]\d*) ", rest):
            length = int(match[1])
            if len(rest) < match.end() + length:
                break
            found.append(rest[match.end() : match.end() + length])
            rest = rest[match.end() + length :]
        else:
            assert rest == b"", rest[:80]
        return found

    def numbers(self) -> list[int]:
        return [number_of(one) for one in self.messages()]

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def number_of(message: bytes) -> int:
    found = re.search(rb'\[meta sequenceId="(\d+)"\]', message)
    assert found is not None
    return int(found[1])


def put(database: Database, count: int) -> None:
    with database.write() as connection:
        append_in(connection, [AuditEvent(NOW, AuditEventType.LOOKUP, NAME, patient=f"A:{n}") for n in range(count)])


@pytest.fixture
def database(new_database_url: Callable[[], str]) -> Iterator[Database]:
    opened = open_database(new_database_url(), [CHAIN])
    yield opened
    opened.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    running = Receiver(tmp_path)
    yield running
    running.stop()


def sender_to(receiver: Receiver) -> TlsSender:
    return TlsSender("127.0.0.1", receiver.port, TlsFiles(authority=str(receiver.certificate)), timeout_s=5)


def feed_to(database: Database, receiver: Receiver, pause: Callable[[float], bool] | None = None) -> SyslogFeed:
    return SyslogFeed(hospital="iasi", database=database, sender=sender_to(receiver), pause=pause)


def send_all(feed: SyslogFeed) -> None:
    while feed.send():
        pass


def test_every_record_arrives_once_framed_and_valid(database: Database, receiver: Receiver) -> None:
    put(database, 250)
    feed = feed_to(database, receiver)
    assert feed.state().waiting == 250
    send_all(feed)
    eventually(lambda: len(receiver.messages()) == 250, 10, "250 messages")
    assert receiver.numbers() == list(range(1, 251))
    for message in receiver.messages():
        header, _, body = message.partition(b"\xef\xbb\xbf")
        assert re.fullmatch(rb"<85>1 2026-11-22T18:00:00.000000Z \S+ usmed \d+ DICOM\+RFC3881 \[meta [^]]+\] ", header)
        root = etree.fromstring(body)
        SCHEMA.assertValid(root)
        assert root.find("ActiveParticipant").get("UserID") == NAME
    assert (feed.state().sent, feed.state().waiting) == (250, 0)
    feed._sender.close()


def test_the_next_process_goes_on_and_repeats_nothing(database: Database, receiver: Receiver) -> None:
    put(database, 5)
    first = feed_to(database, receiver)
    send_all(first)
    first._sender.close()
    put(database, 3)
    second = feed_to(database, receiver)
    send_all(second)
    eventually(lambda: len(receiver.messages()) == 8, 10, "8 messages")
    assert receiver.numbers() == list(range(1, 9))
    second._sender.close()


def test_an_outage_loses_nothing_and_repeats_little(database: Database, tmp_path: Path) -> None:
    first = Receiver(tmp_path)
    feed = feed_to(database, first)
    put(database, 300)
    send_all(feed)
    eventually(lambda: len(first.messages()) == 300, 10, "all")
    first.stop()
    put(database, 50)
    with pytest.raises(TransportError):
        feed.send()
    assert feed.state().sent == 300
    second = Receiver(tmp_path, first.port)
    send_all(feed)
    eventually(lambda: second.numbers()[-1:] == [350], 10, "the rest")
    assert second.numbers() == list(range(301 - REPEATED, 351))
    feed._sender.close()
    second.stop()


def test_a_server_that_hangs_up_in_the_middle_gets_it_all_in_the_end(database: Database, tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, hang_up_after=30_000)
    feed = feed_to(database, receiver)
    put(database, 400)
    for _ in range(20):
        try:
            if not feed.send():
                break
        except TransportError:
            # What was cut off there would stand between two frames here.
            receiver.received = b"".join(b"%d %b" % (len(one), one) for one in receiver.messages())
    eventually(lambda: set(receiver.numbers()) == set(range(1, 401)), 10, "all")
    assert len(receiver.numbers()) <= 400 + 3 * REPEATED
    feed._sender.close()
    receiver.stop()


def test_it_waits_longer_and_longer_and_says_why(database: Database) -> None:
    put(database, 1)
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 9

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sender = TlsSender("127.0.0.1", port, TlsFiles())
    feed = SyslogFeed(hospital="iasi", database=database, sender=sender, pause=pause)
    feed.start()
    eventually(lambda: len(pauses) == 9, 20, "tries")
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert feed.state().problem == f"syslog 127.0.0.1:{port}: Connection refused"
    assert (feed.state().sent, feed.state().waiting) == (0, 1)


def test_another_server_than_the_one_meant_gets_nothing(
    database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    put(database, 1)
    other = tmp_path / "other"
    other.mkdir()
    generate_certificate("127.0.0.1", certificate=other / "a.pem", key=other / "a.key", now=datetime.now(UTC))
    for authority in ("", str(other / "a.pem")):
        feed = SyslogFeed(
            hospital="iasi", database=database, sender=TlsSender("127.0.0.1", receiver.port, TlsFiles(authority))
        )
        with pytest.raises(TransportError, match="certificate"):
            feed.send()
    assert receiver.received == b""
    assert feed.state().sent == 0


def test_datagrams_carry_one_message_each(database: Database) -> None:
    put(database, 3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        sender = DatagramSender("127.0.0.1", server.getsockname()[1])
        send_all(SyslogFeed(hospital="iasi", database=database, sender=sender))
        got = [server.recv(65536) for _ in range(3)]
    assert [number_of(one) for one in got] == [1, 2, 3]
    assert NAME.encode() in got[0]


def test_rsyslog_takes_the_messages_over_tls(database: Database, tmp_path: Path) -> None:
    program = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"
    # Without it the promise would go untested, silently: a missing server fails, it does not skip.
    assert Path(program).exists(), "rsyslog and rsyslog-gnutls are not installed"
    certificate, key, out = tmp_path / "rs.pem", tmp_path / "rs.key", tmp_path / "audit.log"
    generate_certificate("127.0.0.1", certificate=certificate, key=key, now=datetime.now(UTC))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (tmp_path / "rsyslog.conf").write_text(f"""
global(workDirectory="{tmp_path}" maxMessageSize="64k"
       defaultNetstreamDriverCAFile="{certificate}" defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon")
template(name="whole" type="string" string="%app-name% %msgid% %structured-data% %msg%\\n")
input(type="imtcp" port="{port}" address="127.0.0.1")
action(type="omfile" file="{out}" template="whole")
""")
    arguments = ["-n", "-f", tmp_path / "rsyslog.conf", "-i", tmp_path / "pid"]
    running = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        put(database, 120)
        sender = TlsSender("127.0.0.1", port, TlsFiles(authority=str(certificate)))
        feed = SyslogFeed(hospital="iasi", database=database, sender=sender)

        def sent() -> bool:
            try:
                send_all(feed)
            except TransportError:
                return False
            return True

        eventually(sent, 20, "rsyslog listens")
        eventually(lambda: out.exists() and len(out.read_bytes().splitlines()) >= 120, 20, "written")
        lines = out.read_text("utf-8").splitlines()
        assert [number_of(one.encode()) for one in lines] == list(range(1, 121))
        for line in lines:
            assert line.startswith("usmed DICOM+RFC3881 [meta sequenceId=")
            SCHEMA.assertValid(etree.fromstring(line[line.index("<?xml") :].encode()))
            assert NAME in line
        sender.close()
    finally:
        running.terminate()
        running.communicate(timeout=20)
