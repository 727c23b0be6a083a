"""Lookups at the hub: found by exact numbers only, told only as far as the patient agreed, the same nothing for all."""

import itertools
from datetime import timedelta
from typing import Any

import pytest

from contract.hub_region import CNP, Region, study
from usmed.domain.canonical import canonical_json

WOMAN = "2770214123450"
"""Another valid national number: a woman born on 1977-02-14."""
NOTHING = {"identifiers": [], "holders": []}
LOOK_ALIKES = [
    "1234",
    "01234",
    "1234_",
    "_1234",
    "123_",
    "%",
    "%1234",
    "123%",
    "*",
    "123*",
    "12?4",
    "?",
    "1234A",
    "1234a",
]
LOOK_ALIKES += ["1234 5", "1234.", "1234\u200b", "ă", "a\u0306", "1234' OR '1'='1"]


def found(region: Region, hospital: str, issuer: str, value: str) -> set[tuple[str, str]]:
    return {(one["issuer"], one["value"]) for one in region.resolve(hospital, issuer, value)["identifiers"]}


def test_a_patient_with_different_numbers_at_two_hospitals_is_found(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)), study("1.2", ("SF-SPIRIDON", "7")))
    region.feed("bacau", study("2.1", ("BACAU", "9"), ("RO-CNP", CNP)))
    region.permit("SF-SPIRIDON", "7", to="bacau")
    expected = {
        "identifiers": [
            {"issuer": "BACAU", "value": "9"},
            {"issuer": "RO-CNP", "value": CNP},
            {"issuer": "SF-SPIRIDON", "value": "7"},
        ],
        "holders": [{"hospital": "iasi", "studies": 2}],
    }
    for issuer, value in (("BACAU", "9"), ("RO-CNP", CNP), ("SF-SPIRIDON", " 7 ")):
        assert region.resolve("bacau", issuer, value) == expected
    # Permission is for bacau alone, and says nothing about bacau's own study.
    assert region.resolve("iasi", "SF-SPIRIDON", "7") == NOTHING
    assert region.resolve("suceava", "RO-CNP", CNP) == NOTHING


def test_a_study_or_an_accession_number_names_the_patient_too(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), accession_number="A1"), study("1.10", ("SF-SPIRIDON", "8")))
    region.permit("SF-SPIRIDON", "7")
    for question in ({"study_instance_uid": "1.1"}, {"accession_number": "A1"}, {"accession_number": " A1 "}):
        answer = region.post("bacau", "/v1/resolve", {**question, "purpose": "TREAT"})
        assert answer["holders"] == [{"hospital": "iasi", "studies": 1}]
    for question in ({"study_instance_uid": "1.10"}, {"accession_number": "a1"}, {"accession_number": "A%"}):
        assert region.post("bacau", "/v1/resolve", {**question, "purpose": "TREAT"}) == NOTHING


def test_an_accession_number_of_two_patients_names_nobody(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), accession_number="A1"))
    region.feed("suceava", study("3.1", ("SUCEAVA", "3"), accession_number="A1"))
    region.permit("SF-SPIRIDON", "7")
    question = {"accession_number": "A1", "purpose": "TREAT"}
    assert region.post("bacau", "/v1/resolve", question) == NOTHING
    region.post("suceava", "/v1/studies/feed", {"delete": ["3.1"]})
    assert region.post("bacau", "/v1/resolve", question)["holders"] == [{"hospital": "iasi", "studies": 1}]


def test_unknown_ambiguous_and_not_permitted_are_the_same_bytes(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP), accession_number="A1"))
    region.feed("suceava", study("3.1", ("SUCEAVA", "3"), accession_number="A1"))
    region.permit("RO-CNP", CNP, to="suceava")
    questions: list[dict[str, Any]] = [
        {"identifier": {"issuer": "SF-SPIRIDON", "value": "7"}},
        {"identifier": {"issuer": "RO-CNP", "value": CNP}},
        {"identifier": {"issuer": "SF-SPIRIDON", "value": "unknown"}},
        {"identifier": {"issuer": "NOBODY", "value": "7"}},
        {"study_instance_uid": "1.1"},
        {"study_instance_uid": "9.9"},
        {"accession_number": "A1"},
        {"accession_number": "unknown"},
    ]
    answers = []
    for question in questions:
        answer = region.send("bacau", "/v1/resolve", canonical_json({**question, "purpose": "TREAT"}))
        headers = {name: value for name, value in answer.headers if name != "X-USMED-Signature"}
        answers.append((answer.status_code, answer.data, headers))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 200


