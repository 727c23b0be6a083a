"""Study records: one canonical form, so that hospital and hub come to the same digest."""

from typing import Any

import pytest

from usmed.domain.canonical import canonical_json, sha256_hex
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.study_record import (
    NO_RECORDS,
    bucket_of,
    changed_digest,
    digests,
    is_date,
    parse_study_record,
    record_digest,
    study_record,
)

RECORD: dict[str, Any] = {
    "study_instance_uid": "1.2.3",
    "patient": {
        "identifiers": [{"issuer": "SF-SPIRIDON", "value": " 007 "}, {"issuer": "RO-CNP", "value": "1"}],
        "name": "Ştefănescu^Ion=森^太郎 ",
        "birth_date": "19630615",
        "sex": "M",
    },
    "accession_number": "A1 ",
    "study_date": "20260102",
    "modalities": ["PT", "CT", "CT"],
}


def test_a_record_has_one_canonical_form() -> None:
    record = parse_study_record(RECORD)
    assert record == study_record(
        "1.2.3",
        [PatientIdentifier("SF-SPIRIDON", "007"), PatientIdentifier("RO-CNP", "1")],
        name="Ştefănescu^Ion=森^太郎",
        birth_date="19630615",
        sex="M",
        accession_number="A1",
        study_date="20260102",
        modalities=["CT", "PT"],
    )
    assert parse_study_record(record.to_json()) == record
    assert record.modalities == ("CT", "PT")
    assert record.identifiers[0].issuer == "RO-CNP"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study_instance_uid": "1.2.x"}, "study_instance_uid is not a UID"),
        ({"study_instance_uid": 1}, "study_instance_uid is not text"),
        ({"study_date": "20260231"}, "study_date is not YYYYMMDD"),
        ({"study_date": "2026-1-1"}, "study_date is not YYYYMMDD"),
        ({"study_date": "２０２６０１０１"}, "study_date is not YYYYMMDD"),
        ({"accession_number": "A\\B"}, "accession_number"),
        ({"accession_number": "A\x00"}, "accession_number"),
        ({"accession_number": None}, "accession_number is not text"),
        ({"modalities": "CT"}, "modalities is not a list"),
        ({"modalities": [1]}, "modalities is not text"),
        ({"modalities": [""]}, "modalities holds"),
        ({"modalities": [f"M{n}" for n in range(51)]}, "modalities has more than 50"),
        ({"more": 1}, "exactly the members"),
        ({"patient": []}, "exactly the members"),
        ({"patient": {"identifiers": [], "name": "", "birth_date": "", "sex": ""}}, "identifiers is empty"),
        ({"patient": {**RECORD["patient"], "identifiers": [{"issuer": "A"}]}}, "exactly the members"),
        ({"patient": {**RECORD["patient"], "name": "A\\B"}}, "patient.name"),
        ({"patient": {**RECORD["patient"], "name": "A\nB"}}, "patient.name"),
        ({"patient": {**RECORD["patient"], "name": "A\ud800"}}, "patient.name"),
        ({"patient": {**RECORD["patient"], "name": "A" * 257}}, "patient.name"),
        ({"patient": {**RECORD["patient"], "name": None}}, "name is not text"),
        ({"patient": {**RECORD["patient"], "sex": "X"}}, "patient.sex"),
        ({"patient": {**RECORD["patient"], "birth_date": "1963"}}, "patient.birth_date"),
        ({"patient": {**RECORD["patient"], "identifiers": [{"issuer": "A", "value": "\ud800"}]}}, "forbids"),
    ],
)
def test_what_is_not_a_record_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PeerDataError, match=message):
        parse_study_record({**RECORD, **change})


def test_all_faults_of_a_record_are_named_at_once() -> None:
    with pytest.raises(PeerDataError, match=r"study_date .*; patient\.sex|study_instance_uid.*study_date"):
        parse_study_record({**RECORD, "study_instance_uid": "x", "study_date": "x"})


def test_the_digest_is_the_exclusive_or_of_the_records() -> None:
    one, two = (study_record(uid, [PatientIdentifier("A", "1")]) for uid in ("1.2.3", "1.2.4"))
    assert bucket_of("1.2.3") == sha256_hex(b"1.2.3")[:2]
    assert digests([one]) == {bucket_of("1.2.3"): sha256_hex(canonical_json(one.to_json()))}
    assert digests([one, two]) == digests([two, one])
    assert digests([]) == {}
    both = changed_digest(sha256_hex(canonical_json(one.to_json())), [record_digest(two)])
    assert int(both, 16) == int.from_bytes(record_digest(one)) ^ int.from_bytes(record_digest(two))
    # What leaves is as if it had never been there.
    assert changed_digest(both, [record_digest(one), record_digest(two)]) == NO_RECORDS


@pytest.mark.parametrize(
    ("text", "valid"), [("20240229", True), ("20230229", False), ("", False), ("2024022９", False)]
)
def test_dates(text: str, valid: bool) -> None:
    assert is_date(text) is valid
