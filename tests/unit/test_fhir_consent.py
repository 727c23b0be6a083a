"""The FHIR profile: what it accepts means what FHIR says, what it does not accept is named with its path."""

import copy
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from usmed.domain.consent import Provision, ProvisionType, Purpose
from usmed.domain.errors import PeerDataError
from usmed.domain.fhir_consent import consent_from_fhir
from usmed.domain.identifiers import PatientIdentifier

Json = dict[str, Any]
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
REPOSITORY = Path(__file__).resolve().parents[2]


def concept(system: str, code: str) -> Json:
    return {"coding": [{"system": system, "code": code}]}


def actor(role: str, hospital: str) -> Json:
    return {
        "role": concept(f"{TERMINOLOGY}/v3-ParticipationType", role),
        "reference": {"identifier": {"system": "urn:usmed:hospital", "value": hospital}, "display": "Spitalul"},
    }


def study(uid: str) -> Json:
    return {
        "meaning": "instance",
        "reference": {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}},
    }


def purpose(code: str) -> Json:
    return {"system": f"{TERMINOLOGY}/v3-ActReason", "code": code}


def modality(code: str) -> Json:
    return concept("http://dicom.nema.org/resources/ontology/DCM", code)


SMALLEST: Json = {
    "resourceType": "Consent",
    "status": "active",
    "scope": concept(f"{TERMINOLOGY}/consentscope", "patient-privacy"),
    "category": [concept("http://loinc.org", "59284-0")],
    "patient": {"identifier": {"system": "urn:usmed:issuer:RO-CNP", "value": "1800101221144"}},
    "dateTime": "2026-01-31",
    "provision": {"type": "permit"},
}
LARGEST: Json = {
    **SMALLEST,
    "id": "p03-permit",
    "meta": {"versionId": "2", "lastUpdated": "2026-01-31T10:00:00Z", "profile": ["http://usmed.example/consent"]},
    "patient": {**SMALLEST["patient"], "display": "Brânzei Ștefania"},
    "dateTime": "2026-01-31T10:00:00.123+02:00",
    "performer": [{"display": "Brânzei Ștefania"}],
    "policyRule": concept(f"{TERMINOLOGY}/v3-ActCode", "OPTIN"),
    "provision": {
        "type": "permit",
        "period": {"start": "2026-01-31T10:00:00+02:00", "end": "2026-12-31"},
        "dataPeriod": {"start": "2020-01-01", "end": "2025-12-31"},
        "actor": [actor("IRCP", "parhon"), actor("IRCP", "regional"), actor("CST", "sf-spiridon")],
        "purpose": [purpose("TREAT"), purpose("ETREAT")],
        "code": [modality("CT"), modality("MR")],
        "data": [study("1.2.3"), study("1.2.4")],
        "provision": [{"type": "deny", "code": [modality("MR")], "actor": [actor("IRCP", "regional")]}],
    },
}


def changed(path: str, value: Any, document: Json = LARGEST) -> Json:
    """Return a copy with one member set (`...` removes it); `path` is dotted, numbers index lists."""
    copied = copy.deepcopy(document)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    element: Any = copied
    for step in steps:
        element = element[step]
    if value is ...:
        del element[last]
    elif isinstance(element, list) and last == len(element):
        element.append(value)
    else:
        element[last] = value
    return copied


def read(document: Any) -> Any:
    return consent_from_fhir(document, id="c1", version=3)


def test_a_consent_with_everything_says_what_fhir_says() -> None:
    found = read(LARGEST)
    assert (found.id, found.version, found.active) == ("c1", 3, True)
    assert found.patient == {PatientIdentifier("RO-CNP", "1800101221144")}
    assert found.valid_from == datetime(2026, 1, 31, 8, tzinfo=UTC)
    assert found.valid_until == datetime(2027, 1, 1, tzinfo=UTC), "an end given as a day includes that day"
    permit, deny = found.provisions
    assert permit == Provision(
        ProvisionType.PERMIT,
        recipients=frozenset({"parhon", "regional"}),
        sources=frozenset({"sf-spiridon"}),
        purposes=frozenset({Purpose.TREAT, Purpose.ETREAT}),
        modalities=frozenset({"CT", "MR"}),
        studies=frozenset({"1.2.3", "1.2.4"}),
        study_date_from=date(2020, 1, 1),
        study_date_to=date(2025, 12, 31),
    )
    assert deny == Provision(ProvisionType.DENY, recipients=frozenset({"regional"}), modalities=frozenset({"MR"}))


def test_the_smallest_consent_constrains_nothing() -> None:
    found = read(SMALLEST)
    assert found.provisions == (Provision(ProvisionType.PERMIT),)
    assert (found.valid_from, found.valid_until) == (None, None)


