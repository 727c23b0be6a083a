"""Consents with their proof: what two members of staff or the patient's passkey prove, and what nobody can."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from support.phone import Phone
from usmed.domain.canonical import base64url, base64url_decode, sha256_hex
from usmed.domain.consent_record import (
    MAXIMUM_VERSION,
    PAPER_LIFE,
    ConsentRecord,
    ProofKind,
    attest,
    challenge,
    consent_document,
    follows,
    read_record,
)
from usmed.domain.enrolment import Credential
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import RelyingParty
from usmed.domain.request_signature import sign_document

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
HOSPITALS = {name: OKPKey.generate_key("Ed25519", private=True) for name in ("parhon", "regional")}
HUB = OKPKey.generate_key("Ed25519", private=True)
PATIENT = PatientIdentifier("RO-CNP", "1980418226705")
PORTAL = RelyingParty("portal.example", frozenset({"https://portal.example"}))
STAFF = ("ionescu", "popa")


def resource(
    status: str = "active", end: str | None = "2027-06-01", purposes: Sequence[str] = ("TREAT",), kind: str = "permit"
) -> Any:
    coding = [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": one} for one in purposes]
    provision: dict[str, Any] = {"type": kind}
    if end:
        provision["period"] = {"start": "2026-11-01", "end": end}
    if coding:
        provision["purpose"] = coding
    return {
        "resourceType": "Consent",
        "status": status,
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"identifier": {"system": f"urn:usmed:issuer:{PATIENT.issuer}", "value": PATIENT.value}},
        "dateTime": "2026-11-22T09:00:00Z",
        "policyRule": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]},
        "provision": provision,
    }


def document(version: int = 1, id: str = "consent-1", **changes: Any) -> dict[str, Any]:
    return consent_document(resource(**changes), id=id, version=version)


PHONE = Phone()


ENROLLED = (PHONE.credential,)


def read(what: Any, proof: Any, **changes: Any) -> ConsentRecord:
    arguments: dict[str, Any] = {
        "keys": HOSPITALS.get,
        "credentials": lambda identifier: ENROLLED if identifier == PATIENT else (),
        "relying_party": PORTAL,
        "now": NOW,
        **changes,
    }
    return read_record({"document": what, "proof": proof}, **arguments)


def on_paper(what: Any, hospital: str = "parhon", staff: Sequence[str] = STAFF, now: datetime = NOW) -> dict[str, Any]:
    return attest(HOSPITALS[hospital], what, hospital=hospital, staff=staff, now=now)


def test_two_members_of_staff_attest_a_consent_on_paper() -> None:
    record = read(document(), on_paper(document()))
    assert (record.kind, record.by) == (ProofKind.STAFF, "parhon")
    assert (record.consent.id, record.consent.version) == ("consent-1", 1)
    assert record.consent.active
    assert record.consent.patient == {PATIENT}


def test_the_patient_signs_with_a_passkey() -> None:
    record = read(document(end=None, purposes=()), PHONE.sign(document(end=None, purposes=())))
    assert (record.kind, record.by) == (ProofKind.PASSKEY, PHONE.id.hex())


def altered(proof: dict[str, Any], name: str) -> dict[str, Any]:
    raw = bytearray(base64url_decode(proof[name]))
    raw[-1] ^= 1
    return {**proof, name: base64url(bytes(raw))}


def attested(**changes: Any) -> dict[str, Any]:
    """An attestation that parhon's node signed, with changed members."""
    content = {
        "typ": "usmed-consent-attestation",
        "sha256": sha256_hex(challenge(document())) if changes.pop("other", False) else challenge(document()).hex(),
        "staff": list(STAFF),
        "iat": int(NOW.timestamp()),
        **changes,
    }
    token = sign_document(HOSPITALS["parhon"], sender="parhon", document=content)
    return {"kind": "staff", "hospital": "parhon", "attestation": token}


