"""What is written down at the desk: every state with every change, who may do what, and how a scan is named."""

import hashlib

import pytest

from usmed.domain.consent_record import consent_document
from usmed.domain.errors import PeerDataError
from usmed.domain.fhir_consent import consent_from_fhir
from usmed.domain.paper import (
    BY_ANOTHER,
    BY_THE_FIRST,
    LONGEST_REASON,
    Change,
    State,
    after,
    attachment,
    may,
    reason_given,
    scan_digest,
)

EXPECTED = {
    Change.SCAN: State.WAITING, Change.ATTEST: State.ATTESTED, Change.REFUSE: State.REFUSED,
    Change.CANCEL: State.CANCELLED, Change.EXPIRE: State.EXPIRED,
}  # fmt: skip


@pytest.mark.parametrize("change", Change)
@pytest.mark.parametrize("state", State)
def test_only_what_waits_can_change(state: State, change: Change) -> None:
    assert after(state, change) is (EXPECTED[change] if state is State.WAITING else None)


@pytest.mark.parametrize("change", Change)
def test_one_person_never_counts_as_two(change: Change) -> None:
    for who in ("ionescu", " Ionescu ", "IONESCU"):
        assert may(change, "ionescu", who) is (change in BY_THE_FIRST)
    assert may(change, "ionescu", "popa") is (change in BY_ANOTHER)


def test_a_consent_names_its_scan_by_its_sha_256() -> None:
    named = attachment(b"%PDF-1.7 ...", 2)
    assert scan_digest({"sourceAttachment": named}) == hashlib.sha256(b"%PDF-1.7 ...").hexdigest()
    assert (named["contentType"], named["size"], named["title"]) == ("application/pdf", 12, "Consent on paper, 2 pages")
    assert scan_digest({}) == ""


RESOURCE = {
    "resourceType": "Consent", "status": "active", "dateTime": "2026-11-21",
    "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
    "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
    "patient": {"identifier": {"system": "urn:usmed:issuer:RO-CNP", "value": "1630615123457"}},
    "provision": {"type": "deny"},
}  # fmt: skip


def test_a_scan_decides_nothing() -> None:
    with_scan = RESOURCE | {"sourceAttachment": attachment(b"x", 1)}
    read = [consent_from_fhir(one, id="consent-1", version=1) for one in (RESOURCE, with_scan)]
    assert read[0] == read[1]
    assert consent_document(with_scan, id="consent-1", version=1)["resource"] == with_scan


@pytest.mark.parametrize(
    "changes",
    [
        {"contentType": "text/html"}, {"url": "https://example.org/x"}, {"url": "ni:///sha-256;short"}, {"size": 0},
        {"url": f"ni:///sha-256;{'A' * 42}B"}, {"size": 10 * 2**20 + 1}, {"data": "AAAA"}, {"hash": "AAAA"},
        {"title": "x" * 201},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_name_of_a_scan_is_refused(changes: dict[str, object]) -> None:
    resource = RESOURCE | {"sourceAttachment": attachment(b"x", 1) | changes}
    with pytest.raises(PeerDataError, match="sourceAttachment"):
        consent_from_fhir(resource, id="consent-1", version=1)


def test_a_refusal_says_why() -> None:
    assert reason_given(" semnătura lipsește ") == "semnătura lipsește"
    for text in ("", "  ", "a\nb", "x" * (LONGEST_REASON + 1)):
        with pytest.raises(PeerDataError):
            reason_given(text)