@pytest.mark.parametrize("status", ["inactive", "rejected", "entered-in-error"])
def test_only_an_active_consent_speaks(status: str) -> None:
    assert read(changed("status", status)).active is False


ACCEPTED: list[tuple[str, Any]] = [
    ("provision.period", {"start": "2026-01-01"}),
    ("provision.period", {"end": "2026-01-01T00:00:00.5Z"}),
    ("provision.period", {}),
    ("provision.dataPeriod", {"start": "2020-01-01T12:00:00Z"}),
    ("provision.dataPeriod", {"start": "2020-01-01", "end": "2020-01-01"}),
    ("provision.type", "deny"),
    ("patient.identifier.value", "_1%2*3?"),
    ("provision.provision", []),
]


@pytest.mark.parametrize(("path", "value"), ACCEPTED, ids=str)
def test_accepted(path: str, value: Any) -> None:
    document = changed(path, value)
    if path == "provision.type":
        del document["provision"]["provision"]
    read(document)


REFUSED: list[tuple[str, Any, str]] = [
    # what FHIR has and we do not read must not be skipped: it could restrict what is permitted
    ("implicitRules", "http://example.org", r"\$: .*implicitRules"),
    ("modifierExtension", [], r"\$: .*modifierExtension"),
    ("extension", [], r"\$: .*extension"),
    ("text", {"status": "empty"}, r"\$: .*text"),
    ("organization", [], r"\$: .*organization"),
    ("verification", [], r"\$: .*verification"),
    ("provision.securityLabel", [], r"\$\.provision: .*securityLabel"),
    ("provision.action", [], r"\$\.provision: .*action"),
    ("provision.class", [], r"\$\.provision: .*class"),
    ("provision.provision.0.period", {"start": "2026-01-01"}, r"\$\.provision\.provision\[0\]: .*period"),
    ("provision.provision.0.provision", [], r"\$\.provision\.provision\[0\]: .*provision"),
    # required, and of the right kind
    ("resourceType", "Patient", r"\$\.resourceType"),
    ("resourceType", ..., r"\$: 'resourceType' is a required"),
    ("status", "draft", r"\$\.status"),
    ("status", "proposed", r"\$\.status"),
    ("status", ..., r"\$: 'status' is a required"),
    ("scope", ..., r"\$: 'scope'"),
    ("category", [], r"\$\.category"),
    ("patient", ..., r"\$: 'patient'"),
    ("patient", {"reference": "Patient/1"}, r"\$\.patient"),
    ("patient.identifier.system", "urn:oid:1.2.3", r"\$\.patient\.identifier\.system"),
    ("patient.identifier.system", "urn:usmed:issuer:", r"\$\.patient\.identifier\.system"),
    ("patient.identifier.value", "", r"\$\.patient\.identifier\.value"),
    ("patient.identifier.value", "a\\b", r"forbids"),
    ("patient.identifier.value", "  ", r"0 characters"),
    ("patient.identifier.value", 1800101221144, r"\$\.patient\.identifier\.value"),
    ("dateTime", "31.01.2026", r"\$\.dateTime"),
    ("dateTime", "2026", r"\$\.dateTime"),
    ("id", "../../etc", r"\$\.id"),
    ("provision", ..., r"\$: 'provision'"),
    ("provision", [], r"\$\.provision: "),
    ("provision.type", ..., r"\$\.provision: 'type'"),
    ("provision.type", "Permit", r"\$\.provision\.type"),
    # times
    ("provision.period", {"start": "2026-01-01T10:00:00"}, r"\$\.provision\.period\.start"),
    ("provision.period", {"start": "2026-02-30"}, r"\$\.provision\.period: '2026-02-30'"),
    ("provision.period", {"start": "2026-01-01T25:00:00Z"}, r"\$\.provision\.period: "),
    ("provision.period", {"start": "2026-01-02", "end": "2026-01-01"}, r"\$\.provision\.period: ends before"),
    ("provision.period", {"start": "2026-01-02T00:00:00Z", "end": "2026-01-02T00:00:00Z"}, "ends before"),
    ("provision.period", {"end": "9999-12-31"}, "beyond the calendar"),
    ("provision.period", {"start": "0001-01-01T00:00:00+14:00"}, "beyond the calendar"),
    ("provision.period", {"start": "0000-01-01"}, r"\$\.provision\.period: '0000-01-01'"),
    ("provision.period", {"begin": "2026-01-01"}, r"\$\.provision\.period: .*begin"),
    ("provision.dataPeriod", {"start": "2026-01-02", "end": "2026-01-01"}, r"\$\.provision\.dataPeriod: ends before"),
    ("provision.dataPeriod", {"start": "2026-13-01"}, r"\$\.provision\.dataPeriod: '2026-13-01'"),
    ("provision.dataPeriod", {"start": "２０２６-01-01"}, r"\$\.provision\.dataPeriod\.start"),
    # who
    ("provision.actor.0", actor("AUT", "parhon"), r"\$\.provision\.actor\[0\]\.role\.coding\[0\]\.code"),
    ("provision.actor.0", actor("IRCP", "Parhon"), r"\$\.provision\.actor\[0\]\.reference\.identifier\.value"),
    ("provision.actor.0", actor("IRCP", "parhon\n"), r"\$\.provision\.actor\[0\]\.reference\.identifier\.value"),
    ("provision.actor.0", actor("IRCP", ""), r"\$\.provision\.actor\[0\]\.reference\.identifier\.value"),
    ("provision.actor.0.role.coding.0.system", "http://example.org", r"coding\[0\]\.system"),
    ("provision.actor.0.role.coding.1", {"system": "x", "code": "CST"}, r"role\.coding: .*too long"),
    ("provision.actor.0.reference.identifier.system", "urn:other", r"identifier\.system"),
    ("provision.actor.0.reference.reference", "Organization/1", r"\$\.provision\.actor\[0\]\.reference: "),
    # what for
    ("provision.purpose", [], r"\$\.provision\.purpose"),
    ("provision.purpose.0", purpose("HMARKT"), r"\$\.provision\.purpose\[0\]\.code"),
    ("provision.purpose.0.system", "http://example.org", r"\$\.provision\.purpose\[0\]\.system"),
    # which data
    ("provision.code", [], r"\$\.provision\.code"),
    ("provision.code.0", modality("ct"), r"\$\.provision\.code\[0\]\.coding\[0\]\.code"),
    ("provision.code.0", modality("CT\n"), r"\$\.provision\.code\[0\]\.coding\[0\]\.code"),
    ("provision.code.0.coding.0.system", "http://loinc.org", r"coding\[0\]\.system"),
    ("provision.data", [], r"\$\.provision\.data"),
    ("provision.data.0", study("1.2.3\n"), r"\$\.provision\.data\[0\]\.reference\.identifier\.value"),
    ("provision.data.0", study("1..3"), r"\$\.provision\.data: '1\.\.3' is not a Study Instance UID"),
    ("provision.data.0.meaning", "related", r"\$\.provision\.data\[0\]\.meaning"),
    # rules inside rules
    ("provision.provision.0.type", "permit", r"only a deny inside a permit"),
    ("provision.type", "deny", r"only a deny inside a permit"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), REFUSED, ids=lambda one: str(one)[:50])
