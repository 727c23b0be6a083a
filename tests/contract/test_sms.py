"""Notices to one person, by a real HTTP gateway and a real mail server that may misbehave: nobody is flooded."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from simulators.mail_server import mail_server as running_mail_server
from simulators.sms_gateway import SmsGateway as Simulator
from simulators.sms_gateway import sms_gateway as running_gateway
from support.region import eventually, free_port
from usmed.domain.errors import ConfigurationError
from usmed.platform import sms
from usmed.platform.keys import generate_certificate
from usmed.platform.mail import MailServer
from usmed.platform.notices import EMAIL, MOST_UNSURE, SMS, Notice, Outbox, Postman, again_after
from usmed.platform.sms import SmsGateway, sms_gateway
from usmed.platform.storage import Database, open_database

START = datetime(2026, 11, 22, 10, tzinfo=UTC)
ANA, ION = "+40722000001", "+40722000002"
JSON = '{"to": "{to}", "message": {"text": "{text}"}, "flash": false}'


@dataclass
class Clock:
    """A clock that is moved."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Settled:
    """What the sender was told at the end."""

    said: list[tuple[str, bool]] = field(default_factory=list)

    def __call__(self, _connection: Connection, recipient: str, delivered: bool) -> None:
        self.said.append((recipient, delivered))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [])
    yield opened
    opened.close()


@pytest.fixture
def gateway() -> Iterator[Simulator]:
    with running_gateway() as running:
        yield running


def settings(url: str, **changes: Any) -> SmsGateway:
    return replace(SmsGateway(url, "POST", (("Authorization", "Bearer s3cret"),), "json", JSON), **changes)


def put(database: Database, *recipients: str, text: str = "Salut", **more: Any) -> None:
    with database.write() as connection:
        for one in recipients:
            Outbox(database).put_in(connection, Notice("", text, one, more.get("channel", SMS)), START)


def waiting(database: Database) -> int:
    return Outbox(database).waiting()[0]


@pytest.mark.parametrize(("format", "body"), [("json", JSON), ("form", "from=USMED&to={to}&text={text}")])
def test_a_message_arrives_once_whatever_is_in_it(
    database: Database, gateway: Simulator, format: str, body: str
) -> None:
    text, settled = 'a "b" & c=d {to} \\ ă\n+', Settled()
    put(database, ANA, text=text)
    postman = Postman(
        database, settings(gateway.url, format=format, body=body), Clock(), poll_s=0.02, settled=settled
    )
    try:
        eventually(lambda: waiting(database) == 0, 10, "it is sent")
    finally:
        postman.close()
    (message,) = gateway.messages
    assert (message.to, message.text, message.method) == (ANA, text, "POST")
    assert message.headers["Authorization"] == "Bearer s3cret"
    assert settled.said == [(ANA, True)]


def test_a_number_that_is_refused_is_given_up_at_once_and_holds_up_no_other(
    database: Database, gateway: Simulator
) -> None:
    gateway.refuses, settled = {ANA}, Settled()
    put(database, ANA, ION)
    postman = Postman(database, settings(gateway.url), Clock(), poll_s=0.02, settled=settled)
    try:
        eventually(lambda: waiting(database) == 0, 10, "both are settled")
    finally:
        postman.close()
    assert sorted(settled.said) == [(ANA, False), (ION, True)]
    assert [one.to for one in gateway.messages] == [ION]


def test_an_answer_without_the_text_of_a_success_is_none(database: Database, gateway: Simulator) -> None:
    gateway.says, settled = '{"status": "no credit"}', Settled()
    put(database, ANA)
    postman = Postman(database, settings(gateway.url, says="queued"), Clock(), poll_s=0.02, settled=settled)
    try:
        eventually(lambda: settled.said == [(ANA, False)], 10, "it is given up")
    finally:
        postman.close()


LYING: dict[str, dict[str, Any]] = {
    "says 500": {"status": 500}, "cuts": {"cuts": True}, "slow": {"slow_s": 1.0}
}  # fmt: skip


@pytest.mark.parametrize("manner", LYING.values(), ids=LYING)
def test_a_gateway_that_sends_and_says_that_it_did_not_floods_nobody(
    database: Database, gateway: Simulator, monkeypatch: pytest.MonkeyPatch, manner: dict[str, Any]
) -> None:
    monkeypatch.setattr(sms, "TIMEOUT_S", 0.3)
    for name, value in manner.items():
        setattr(gateway, name, value)
    put(database, ANA)
    clock, settled = Clock(), Settled()
    postman = Postman(database, settings(gateway.url), clock, poll_s=0.01, settled=settled)
    try:
        for tries in range(1, MOST_UNSURE + 1):
            eventually(lambda count=tries: len(gateway.messages) == count, 10, f"try {tries}")
            if tries < MOST_UNSURE:
                eventually(lambda count=tries: attempts(database) == count, 10, "it is written down")
                clock.now += again_after(tries)
        eventually(lambda: settled.said == [(ANA, False)], 10, "it is given up")
    finally:
        postman.close()
    assert waiting(database) == 0
    assert len(gateway.messages) == MOST_UNSURE


def attempts(database: Database) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql("SELECT max(attempts) FROM notice").scalar() or 0)


def test_it_waits_while_the_gateway_is_down_and_the_next_try_is_later(database: Database) -> None:
    port, clock, settled = free_port(), Clock(), Settled()
    put(database, ANA)
    down = settings(f"http://127.0.0.1:{port}/sms")
    postman = Postman(database, down, clock, poll_s=0.01, settled=settled)
    try:
        # Nothing was sent, so it may be tried more often than one that may have been.
        for tries in range(1, MOST_UNSURE + 2):
            eventually(lambda count=tries: attempts(database) == count, 10, f"try {tries}")
            time.sleep(0.1)
            assert attempts(database) == tries
            clock.now += again_after(tries - 1)
        with running_gateway(port=port) as back:
            eventually(lambda: settled.said == [(ANA, True)], 20, "the gateway is back")
            assert back.texts_to(ANA) == ["Salut"]
    finally:
        postman.close()


