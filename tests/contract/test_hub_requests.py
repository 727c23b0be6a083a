"""Requests for consent: nobody learns from them who is known, and the patient answers each once."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from contract.hub_region import CNP, Region, study
from contract.test_hub_invitations import refusal, refused, together
from usmed.domain.canonical import canonical_json
from usmed.domain.consent import Purpose
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub import requests as module
from usmed.hub.requests import Requests

NATIONAL = PatientIdentifier("RO-CNP", CNP)
PATH = "/v1/requests"


def requests(region: Region) -> Requests:
    return Requests(region.database, lambda: region.manifest, region.clock)


def wish(value: str = CNP, issuer: str = "RO-CNP", **changes: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "identifier": {"issuer": issuer, "value": value},
        "purpose": "TREAT",
        "department": "Radiologie și imagistică",
        "role": "medic",
        **changes,
    }


def ask(region: Region, hospital: str = "bacau", **changes: Any) -> str:
    body = wish(**changes)
    assert region.post(hospital, PATH, body) == {"state": "open"}
    return str(body["id"])


def states(region: Region, *ids: str, hospital: str = "bacau") -> list[str]:
    found = region.post(hospital, "/v1/requests/state", {"ids": list(ids)})["states"]
    assert set(found) == set(ids)
    return [found[one] for one in ids]


def test_the_patient_sees_who_asks_and_answers_once(region: Region) -> None:
    id, portal = ask(region), requests(region)
    (one,) = portal.open_for([PatientIdentifier("BACAU", "9"), NATIONAL])
    assert (one.id, one.hospital, one.patient, one.purpose) == (id, "bacau", NATIONAL, Purpose.TREAT)
    assert (one.department, one.role) == ("Radiologie și imagistică", "medic")
    assert (one.asked, one.expires) == (region.clock(), region.clock() + timedelta(days=14))
    assert states(region, id) == ["open"]
    assert portal.answer(id, {NATIONAL}) == one
    assert states(region, id) == ["answered"]
    assert portal.open_for([NATIONAL]) == []
    assert refused(lambda: portal.answer(id, {NATIONAL})) == "unknown-request"
    told = [(event["agent"], event["detail"]["what"]) for event in region.audit.tail() if event["event"] == "consent"]
    assert told == [("bacau", "asked"), ("portal", "answered")]


def test_the_answer_is_the_same_for_known_and_unknown_patients(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    region.permit("RO-CNP", CNP)
    known = [("RO-CNP", CNP), ("SF-SPIRIDON", "7")]
    unknown = [("RO-CNP", "2770214123450"), ("SF-SPIRIDON", "8"), ("NOBODY", "%")]
    answers = {
        region.send("bacau", PATH, canonical_json(wish(value, issuer))).data for issuer, value in known + unknown
    }
    assert answers == {b'{"state":"open"}'}


def test_another_patient_cannot_answer_or_see_it(region: Region) -> None:
    id, portal = ask(region), requests(region)
    others = {PatientIdentifier("RO-CNP", "2770214123450"), PatientIdentifier("BACAU", CNP)}
    assert portal.open_for(others) == []
    assert portal.open_for([]) == []
    for name in (id, id.upper(), str(uuid4()), "", "\0", "\ud800", "x" * 1000):
        assert refused(lambda name=name: portal.answer(name, others)) == "unknown-request"  # type: ignore[misc]
    assert refused(lambda: portal.answer(id, set())) == "unknown-request"
    assert states(region, id) == ["open"]
    denied = [event for event in region.audit.tail() if event["event"] == "refused"]
    assert len(denied) == 8
    assert {(one["agent"], one["outcome"], one["reason"]) for one in denied} == {
        ("portal", "denied", "unknown-request")
    }


def test_of_answers_at_once_one_counts(region: Region) -> None:
    id, portal = ask(region), requests(region)
    codes = together(8, lambda _: portal.answer(id, {NATIONAL}))
    assert codes == ["", *["unknown-request"] * 7]


def test_a_request_sent_again_is_the_same_and_another_under_its_id_is_refused(region: Region) -> None:
    body = wish()
    for _ in range(2):
        assert region.post("bacau", PATH, body) == {"state": "open"}
    assert len(requests(region).open_for([NATIONAL])) == 1
    assert refusal(region, PATH, {**body, "department": "Cardiologie"}, "bacau") == (403, "id-taken")
    assert refusal(region, PATH, body, "iasi") == (403, "id-taken")
    requests(region).answer(body["id"], {NATIONAL})
    assert region.post("bacau", PATH, body) == {"state": "open"}
    assert states(region, body["id"]) == ["answered"]


def test_a_newer_one_of_the_same_department_takes_the_place_of_the_older(region: Region) -> None:
    older, other, elsewhere = ask(region), ask(region, department="Cardiologie"), ask(region, "iasi")
    newer = ask(region)
    assert states(region, older, other, newer) == ["expired", "open", "open"]
    assert {one.id for one in requests(region).open_for([NATIONAL])} == {other, elsewhere, newer}


def test_requests_of_others_are_unknown(region: Region) -> None:
    id = ask(region)
    assert states(region, id, str(uuid4()), hospital="iasi") == ["unknown", "unknown"]


def test_a_request_is_open_for_two_weeks_and_known_for_sixty_days(region: Region) -> None:
    id, portal = ask(region), requests(region)
    region.clock.advance(timedelta(days=14).total_seconds() - 1)
    assert states(region, id) == ["open"]
    region.clock.advance(1)
    assert states(region, id) == ["expired"]
    assert portal.open_for([NATIONAL]) == []
    assert refused(lambda: portal.answer(id, {NATIONAL})) == "unknown-request"
    region.clock.advance(timedelta(days=47).total_seconds())
    ask(region)
    assert states(region, id) == ["unknown"]
    with region.database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM patient_request")).scalar_one() == 1


def test_how_many_are_open_in_an_hour_and_about_one_patient_is_bounded(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_OPEN", 8)
    monkeypatch.setattr(module, "MOST_AN_HOUR", 10)
    for _ in range(5):
        last = ask(region)
    assert refusal(region, PATH, wish(), "bacau") == (403, "too-many")
    ask(region, "iasi")
    requests(region).answer(last, {NATIONAL})
    for n in range(5):
        ask(region, value=str(n), issuer="BACAU")
    hourly = region.send("bacau", PATH, canonical_json(wish("10", "BACAU"))).json
    assert hourly is not None
    assert "within an hour" in hourly["message"]
    region.clock.advance(3600)
    for n in range(3):
        ask(region, value=str(10 + n), issuer="BACAU")
    full = region.send("bacau", PATH, canonical_json(wish("20", "BACAU"))).json
    assert full is not None
    assert "are open" in full["message"]
    region.clock.advance(timedelta(days=14).total_seconds())
    ask(region)


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "HRESCH"},
        {"purpose": "ETREAT"},
        {"department": ""},
        {"department": "   "},
        {"department": "x" * 65},
        {"department": "a\nb"},
        {"department": "a\u202eb"},
        {"role": "x" * 33},
        {"role": "a\u200bb"},
        {"role": 7},
        {"identifier": {"issuer": "RO-CNP", "value": " "}},
        {"identifier": {"issuer": "RO-CNP", "value": "a\\b"}},
        {"id": "x"},
        {"more": 1},
    ],
)
def test_what_is_no_request(region: Region, changes: dict[str, Any]) -> None:
    assert refusal(region, PATH, wish(**changes), "bacau") == (400, "bad-request")


def test_who_left_the_region_asks_nobody(region: Region) -> None:
    id = ask(region)
    region.manifest.hospitals.pop("bacau")  # type: ignore[attr-defined]
    assert requests(region).open_for([NATIONAL]) == []
    assert refused(lambda: requests(region).answer(id, {NATIONAL})) == "unknown-request"
