"""Notices by e-mail, with a real mail server over TLS: sent, kept while it is down, never in the clear."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from simulators.mail_server import mail_server as running_server
from support.region import eventually, free_port
from usmed.domain.errors import ConfigurationError
from usmed.platform.keys import generate_certificate
from usmed.platform.mail import MailServer, mail_server
from usmed.platform.notices import GIVE_UP, LONGEST_WAIT_S, Notice, Outbox, Postman, wait_s
from usmed.platform.storage import Database, open_database

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
NOTICE = Notice("[USMED keys-1] iasi asks for patients-over-rate", "Compare before you approve: 0000-0000\n")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "mail.pem"
    generate_certificate("localhost", certificate=path, key=Path(f"{path}.key"), now=datetime.now(UTC))
    return path


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [])
    yield opened
    opened.close()


def settings(certificate: Path, port: int, **changes: Any) -> MailServer:
    one = MailServer(
        "localhost", port, "starttls", "usmed@keys-1.example", ("a@example.org", "b@example.org"), "usmed", "parola",
        str(certificate),
    )  # fmt: skip
    return replace(one, **changes)


def put(database: Database, *notices: Notice) -> None:
    for number, one in enumerate(notices):
        with database.write() as connection:
            Outbox(database).put_in(connection, one, NOW + timedelta(seconds=number))


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_notice_arrives_once(database: Database, certificate: Path, security: str) -> None:
    put(database, NOTICE)
    with running_server(certificate, user="usmed", password="parola", tls=security == "tls") as server:
        postman = Postman(database, settings(certificate, server.port, security=security), lambda: NOW, poll_s=0.02)
        try:
            eventually(lambda: Outbox(database).waiting() == (0, ""), 10, "the notice is sent")
        finally:
            postman.close()
    (message,) = server.messages
    assert (message["Subject"], message.get_content().splitlines()) == (NOTICE.subject, NOTICE.body.splitlines())
    assert server.recipients == ["a@example.org", "b@example.org"]
    assert message["Auto-Submitted"] == "auto-generated"


def test_it_waits_while_the_server_is_down(new_database_url: Callable[[], str], certificate: Path) -> None:
    url, port = new_database_url(), free_port()
    database = open_database(url, [])
    put(database, NOTICE)
    postman = Postman(database, settings(certificate, port), lambda: NOW, poll_s=0.02)
    eventually(lambda: "Error" in Outbox(database).waiting()[1], 10, "it was tried")
    postman.close()
    database.close()
    # Also over a restart.
    database = open_database(url, [])
    assert Outbox(database).waiting()[0] == 1
    postman = Postman(database, settings(certificate, port), lambda: NOW, poll_s=0.02)
    try:
        with running_server(certificate, user="usmed", password="parola", port=port) as server:
            eventually(lambda: Outbox(database).waiting()[0] == 0, 10, "the server is back")
    finally:
        postman.close()
        database.close()
    assert len(server.messages) == 1


def test_one_that_is_refused_holds_up_no_other(database: Database, certificate: Path) -> None:
    put(database, replace(NOTICE, subject="unwanted"), NOTICE)
    with running_server(certificate, user="usmed", password="parola") as server:
        server.refuse = "unwanted"
        postman = Postman(database, settings(certificate, server.port), lambda: NOW, poll_s=0.02)
        try:
            eventually(lambda: len(server.messages) == 1 and Outbox(database).waiting()[1], 10, "one arrives")
        finally:
            postman.close()
    count, failure = Outbox(database).waiting()
    assert count == 1
    assert "554" in failure


def test_a_server_that_refuses_everything_is_left_alone_for_longer_and_longer(
    database: Database, certificate: Path
) -> None:
    put(database, replace(NOTICE, subject="unwanted"))
    with running_server(certificate, user="usmed", password="parola") as server:
        server.refuse = "unwanted"
        postman = Postman(database, settings(certificate, server.port), lambda: NOW, poll_s=0.02)
        time.sleep(1.5)
        postman.close()
    with database.read() as connection:
        attempts = connection.exec_driver_sql("SELECT attempts FROM notice").scalar_one()
    # Every 20 ms it would be tried some 70 times.
    assert 2 <= attempts <= 8


WRONG: dict[str, tuple[dict[str, Any], bool, str]] = {
    "no encryption": ({}, False, "STARTTLS"),
    "another's certificate": ({"ca_file": ""}, True, "certificate verify failed"),
    "a wrong password": ({"password": "x"}, True, "535"),
}


@pytest.mark.parametrize(("changes", "offers_tls", "reason"), WRONG.values(), ids=WRONG)
def test_nothing_goes_to_a_server_that_is_not_the_one(
    database: Database, certificate: Path, changes: dict[str, Any], offers_tls: bool, reason: str
) -> None:
    put(database, NOTICE)
    with running_server(certificate, user="usmed", password="parola") as server:
        server.offers_tls = offers_tls
        postman = Postman(database, settings(certificate, server.port, **changes), lambda: NOW, poll_s=0.02)
        try:
            eventually(lambda: reason in Outbox(database).waiting()[1], 10, reason)
        finally:
            postman.close()
        assert server.messages == []


def test_after_a_week_it_is_given_up(database: Database, certificate: Path) -> None:
    put(database, NOTICE)
    later = NOW + GIVE_UP + timedelta(seconds=1)
    postman = Postman(database, settings(certificate, free_port()), lambda: later, poll_s=0.02)
    try:
        eventually(lambda: Outbox(database).waiting()[0] == 0, 10, "given up")
    finally:
        postman.close()


def test_it_is_queued_with_its_cause_or_not_at_all(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as connection:
        Outbox(database).put_in(connection, NOTICE, NOW)
        raise RuntimeError
    assert Outbox(database).waiting() == (0, "")
    with database.write() as connection:
        Outbox(database, wanted=False).put_in(connection, NOTICE, NOW)
    assert Outbox(database).waiting() == (0, "")


def test_it_waits_longer_after_each_failure() -> None:
    assert [wait_s(one, 5) for one in (0, 1, 2, 3)] == [5, 10, 20, 40]
    assert wait_s(50, 5) == LONGEST_WAIT_S


def test_settings(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("parola\n", "utf-8")
    given = {
        "USMED_SMTP_HOST": "mail.example", "USMED_SMTP_FROM": "usmed@example.org",
        "USMED_SMTP_TO": "a@example.org, b@example.org", "USMED_SMTP_USER": "usmed",
        "USMED_SMTP_PASSWORD_FILE": str(tmp_path / "password"),
    }  # fmt: skip
    one = mail_server(given)
    assert one is not None
    assert (one.port, one.security, one.password) == (587, "starttls", "parola")
    assert one.recipients == ("a@example.org", "b@example.org")
    tls = mail_server({**given, "USMED_SMTP_SECURITY": "tls"})
    assert tls is not None
    assert tls.port == 465
    assert mail_server({}) is None
    with pytest.raises(ConfigurationError) as caught:
        mail_server(
            {"USMED_SMTP_HOST": "m", "USMED_SMTP_PORT": "x", "USMED_SMTP_SECURITY": "none", "USMED_SMTP_TO": "a\nb@c",
             "USMED_SMTP_CA_FILE": "/nowhere"}
        )  # fmt: skip
    for name in ("PORT", "SECURITY", "FROM", "TO", "CA_FILE"):
        assert f"USMED_SMTP_{name}" in str(caught.value)
    with pytest.raises(ConfigurationError, match="belong together"):
        mail_server({**given, "USMED_SMTP_USER": ""})