@pytest.mark.parametrize("permitted", range(0, len(LOOK_ALIKES), 3))
def test_look_alike_numbers_are_different_patients(region: Region, permitted: int) -> None:
    region.feed("iasi", *(study(f"1.{n}", ("SF-SPIRIDON", value)) for n, value in enumerate(LOOK_ALIKES, 1)))
    region.permit("SF-SPIRIDON", LOOK_ALIKES[permitted])
    for value in LOOK_ALIKES:
        only = {("SF-SPIRIDON", value)} if value == LOOK_ALIKES[permitted] else set()
        assert found(region, "bacau", "SF-SPIRIDON", value) == only
    assert region.resolve("bacau", "SF-SPIRIDON", LOOK_ALIKES[permitted])["holders"] == [
        {"hospital": "iasi", "studies": 1}
    ]


def test_equal_numbers_of_different_issuers_are_different_patients(region: Region) -> None:
    issuers = {"SF-SPIRIDON": "iasi", "SF-MARIA": "iasi", "SUCEAVA": "suceava"}
    for n, (issuer, hospital) in enumerate(issuers.items(), 1):
        region.feed(hospital, study(f"1.{n}", (issuer, "1234")))
    for issuer in issuers:
        consent_id = region.permit(issuer, "1234", to="bacau")
        for other in issuers:
            assert found(region, "bacau", other, "1234") == ({(issuer, "1234")} if other == issuer else set())
        region.withdraw(consent_id)
    for lower in ("sf-spiridon", "Suceava"):
        assert region.resolve("bacau", lower, "1234") == NOTHING


def test_a_contradicted_national_number_joins_nobody_and_the_newer_is_kept_apart(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    region.feed("suceava", study("3.1", ("SUCEAVA", "3"), ("RO-CNP", CNP), birth_date="19500101"))
    region.permit("RO-CNP", CNP, to="bacau")
    assert found(region, "bacau", "RO-CNP", CNP) == {("SF-SPIRIDON", "7"), ("RO-CNP", CNP)}
    assert region.resolve("bacau", "SUCEAVA", "3") == NOTHING
    # Once suceava has corrected the birth date, they are one.
    region.feed("suceava", study("3.1", ("SUCEAVA", "3"), ("RO-CNP", CNP)))
    assert region.resolve("bacau", "SUCEAVA", "3")["holders"] == [
        {"hospital": "iasi", "studies": 1},
        {"hospital": "suceava", "studies": 1},
    ]


def test_a_hospital_cannot_attach_itself_to_another_hospitals_patient(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7")))
    region.permit("SF-SPIRIDON", "7", to="suceava")
    region.feed("bacau", study("2.1", ("BACAU", "9"), ("SF-SPIRIDON", "7")))
    for issuer, value in (("SF-SPIRIDON", "7"), ("BACAU", "9")):
        assert region.resolve("bacau", issuer, value) == NOTHING
    assert region.resolve("suceava", "SF-SPIRIDON", "7")["holders"] == [{"hospital": "iasi", "studies": 1}]


def test_only_permitted_studies_are_counted_and_only_their_numbers_told(region: Region) -> None:
    region.feed(
        "iasi",
        study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP), modality="CT"),
        study("1.2", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP), modality="MR"),
        study("1.3", ("SF-MARIA", "70"), ("RO-CNP", CNP), modality="MR"),
        study("1.4", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP), modality="CT", study_date="20200101"),
    )
    region.feed("suceava", study("3.1", ("SUCEAVA", "3"), ("RO-CNP", CNP), modality="MR"))
    only_ct = {"code": [{"coding": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}]}]}
    recent = {"dataPeriod": {"start": "2025-01-01"}}
    region.permit("RO-CNP", CNP, provision={**only_ct, **recent})
    answer = region.resolve("bacau", "RO-CNP", CNP)
    assert answer["holders"] == [{"hospital": "iasi", "studies": 1}]
    assert {one["issuer"] for one in answer["identifiers"]} == {"RO-CNP", "SF-SPIRIDON"}


