"""Notices to patients: an address counts once its owner typed the code; it is told that, and not what, happened."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from contract.hub_region import Region, running_region, study
from contract.portal_patients import Patient
from simulators.mail_server import mail_server
from simulators.sms_gateway import sms_gateway
from support.process import eventually
from usmed.domain.contact import CODE_LIFE, CODE_TRIES, CODES_A_DAY, CODES_AN_HOUR, MOST_A_DAY, Channel
from usmed.domain.enrolment import Basis, Guardian
from usmed.platform.keys import generate_certificate
from usmed.platform.mail import MailServer
from usmed.platform.notices import Postman
from usmed.platform.sms import SmsGateway

ANA, LOCAL = ("RO-CNP", "1630615123457"), ("SF-SPIRIDON", "77")
MAIL = MailServer("mail.example", 587, "starttls", "usmed@regiune.example", ())
SMS = SmsGateway("https://sms.example/", "POST", (), "form", "to={to}&text={text}")
PHONE, WRITTEN = "0722 123 456", "+40722123456"
EMAIL = "ana.pop@exemplu.ro"


@pytest.fixture
def region(database_url: str) -> Iterator[Region]:
    with running_region(database_url, mail=MAIL, sms=SMS) as running:
        yield running


@pytest.fixture
def ana(region: Region) -> Patient:
    region.feed("iasi", study("1.2.3", ANA, LOCAL))
    region.feed("bacau", study("1.2.5", ANA, ("BACAU", "5"), modality="US"))
    one = Patient(region, ANA, LOCAL).enrolled()
    region.herald.tell()
    return one


def rows(region: Region, query: str) -> list[Any]:
    with region.database.read() as connection:
        return list(connection.execute(sa.text(query)).all())


def queued(region: Region) -> list[tuple[str, str]]:
    """Return what waits to be sent, to whom, and take it out."""
    found = rows(region, "SELECT recipient, subject, body FROM notice ORDER BY queued, recipient, id")
    with region.database.write() as connection:
        connection.execute(sa.text("DELETE FROM notice"))
    return [(row.recipient, f"{row.subject}\n{row.body}") for row in found]


def told(region: Region) -> list[str]:
    """Let the herald work; return to whom there are notices now."""
    while region.herald.tell():
        pass
    return [recipient for recipient, _ in queued(region)]


def code(region: Region, recipient: str) -> str:
    """Read the code that was sent last."""
    texts = [text for to, text in queued(region) if to == recipient]
    found = re.search(r"\b\d{6}\b", texts[-1])
    assert found is not None
    return found[0]


def places(patient: Patient, channel: str) -> list[str]:
    """Return the ids of the addresses on the page."""
    return re.findall(rf"/notices/{channel}/([0-9a-f]{{32}})/remove", patient.read("/notices"))


def type_code(patient: Patient, channel: str, text: str) -> Any:
    (id,) = re.findall(rf"/notices/{channel}/([0-9a-f]{{32}})/code", patient.read("/notices"))
    return patient.submit(f"/notices/{channel}/{id}/code", code=text)


def enter(patient: Patient, channel: str, address: str) -> None:
    answer = patient.submit(f"/notices/{channel}", address=address)
    assert answer.status_code == 302, answer.text


def confirmed(patient: Patient, channel: str = "sms", address: str = PHONE, written: str = WRITTEN) -> None:
    enter(patient, channel, address)
    answer = type_code(patient, channel, code(patient.region, written))
    assert answer.status_code == 302, answer.text


def asks(region: Region, number: int = 1, of: tuple[str, str] = ANA, hospital: str = "bacau") -> None:
    body = {
        "id": f"11111111-1111-4111-8111-{number:012}", "identifier": {"issuer": of[0], "value": of[1]},
        "purpose": "TREAT", "department": f"Radiologie {number}", "role": "medic",
    }  # fmt: skip
    assert region.post(hospital, "/v1/requests", body) == {"state": "open"}


def looks(region: Region, sequence: int, purpose: str = "TREAT") -> None:
    access = {
        "sequence": sequence, "at": int(region.clock().timestamp()), "patient": {"issuer": ANA[0], "value": ANA[1]},
        "recipient": "bacau", "role": "radiolog", "purpose": purpose, "study_instance_uid": "1.2.3", "consents": [],
    }  # fmt: skip
    assert region.post("iasi", "/v1/accesses", {"accesses": [access]}) == {"taken": 1, "problems": []}


# ---- An address ----


@pytest.mark.parametrize(("channel", "address", "written"), [("sms", PHONE, WRITTEN), ("email", EMAIL, EMAIL)])
def test_an_address_counts_once_the_code_was_typed(ana: Patient, channel: str, address: str, written: str) -> None:
    region = ana.region
    assert "Vreți să fiți anunțat" in ana.read("/")
    enter(ana, channel, address)
    asks(region, 1)
    sent = code(region, written)
    assert told(region) == [], "nobody confirmed the address yet"
    assert type_code(ana, channel, sent).status_code == 302
    assert "confirmată" in ana.read("/notices")
    asks(region, 2)
    assert told(region) == [written]
    assert "Vreți să fiți anunțat" not in ana.read("/")


def test_a_wrong_code_is_counted_and_the_last_one_ends_it(ana: Patient) -> None:
    enter(ana, "sms", PHONE)
    sent = code(ana.region, WRITTEN)
    wrong = f"{(int(sent) + 1) % 1_000_000:06}"
    malformed = type_code(ana, "sms", "12 34")
    assert (malformed.status_code, "Codul are 6 cifre" in malformed.text) == (400, True)
    for _ in range(CODE_TRIES):
        answer = type_code(ana, "sms", wrong)
        assert (answer.status_code, "Nu este codul" in answer.text) == (403, True)
    page = ana.read("/notices")
    assert "Codul nu mai este bun" in page
    (id,) = places(ana, "sms")
    assert ana.submit(f"/notices/sms/{id}/code", code=sent).status_code == 403, "the right one, too late"
    refused = [one["reason"] for one in ana.region.audit.tail(100) if one["event"] == "refused"]
    assert refused.count("wrong-code") == CODE_TRIES
    assert refused.count("code-over") == 1
    # A new code begins anew.
    assert ana.submit(f"/notices/sms/{id}/again").status_code == 302
    assert type_code(ana, "sms", code(ana.region, WRITTEN)).status_code == 302


def test_a_code_lives_short_and_the_one_before_counts_no_more(ana: Patient) -> None:
    enter(ana, "sms", PHONE)
    first, (id,) = code(ana.region, WRITTEN), places(ana, "sms")
    ana.submit(f"/notices/sms/{id}/again")
    second = code(ana.region, WRITTEN)
    if first != second:
        assert type_code(ana, "sms", first).status_code == 403
    ana.region.clock.advance(CODE_LIFE.total_seconds())
    assert ana.submit(f"/notices/sms/{id}/code", code=second).status_code == 403


@pytest.mark.parametrize(("channel", "typed"), [("sms", "0232 123 456"), ("email", "ana@@exemplu"), ("email", "")])
def test_what_is_no_address_is_said_and_stays_typed(ana: Patient, channel: str, typed: str) -> None:
    answer = ana.submit(f"/notices/{channel}", address=typed)
    assert answer.status_code == 400
    assert f'value="{typed}"' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert queued(ana.region) == []
    assert ana.region.audit.tail(1)[0]["event"] == "refused"
    if typed:
        assert typed not in str(ana.region.audit.tail(100))


def test_an_address_that_nobody_confirms_is_gone_in_a_day(ana: Patient) -> None:
    enter(ana, "sms", PHONE)
    ana.region.clock.advance(86400)
    ana.log_in()
    assert places(ana, "sms") == []
    ana.region.contacts.tidy()
    assert rows(ana.region, "SELECT address FROM contact") == []


def test_the_old_address_stays_until_the_new_one_is_confirmed(ana: Patient) -> None:
    confirmed(ana)
    enter(ana, "sms", "0744 000 111")
    sent = code(ana.region, "+40744000111")
    asks(ana.region, 1)
    assert told(ana.region) == [WRITTEN]
    assert type_code(ana, "sms", sent).status_code == 302
    asks(ana.region, 2)
    assert told(ana.region) == ["+40744000111"]
    assert len(places(ana, "sms")) == 1


def test_what_is_removed_is_gone_with_what_waits(ana: Patient) -> None:
    region = ana.region
    confirmed(ana)
    asks(region)
    while region.herald.tell():
        pass
    (id,) = places(ana, "sms")
    assert ana.submit(f"/notices/sms/{id}/remove").status_code == 302
    for table in ("contact", "notice", "contact_code", "contact_cause", "contact_number"):
        assert "722123456" not in str(rows(region, f"SELECT * FROM {table}"))
    assert queued(region) == []
    assert "722123456" not in str(region.audit.tail(1000))
    again = ana.submit(f"/notices/sms/{id}/remove")
    assert again.status_code == 403


# ---- Nobody is flooded ----


def test_so_many_codes_an_hour_for_one_person(ana: Patient) -> None:
    for number in range(CODES_AN_HOUR):
        enter(ana, "sms", f"072200000{number}")
    answer = ana.submit("/notices/email", address=EMAIL)
    assert (answer.status_code, "prea multe coduri" in answer.text) == (403, True)
    assert f'value="{EMAIL}"' in answer.text
    assert rows(ana.region, "SELECT id FROM contact WHERE channel = 'email'") == [], "and nothing is kept"
    assert "too-many-codes" in str(ana.region.audit.tail(1)[0]["reason"])
    ana.region.clock.advance(3600)
    ana.log_in()
    enter(ana, "email", EMAIL)


def test_so_many_codes_a_day_to_one_address_whoever_asks(ana: Patient) -> None:
    region = ana.region
    for number in range(CODES_A_DAY):
        region.clock.advance(3601 if number % CODES_AN_HOUR == 0 else 1)
        ana.log_in()
        enter(ana, "sms", PHONE)
        (id,) = places(ana, "sms")
        ana.submit(f"/notices/sms/{id}/remove")
    other = Patient(region, ("SUCEAVA", "9"), name="another-passkey!", address="203.0.113.9").enrolled("suceava")
    answer = other.submit("/notices/sms", address="+40 722 123 456")
    assert (answer.status_code, "La această adresă" in answer.text) == (403, True)
    region.clock.advance(86400)
    other.log_in()
    enter(other, "sms", PHONE)


def test_so_many_notices_a_day_but_an_emergency_always(ana: Patient) -> None:
    region = ana.region
    confirmed(ana)
    consents = [region.permit(*ANA) for _ in range(MOST_A_DAY + 2)]
    assert told(region) == [WRITTEN] * MOST_A_DAY
    looks(region, 1, "ETREAT")
    assert told(region) == [WRITTEN]
    region.clock.advance(86400)
    region.withdraw(consents[0])
    assert told(region) == [WRITTEN]


# ---- What is told ----


def test_whoever_looked_is_told_once_a_day_and_an_emergency_once_an_hour(ana: Patient) -> None:
    region = ana.region
    confirmed(ana)
    expected = [(0, "TREAT", 1), (3600, "TREAT", 0), (10, "ETREAT", 1), (10, "ETREAT", 0), (3600, "ETREAT", 1)]
    for sequence, (later_s, purpose, count) in enumerate([*expected, (86400, "TREAT", 1)]):
        region.clock.advance(later_s)
        looks(region, sequence, purpose)
        assert len(told(region)) == count, (sequence, purpose)
    # What a hospital sends again is nothing new.
    region.clock.advance(2 * 86400)
    access = {
        "sequence": 1, "at": int(region.clock().timestamp()) - 2 * 86400, "consents": [], "recipient": "bacau",
        "patient": {"issuer": ANA[0], "value": ANA[1]}, "role": "radiolog", "purpose": "TREAT",
        "study_instance_uid": "1.2.3",
    }  # fmt: skip
    for count in (1, 0):
        region.clock.advance(86400)
        assert region.post("iasi", "/v1/accesses", {"accesses": [access]}) == {"taken": 1, "problems": []}
        assert len(told(region)) == count


def test_people_choose_what_they_are_told_of(ana: Patient) -> None:
    region = ana.region
    confirmed(ana)
    assert ana.submit("/notices/topics", topic=["consent"]).status_code == 302
    asks(region)
    looks(region, 1)
    assert told(region) == []
    consent = region.permit(*ANA)
    assert told(region) == [WRITTEN]
    region.withdraw(consent)
    assert told(region) == [WRITTEN]
    assert ana.submit("/notices/topics").status_code == 302
    region.permit(*ANA)
    assert told(region) == []
    looks(region, 2, "ETREAT")
    assert told(region) == [WRITTEN], "an emergency is always told"


def test_a_new_phone_and_a_blocked_one_are_told(ana: Patient) -> None:
    region = ana.region
    confirmed(ana)
    new = Patient(region, ANA, LOCAL, name="a-second-passkey").answered().confirmed()
    assert told(region) == [WRITTEN]
    new.bring("iasi", revoked=[ana.phone.id])
    assert told(region) == [WRITTEN]
    # The address is the person's, not the phone's.
    asks(region)
    assert told(region) == [WRITTEN]
    new.read("/enrol/done")
    assert places(new, "sms")


def test_a_request_under_another_of_the_persons_numbers_is_told(ana: Patient) -> None:
    confirmed(ana)
    asks(ana.region, of=("BACAU", "5"))
    assert told(ana.region) == [WRITTEN]
    asks(ana.region, 2, of=("BACAU", "6"))
    assert told(ana.region) == [], "another person's"


def test_nobody_is_told_of_charts_that_contradict_the_person(ana: Patient) -> None:
    confirmed(ana)
    region = ana.region
    # A study under two people's numbers joins them at the hub; the portal leaves such a chart out, and so do notices.
    region.feed("suceava", study("1.2.9", ("SUCEAVA", "9"), ANA, birth_date="20010101"))
    asks(region, of=("SUCEAVA", "9"), hospital="suceava")
    shown = "vrea să vă vadă" in ana.read("/")
    assert (told(region) == [WRITTEN]) is shown


def test_both_ways_are_used_in_the_language_of_the_person(ana: Patient) -> None:
    region = ana.region
    confirmed(ana)
    confirmed(ana, "email", EMAIL, EMAIL)
    asks(region)
    region.herald.tell()
    sent = dict(queued(region))
    assert set(sent) == {EMAIL, WRITTEN}
    assert "Aveți o întrebare nouă în portalul USMED" in sent[EMAIL]
    assert sent[WRITTEN].strip() == "Aveti o intrebare noua in portalul USMED: https://portal.example/portal/"
    assert ana.browser.post(
        "/portal/notices/topics?lang=en", base_url=ana.origin, headers={"Origin": ana.origin},
        data={"csrf": ana.csrf, "topic": "asked"},
    ).status_code == 302  # fmt: skip
    asks(region, 2)
    region.herald.tell()
    assert "You have a new question" in dict(queued(region))[EMAIL]


def test_no_notice_says_what_it_is_about(ana: Patient) -> None:
    region = ana.region
    confirmed(ana)
    confirmed(ana, "email", EMAIL, EMAIL)
    asks(region)
    looks(region, 1)
    looks(region, 2, "ETREAT")
    region.permit(*ANA)
    Patient(region, ANA, LOCAL, name="a-second-passkey").answered().confirmed()
    while region.herald.tell():
        pass
    texts = [text for _, text in queued(region)]
    assert len(texts) == 10
    for secret in ("acau", "asi", "Spiridon", "Radiologie", "radiolog", "1.2.3", ANA[1], "77", "11111111"):
        assert not [text for text in texts if secret in text], secret


# ---- Whose it is ----


def test_nobody_sees_or_touches_anothers_address(ana: Patient) -> None:
    confirmed(ana)
    (id,) = places(ana, "sms")
    ion = Patient(ana.region, ("SUCEAVA", "9"), name="another-passkey!", address="203.0.113.9").enrolled("suceava")
    assert places(ion, "sms") == []
    for what in ("remove", "again", "code"):
        assert ion.submit(f"/notices/sms/{id}/{what}", code="000000").status_code == 403
    ion.submit("/notices/topics", topic=[])
    asks(ana.region)
    assert told(ana.region) == [WRITTEN]


def test_who_acts_for_a_child_is_told_as_long_as_that_holds(region: Region) -> None:
    region.feed("iasi", study("1.2.3", ANA, LOCAL))
    until = region.clock().replace(microsecond=0) + timedelta(days=30)
    guardian = {"basis": "parent", "until": int(until.timestamp())}
    mother = Patient(region, ANA, LOCAL).answered(guardian=guardian)
    mother.confirmed(guardian=Guardian(Basis.PARENT, until))
    mother.read("/enrol/done")
    told(region)
    confirmed(mother)
    asks(region)
    assert told(region) == [WRITTEN]
    region.clock.advance(31 * 86400)
    asks(region, 2)
    assert told(region) == []
    assert rows(region, "SELECT id FROM contact") == [], "and the address is forgotten"


def test_without_a_gateway_nothing_is_noted(database_url: str) -> None:
    with running_region(database_url) as region:
        region.feed("iasi", study("1.2.3", ANA, LOCAL))
        ana = Patient(region, ANA, LOCAL).enrolled()
        asks(region)
        assert rows(region, "SELECT id FROM contact_cause") == []
        assert "nu trimite încă notificări" in ana.read("/notices")
        assert "/portal/notices" not in ana.read("/")
        assert ana.submit("/notices/sms", address=PHONE).status_code == 404


def test_it_is_noted_for_every_number_in_the_same_way(ana: Patient) -> None:
    told(ana.region)
    asks(ana.region, of=("BACAU", "nobody"))
    assert [row.value for row in rows(ana.region, "SELECT value FROM contact_cause")] == ["nobody"]


# ---- Real gateways ----


def test_a_gateway_that_is_down_or_refuses_is_said_at_the_address(
    new_database_url: Callable[[], str], tmp_path: Path
) -> None:
    certificate = tmp_path / "mail.pem"
    generate_certificate("localhost", certificate=certificate, key=Path(f"{certificate}.key"), now=datetime.now(UTC))
    with mail_server(certificate) as mail, sms_gateway() as sms:
        by_mail = MailServer("localhost", mail.port, "starttls", "usmed@regiune.example", (), ca_file=str(certificate))
        by_sms = SmsGateway(sms.url, "POST", (), "form", "to={to}&text={text}")
        with running_region(new_database_url(), mail=by_mail, sms=by_sms) as region:
            region.feed("iasi", study("1.2.3", ANA, LOCAL))
            ana = Patient(region, ANA, LOCAL).enrolled()
            region.herald.tell()
            postmen = [
                Postman(region.database, way, region.clock, poll_s=0.02, settled=region.contacts.settled(channel))
                for channel, way in ((Channel.EMAIL, by_mail), (Channel.SMS, by_sms))
            ]
            try:
                enter(ana, "sms", PHONE)
                enter(ana, "email", EMAIL)
                eventually(lambda: mail.messages and sms.messages, 10, "codes arrive")
                for channel, text in (("sms", sms.messages[0].text), ("email", mail.messages[0].get_content())):
                    found = re.search(r"\b\d{6}\b", text)
                    assert found is not None
                    assert type_code(ana, channel, found[0]).status_code == 302
                sms.refuses, page = {WRITTEN}, ana.read("/notices")
                assert "nu a putut fi trimisă" not in page
                asks(region)
                region.herald.tell()
                eventually(lambda: "nu a putut fi trimisă" in ana.read("/notices"), 10, "the page says so")
                eventually(lambda: len(mail.messages) == 2, 10, "the other way goes on")
                assert "întrebare nouă" in mail.messages[1]["Subject"]
                # The next one arrives: nothing is said any more.
                sms.refuses = set()
                region.permit(*ANA)
                region.herald.tell()
                eventually(lambda: len(sms.messages) == 2, 10, "it arrives")
                eventually(lambda: "nu a putut fi trimisă" not in ana.read("/notices"), 10, "the page says so")
            finally:
                for postman in postmen:
                    postman.close()