NOT_PROVED: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: {}, "by a passkey or by staff"),
    "no object": (lambda: None, "is an object"),
    "another kind": (lambda: {"kind": "hub"}, "by a passkey or by staff"),
    # Staff.
    "forged by the hub": (
        lambda: {**on_paper(document()), "attestation": sign_document(HUB, sender="parhon", document={})},
        "does not verify",
    ),
    "signed by the hub as itself": (lambda: attest(HUB, document(), hospital="hub", staff=STAFF, now=NOW), "not in"),
    "one hospital in another's name": (
        lambda: {**on_paper(document(), "regional"), "hospital": "parhon"},
        "signed by somebody else",
    ),
    "for another consent": (lambda: on_paper(document(id="consent-2")), "another consent"),
    "for another version": (lambda: on_paper(document(2)), "another consent"),
    "another digest": (lambda: attested(other=True), "another consent"),
    "one member of staff": (lambda: on_paper(document(), staff=("ionescu",)), "two different members"),
    "the same one twice": (lambda: on_paper(document(), staff=("ionescu", "ionescu")), "two different members"),
    "the same one by case": (lambda: on_paper(document(), staff=("ionescu", "IONESCU ")), "two different members"),
    "three": (lambda: on_paper(document(), staff=("a", "b", "c")), "two different members"),
    "nobody": (lambda: on_paper(document(), staff=("", " ")), "two different members"),
    "staff that is no list": (lambda: attested(staff="ab"), "two different members"),
    "in the future": (lambda: on_paper(document(), now=NOW + timedelta(minutes=5)), "in the future"),
    "a time that is none": (lambda: attested(iat="now"), "not a time"),
    "another type": (lambda: attested(typ="usmed-enrolment"), "another consent"),
    "a member more": (lambda: attested(more=1), "exactly the members"),
    # The passkey.
    "another phone": (lambda: {**Phone().sign(document()), "credential": base64url(PHONE.id)}, "does not verify"),
    "a phone that is not enrolled": (lambda: Phone(b"stranger").sign(document()), "not enrolled"),
    "signed another document": (lambda: PHONE.sign(document(2)), "another document"),
    "on another site": (lambda: PHONE.sign(document(), origin="https://portal.example.evil"), "another site"),
    "in a frame": (lambda: PHONE.sign(document(), crossOrigin=True), "another site"),
    "another relying party": (lambda: PHONE.sign(document(), rp="evil.example"), "another site"),
    "extension data that is cut short": (
        lambda: {**PHONE.sign(document()), "authenticator_data": base64url(bytes(32) + b"\x85" + bytes(4) + b"\x19")},
        "malformed",
    ),
    "at enrolment": (lambda: PHONE.sign(document(), type="webauthn.create"), "something else"),
    "nobody present": (lambda: PHONE.sign(document(), flags=0x04), "user verification"),
    "nobody verified": (lambda: PHONE.sign(document(), flags=0x01), "user verification"),
    "an altered signature": (lambda: altered(PHONE.sign(document()), "signature"), "does not verify"),
    "altered authenticator data": (lambda: altered(PHONE.sign(document()), "authenticator_data"), "does not verify"),
    "altered client data": (lambda: altered(PHONE.sign(document()), "client_data"), "malformed"),
    "short authenticator data": (lambda: {**PHONE.sign(document()), "authenticator_data": "AAAA"}, "malformed"),
    "a member too few": (lambda: {"kind": "passkey", "credential": "AAAA"}, "exactly the members"),
}


@pytest.mark.parametrize(("proof", "reason"), NOT_PROVED.values(), ids=NOT_PROVED)
def test_what_proves_nothing(proof: Callable[[], Any], reason: str) -> None:
    with pytest.raises(PeerDataError, match=reason):
        read(document(), proof())


def test_no_portal_no_passkeys() -> None:
    with pytest.raises(PeerDataError, match="the region has no portal"):
        read(document(), PHONE.sign(document()), relying_party=None)


def test_a_passkey_proves_nothing_for_another_patient() -> None:
    with pytest.raises(PeerDataError, match="not enrolled for this patient"):
        read(document(), PHONE.sign(document()), credentials=lambda identifier: ())


def test_a_key_that_another_hospital_enrolled_under_the_same_id_shuts_nobody_out() -> None:
    """Ids are no secret. Whichever order they come in, the patient's own key is found, and no other signs for it."""
    others = [Phone(PHONE.id).credential, Credential(PHONE.id, b"no key")]
    for known in ([*others, PHONE.credential], [PHONE.credential, *others]):
        assert read(document(), PHONE.sign(document()), credentials=lambda _, known=known: known).consent.active
    with pytest.raises(PeerDataError, match="does not verify"):
        read(document(), PHONE.sign(document()), credentials=lambda _: others)