def test_deny_wins_and_time_and_purpose_bind(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7")))
    end = (region.clock() + timedelta(hours=1)).isoformat()
    region.permit("SF-SPIRIDON", "7", provision={"period": {"end": end}})
    seven = {"issuer": "SF-SPIRIDON", "value": "7"}
    assert region.resolve("bacau", "SF-SPIRIDON", "7") != NOTHING
    assert region.post("bacau", "/v1/resolve", {"identifier": seven, "purpose": "HRESCH"}) == NOTHING
    denial = region.permit("SF-SPIRIDON", "7", to="bacau", type="deny")
    assert region.resolve("bacau", "SF-SPIRIDON", "7") == NOTHING
    assert region.resolve("suceava", "SF-SPIRIDON", "7") != NOTHING
    region.withdraw(denial)
    assert region.resolve("bacau", "SF-SPIRIDON", "7") != NOTHING
    region.clock.advance(3601)
    assert region.resolve("bacau", "SF-SPIRIDON", "7") == NOTHING


def test_two_persons_stay_two_whatever_is_asked(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    woman = {"birth_date": "19770214", "sex": "F"}
    region.feed("iasi", study("1.2", ("SF-SPIRIDON", "8"), ("RO-CNP", WOMAN), **woman))
    for number in (CNP, WOMAN):
        region.permit("RO-CNP", number)
    man = {("SF-SPIRIDON", "7"), ("RO-CNP", CNP)}
    other = {("SF-SPIRIDON", "8"), ("RO-CNP", WOMAN)}
    for person in (man, other):
        for issuer, value in person:
            assert found(region, "bacau", issuer, value) == person


def test_every_lookup_is_on_record_with_its_outcome(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7")))
    region.permit("SF-SPIRIDON", "7", to="bacau")
    region.resolve("bacau", "SF-SPIRIDON", "7")
    region.resolve("suceava", "SF-SPIRIDON", "7")
    region.post("suceava", "/v1/resolve", {"study_instance_uid": "1.1", "purpose": "TREAT"})
    lookups = [one for one in region.audit.tail() if one["event"] == "lookup"]
    assert [(one["agent"], one["outcome"], one["patient"]) for one in lookups] == [
        ("bacau", "success", "SF-SPIRIDON:7"),
        ("suceava", "denied", "SF-SPIRIDON:7"),
        ("suceava", "denied", "SF-SPIRIDON:7"),
    ]
    assert lookups[0]["detail"]["holders"] == {"iasi": 1}
    assert region.audit.verify().unbroken


def test_where_a_hospital_contradicts_itself_the_older_keeps_the_number(region: Region) -> None:
    region.feed(
        "iasi",
        study("1.1", ("SF-SPIRIDON", "7"), birth_date="19630615"),
        study("1.2", ("SF-SPIRIDON", "7"), birth_date="19500101"),
    )
    region.permit("SF-SPIRIDON", "7")
    assert region.resolve("bacau", "SF-SPIRIDON", "7")["holders"] == [{"hospital": "iasi", "studies": 1}]


def test_nodes_hear_of_consents_that_changed(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    region.feed("bacau", study("2.1", ("BACAU", "9"), ("RO-CNP", CNP)))
    region.feed("suceava", study("3.1", ("SUCEAVA", "3")))

    def heard(hospital: str, since: int) -> tuple[set[str], int]:
        answer = region.post(hospital, "/v1/consents/changes", {"since": since})
        numbers = itertools.chain.from_iterable(one["identifiers"] for one in answer["changes"])
        return {f"{one['issuer']}:{one['value']}" for one in numbers}, answer["cursor"]

    _, start = heard("iasi", 0)
    given = region.permit("SF-SPIRIDON", "7")
    changed, cursor = heard("iasi", start)
    assert changed == {"SF-SPIRIDON:7", f"RO-CNP:{CNP}"}
    # Bacau's patient is the same person: it hears of that too, under its own numbers; suceava does not.
    assert heard("bacau", start)[0] == {"BACAU:9", f"RO-CNP:{CNP}"}
    assert heard("suceava", start)[0] == set()
    assert heard("iasi", cursor) == (set(), cursor)
    region.withdraw(given)
    assert heard("iasi", cursor)[0] == {"SF-SPIRIDON:7", f"RO-CNP:{CNP}"}


def test_nodes_hear_when_a_new_link_changes_whose_consents_apply(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7")))
    region.permit("RO-CNP", CNP)
    cursor = region.post("iasi", "/v1/consents/changes", {"since": 0})["cursor"]
    region.feed("iasi", study("1.2", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    changes = region.post("iasi", "/v1/consents/changes", {"since": cursor})["changes"]
    assert {"identifiers": [{"issuer": "SF-SPIRIDON", "value": "7"}]} in changes