def test_no_more_than_so_many_go_out_in_a_day(database: Database, gateway: Simulator) -> None:
    put(database, *(f"+4072200000{one}" for one in range(5)))
    clock = Clock()
    postman = Postman(database, settings(gateway.url, most_a_day=3), clock, poll_s=0.01)
    try:
        eventually(lambda: waiting(database) == 2, 10, "three went out")
        time.sleep(0.2)
        assert len(gateway.messages) == 3
        clock.now += timedelta(days=1)
        eventually(lambda: waiting(database) == 0, 10, "the next day")
    finally:
        postman.close()
    assert len(gateway.messages) == 5


def test_a_mail_server_that_refuses_an_address_is_not_asked_again(database: Database, tmp_path: Path) -> None:
    certificate, settled = tmp_path / "mail.pem", Settled()
    generate_certificate("localhost", certificate=certificate, key=Path(f"{certificate}.key"), now=datetime.now(UTC))
    with database.write() as connection:
        outbox = Outbox(database)
        outbox.put_in(connection, Notice("unwanted", "x", "gone@example.org"), START)
        outbox.put_in(connection, Notice("Salut", "x", "ana@example.org"), START)
        outbox.put_in(connection, Notice("Salut", "x", "b@example.org", SMS), START)
    with running_mail_server(certificate) as server:
        server.refuse = "unwanted"
        mail = MailServer("localhost", server.port, "starttls", "usmed@example.org", (), ca_file=str(certificate))
        postman = Postman(database, mail, Clock(), poll_s=0.02, settled=settled)
        try:
            eventually(lambda: len(settled.said) == 2, 10, "both are settled")
        finally:
            postman.close()
    assert sorted(settled.said) == [("ana@example.org", True), ("gone@example.org", False)]
    assert server.recipients == ["ana@example.org"]
    assert waiting(database) == 1, "an SMS is not the mail server's"


def test_nothing_of_an_address_is_logged(
    database: Database, gateway: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.refuses, settled = {ANA}, Settled()
    put(database, ANA)
    postman = Postman(database, settings(gateway.url), Clock(), poll_s=0.02, settled=settled)
    try:
        eventually(lambda: bool(settled.said), 10, "it is given up")
    finally:
        postman.close()
    assert "400" in caplog.text
    assert ANA not in caplog.text
    assert "s3cret" not in caplog.text


def test_whoever_leaves_is_forgotten(database: Database) -> None:
    put(database, ANA, ION)
    with database.write() as connection:
        Outbox(database).forget(connection, SMS, ANA)
        Outbox(database).forget(connection, EMAIL, ION)
    assert waiting(database) == 1


GIVEN = {"USMED_SMS_URL": "https://sms.example/send", "USMED_SMS_BODY": JSON}
FAULTS = {
    "a password over http": {"USMED_SMS_URL": "http://sms.example/send"},
    "a password in the address": {"USMED_SMS_URL": "https://a:b@sms.example/"},
    "no address": {"USMED_SMS_URL": "https://"},
    "not JSON": {"USMED_SMS_BODY": "to={to}&text={text}"},
    "no text": {"USMED_SMS_BODY": '{"to": "{to}"}'},
    "the number as a name": {"USMED_SMS_BODY": '{"{to}": "{text}"}'},
    "not a form": {"USMED_SMS_FORMAT": "form"},
    "another method": {"USMED_SMS_METHOD": "GET"},
    "an error as a success": {"USMED_SMS_SUCCESS": "200,500"},
    "a secret in the environment": {"USMED_SMS_HEADERS": "A: b"},
    "no number": {"USMED_SMS_MOST_A_DAY": "0"},
    "no certificate": {"USMED_SMS_CA_FILE": "/nowhere"},
}


@pytest.mark.parametrize("changes", FAULTS.values(), ids=FAULTS)
def test_settings_that_are_wrong_are_said(changes: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(changes)) if "FORMAT" not in str(changes) else "BODY"):
        sms_gateway({**GIVEN, **changes})


def test_settings(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("Authorization: Bearer s3cret\nX-Account: 7\n", "utf-8")
    one = sms_gateway({
        **GIVEN, "USMED_SMS_HEADERS_FILE": str(tmp_path / "headers"), "USMED_SMS_SUCCESS": "200, 202",
        "USMED_SMS_SUCCESS_TEXT": "queued", "USMED_SMS_MOST_A_DAY": "50",
    })  # fmt: skip
    assert one is not None
    assert one.headers == (("Authorization", "Bearer s3cret"), ("X-Account", "7"))
    assert (one.statuses, one.says, one.most_a_day, one.method) == (frozenset({200, 202}), "queued", 50, "POST")
    assert sms_gateway({}) is None
    (tmp_path / "url").write_text("https://sms.example/?key=s3cret\n", "utf-8")
    by_file = sms_gateway({"USMED_SMS_URL_FILE": str(tmp_path / "url"), "USMED_SMS_BODY": JSON})
    assert by_file is not None
    assert (by_file.url, by_file.host) == ("https://sms.example/?key=s3cret", "sms.example")
    (tmp_path / "headers").write_text("no header s3cret\n", "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        sms_gateway({**GIVEN, "USMED_SMS_HEADERS_FILE": str(tmp_path / "headers")})
    assert "s3cret" not in str(caught.value)