def test_refused_with_the_path(path: str, value: Any, message: str) -> None:
    read(LARGEST)
    with pytest.raises(PeerDataError, match=message):
        read(changed(path, value))


@pytest.mark.parametrize("document", [None, [], "Consent", 1, {}], ids=str)
def test_what_is_no_resource_is_refused(document: Any) -> None:
    with pytest.raises(PeerDataError, match=r"not a Consent of the accepted profile: \$"):
        read(document)


def test_all_faults_are_named_at_once() -> None:
    document = changed("status", "draft", changed("provision.type", "maybe", changed("dateTime", "yesterday")))
    with pytest.raises(PeerDataError) as refusal:
        read(document)
    assert all(path in str(refusal.value) for path in ("$.dateTime", "$.provision.type", "$.status"))


def test_a_message_does_not_repeat_a_whole_document() -> None:
    with pytest.raises(PeerDataError) as refusal:
        read({**SMALLEST, "status": "x" * 100_000, **{f"unknown-{n}": n for n in range(5000)}})
    assert len(str(refusal.value)) < 6000


# ---- The profile is a part of FHIR R4: whatever we accept, another FHIR implementation accepts too. ----


def accepted() -> Iterator[Json]:
    yield SMALLEST
    yield LARGEST
    for path, value in ACCEPTED:
        yield changed(path, value)
    for status in ("inactive", "rejected", "entered-in-error"):
        yield changed("status", status)


@pytest.fixture
def fhir_r4b() -> Any:
    return pytest.importorskip("fhir.resources.R4B.consent").Consent


def test_what_the_profile_accepts_is_fhir(fhir_r4b: Any) -> None:
    for document in accepted():
        # An empty list or object is no FHIR (R4, "JSON Representation"); we read it as absent.
        if document["provision"].get("provision") != [] and document["provision"].get("period") != {}:
            fhir_r4b.model_validate(document)


def test_the_sample_consents_are_fhir_and_of_the_profile(fhir_r4b: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts" / "lib"))
    from sample_data.consents import all_consents

    documents = all_consents()
    assert len(documents) > 5
    for document in documents:
        fhir_r4b.model_validate(document)
        read(document)
    assert "sample_data.consents" in sys.modules
