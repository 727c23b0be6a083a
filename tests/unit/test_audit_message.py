"""Audit records as DICOM audit messages: every kind is valid by the standard's schema, and says who, whom and what."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.audit_message import KINDS, audit_message, syslog_message

SCHEMA = etree.RelaxNG(file=str(Path(__file__).parents[1] / "support" / "audit-message.rng"))
NOW = datetime(2026, 11, 22, 18, 30, 0, 125, tzinfo=UTC)


def record(kind: str = "lookup", **members: Any) -> dict[str, Any]:
    event = AuditEvent(NOW, AuditEventType(kind), **{"agent": "dr.țepeș", **members})
    return {"sequence": 17, **event.to_json()}


def read(event: dict[str, Any]) -> Any:
    root = etree.fromstring(audit_message(event, site="iasi"))
    SCHEMA.assertValid(root)
    return root


def codes(root: Any, path: str) -> list[str]:
    return [one.get("csd-code") for one in root.findall(path)]


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("kind", list(AuditEventType))
def test_every_kind_of_record_is_valid_with_much_and_with_little(kind: AuditEventType, outcome: Outcome) -> None:
    assert kind in KINDS
    for members in (
        {},
        {"agent": ""},
        {
            "peer": "bacau", "patient": "BACAU:7", "study_instance_uid": "1.2.3", "reason": "ș < & \" ' ]]>",
            "detail": {"what": "search", "answers": 3, "asked": {"agent": "x"}},
        },
        {"peer": "dr.țepeș", "agent": "a\0\x0b\ud800<", "patient": "X:\x01", "reason": "\ufffe"},
    ):  # fmt: skip
        root = read(record(kind, outcome=outcome, **members))
        assert root.find("EventIdentification/EventID").get("codeSystemName") == "DCM"
        assert sum(one.get("UserIsRequestor") == "true" for one in root.findall("ActiveParticipant")) == 1


def test_the_schema_finds_what_is_wrong() -> None:
    good = audit_message(record(), site="iasi").decode()
    for old, new in (
        ('EventActionCode="E"', 'EventActionCode="X"'),
        ('EventDateTime="2026-11-22T', 'EventDateTime="22.11.2026 '),
        ("<AuditSourceIdentification ", "<AuditSource "),
        ('UserIsRequestor="true"', ""),
    ):
        assert old in good
        bad = good.replace(old, new)
        if new.startswith("<"):
            bad = bad.replace("</AuditSourceIdentification>", "</AuditSource>")
        assert not SCHEMA.validate(etree.fromstring(bad.encode())), old


def test_a_lookup_is_a_query_with_what_was_asked() -> None:
    root = read(record(patient="BACAU:7", detail={"level": "STUDY", "answers": 2}))
    assert codes(root, "EventIdentification/EventID") == ["110112"]
    participants = root.findall("ActiveParticipant")
    who = {one.get("UserID"): (one.get("UserIsRequestor"), codes(one, "RoleIDCode")) for one in participants}
    assert who == {"dr.țepeș": ("true", ["110153"]), "usmed@iasi": ("false", ["110152"])}
    asked = json.loads(base64.b64decode(root.findtext(".//ParticipantObjectQuery")))
    assert asked == {"patient": "BACAU:7", "detail": {"level": "STUDY", "answers": 2}}
    patient = root.find("ParticipantObjectIdentification[@ParticipantObjectTypeCodeRole='1']")
    assert patient.get("ParticipantObjectID") == "BACAU:7"
    assert codes(patient, "ParticipantObjectIDTypeCode") == ["2"]
    detail = json.loads(base64.b64decode(patient.find("ParticipantObjectDetail").get("value")))
    assert (detail["sequence"], detail["event"]) == (17, "lookup")


def test_a_release_and_a_pull_are_transfers_between_source_and_destination() -> None:
    study = {"peer": "bacau", "patient": "BACAU:7", "study_instance_uid": "1.2.3"}
    release = read(record("release", **{**study, "agent": "bacau"}))
    assert codes(release, "EventIdentification/EventID") == ["110102"]
    roles = {one.get("UserID"): codes(one, "RoleIDCode") for one in release.findall("ActiveParticipant")}
    assert roles == {"usmed@iasi": ["110153"], "bacau": ["110152"]}
    pull = read(record("pull", **study))
    assert codes(pull, "EventIdentification/EventID") == ["110104"]
    roles = {one.get("UserID"): codes(one, "RoleIDCode") for one in pull.findall("ActiveParticipant")}
    assert roles == {"bacau": ["110153"], "usmed@iasi": ["110152"], "dr.țepeș": []}
    assert codes(pull, ".//ParticipantObjectIDTypeCode") == ["110180", "2"]


@pytest.mark.parametrize("kind", ["release", "decision", "lookup", "refused"])
def test_what_was_denied_is_a_security_alert(kind: str) -> None:
    root = read(record(kind, outcome=Outcome.DENIED, reason="no consent"))
    assert codes(root, "EventIdentification/*") == ["110113", "110132", None]
    assert root.find("EventIdentification").get("EventOutcomeIndicator") == "8"
    assert root.findtext("EventIdentification/EventOutcomeDescription") == "no consent"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("retention", ["110105"]), ("audit", ["110101"]), ("application", ["110100", "110120"]),
     ("emergency", ["110113", "110127"]), ("feed", ["110106"])],
)  # fmt: skip
def test_codes_of_other_kinds(kind: str, expected: list[str]) -> None:
    assert codes(read(record(kind)), "EventIdentification/*") == expected


def test_a_kind_that_this_version_does_not_know_is_told_all_the_same() -> None:
    assert codes(read({**record(), "event": "log-in"}), "EventIdentification/EventID") == ["110113"]


def test_the_syslog_message_has_its_header_and_utf8() -> None:
    message = syslog_message(record(agent="Ștefănescu"), site="iasi", host="pacs-ș.example", process=12)
    header, _, body = message.partition(b"\xef\xbb\xbf")
    assert header.decode("ascii") == (
        '<85>1 2026-11-22T18:30:00.000125Z pacs--.example usmed 12 DICOM+RFC3881 [meta sequenceId="17"] '
    )
    assert "Ștefănescu".encode() in body
    assert syslog_message(record(outcome=Outcome.DENIED), site="i", host="", process=1).startswith(b"<84>1 ")
    late = {**record(), "sequence": 2**31}
    assert b'sequenceId="1"' in syslog_message(late, site="iasi", host="h", process=1)