@pytest.mark.parametrize(
    "changes",
    [{"end": None}, {"end": (NOW + PAPER_LIFE + timedelta(days=2)).date().isoformat()}, {"purposes": ()},
     {"purposes": ("TREAT", "HRESCH")}],
)  # fmt: skip
def test_paper_permits_less_than_a_phone(changes: dict[str, Any]) -> None:
    what = document(**changes)
    assert read(what, PHONE.sign(what)).consent.active
    with pytest.raises(PeerDataError, match="a consent on paper"):
        read(what, on_paper(what))
    # Taking back is always possible.
    back = document(2, status="inactive", **changes)
    assert not read(back, on_paper(back)).consent.active


MALFORMED: dict[str, Any] = {
    "a member more": {**document(), "more": 1},
    "another type": {**document(), "typ": "usmed-enrolment"},
    "a short id": {**document(), "id": "c"},
    "an id with a space": {**document(), "id": "consent 1"},
    "version 0": {**document(), "version": 0},
    "a version that is text": {**document(), "version": "1"},
    "no resource": {**document(), "resource": {}},
    "too large": {**document(), "resource": {**resource(), "language": "x" * 70_000}},
    "no object": [],
}


@pytest.mark.parametrize("what", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_consent(what: Any) -> None:
    with pytest.raises(PeerDataError):
        read(what, on_paper(what))


# ---- Versions ----


def record(version: int, *, by: str = "parhon", **changes: Any) -> ConsentRecord:
    what = document(version, **changes)
    return read(what, on_paper(what, by))


def test_versions_go_forward_and_a_withdrawal_is_final() -> None:
    first, second, back = record(1), record(2, end="2027-01-01"), record(3, status="inactive")
    assert follows(first, None)
    assert not follows(first, first)
    assert follows(second, first)
    assert follows(back, first)
    assert follows(back, None)
    for new, held, reason in (
        (first, second, "newer version"),
        (record(1, end="2027-01-01"), first, "another document"),
        (record(4, end="2027-01-01"), record(9), "newer version"),
        (record(4), back, "withdrawn, which is final"),
        (record(3), back, "withdrawn, which is final"),
    ):
        with pytest.raises(PeerDataError, match=reason):
            follows(new, held)


@pytest.mark.parametrize(
    ("version", "status", "by"),
    [(2, "inactive", "parhon"), (3, "inactive", "regional"), (4, "inactive", "parhon"), (1, "active", "parhon"),
     (2, "active", "regional")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["permit", "deny"])
def test_what_changes_nothing_of_a_withdrawn_consent_is_known(kind: str, version: int, status: str, by: str) -> None:
    held = record(3, kind=kind, status="inactive")
    assert not follows(record(version, by=by, kind=kind, status=status, end="2027-01-01"), held)


def test_a_withdrawal_never_loses_against_a_version_number() -> None:
    assert follows(record(2, status="inactive"), record(2))
    assert follows(record(2, status="inactive"), record(999))


def test_what_is_in_force_can_always_be_taken_back() -> None:
    assert follows(record(MAXIMUM_VERSION, status="inactive"), record(MAXIMUM_VERSION - 1))
    for version, status in ((MAXIMUM_VERSION, "active"), (MAXIMUM_VERSION + 1, "inactive")):
        what = document(version, status=status)
        for proof in (on_paper(what), PHONE.sign(what)):
            with pytest.raises(PeerDataError, match="version is"):
                read(what, proof)


def test_staff_can_only_take_back_what_the_patient_signed() -> None:
    what = document(1, end=None)
    signed = read(what, PHONE.sign(what))
    with pytest.raises(PeerDataError, match="staff can only take it back"):
        follows(record(2), signed)
    assert follows(record(2, status="inactive"), signed)


def test_a_denial_is_taken_back_by_the_patient_or_by_whom_it_was_given_to() -> None:
    """Else any hospital's word alone would undo it: to take a denial back is to permit."""
    what = document(1, kind="deny", end=None)
    signed = read(what, PHONE.sign(what))
    for held in (signed, record(1, kind="deny", by="regional")):
        for new in (record(2, kind="deny", status="inactive"), record(2)):
            with pytest.raises(PeerDataError, match="only the patient, or the hospital that attested it"):
                follows(new, held)
    assert follows(record(2, kind="deny", status="inactive"), record(1, kind="deny"))
    taken_back = document(2, kind="deny", end=None, status="inactive")
    assert follows(read(taken_back, PHONE.sign(taken_back)), signed)
