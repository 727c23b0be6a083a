"""A consent as key servers hold it: the exact document, and what proves that it is the patient's will.

Either the patient signed its canonical bytes with a passkey that a hospital has enrolled (WebAuthn Level 2 §7.2; the
challenge is their SHA-256), or two members of staff of a hospital attest a consent given on paper, which that
hospital's node signs. Taking a consent back is its next version, with the status `inactive`, proved in the same ways.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from cryptography.exceptions import InvalidSignature
from joserfc.jwk import OKPKey

from usmed.domain.canonical import base64url_decode, canonical_json, sha256_hex
from usmed.domain.consent import Consent, ProvisionType, Purpose
from usmed.domain.enrolment import KEY_FAULTS, Credential
from usmed.domain.errors import PeerDataError
from usmed.domain.fhir_consent import consent_from_fhir
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import RelyingParty
from usmed.domain.request_signature import Keys, sign_document, signed_at, verify_document

DOCUMENT_TYPE = "usmed-consent"
ATTESTATION_TYPE = "usmed-consent-attestation"
LIMIT_BYTES = 65536
PAPER_LIFE = timedelta(days=366)
"""The longest that a consent attested by staff may hold; one that the patient signed has no such limit."""

MAXIMUM_VERSION = 1000
"""Of a withdrawal. Others stay below, so that there is a version left to take them back with."""


class ProofKind(StrEnum):
    """Who proves a consent."""

    PASSKEY = "passkey"
    STAFF = "staff"


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """A consent that was proved.

    Attributes:
        consent: what decides.
        digest: SHA-256 of the canonical bytes of the document.
        kind: who proved it.
        by: the hospital that attests, or the id of the patient's credential in hexadecimal digits.
    """

    consent: Consent
    digest: str
    kind: ProofKind
    by: str


def consent_document(resource: Any, *, id: str, version: int) -> dict[str, Any]:
    """Return the document that is proved: a FHIR Consent under an id, in one of its versions."""
    return {"typ": DOCUMENT_TYPE, "id": id, "version": version, "resource": resource}


def challenge(document: Mapping[str, Any]) -> bytes:
    """Return the WebAuthn challenge by which a passkey signs a document: the SHA-256 of its canonical bytes."""
    return bytes.fromhex(sha256_hex(canonical_json(dict(document))))


def attest(
    key: OKPKey, document: Mapping[str, Any], *, hospital: str, staff: Sequence[str], now: datetime
) -> dict[str, Any]:
    """Return the proof by which a node attests a consent on paper for two members of its staff."""
    attestation = {
        "typ": ATTESTATION_TYPE,
        "sha256": sha256_hex(canonical_json(dict(document))),
        "staff": list(staff),
        "iat": int(now.timestamp()),
    }
    token = sign_document(key, sender=hospital, document=attestation)
    return {"kind": ProofKind.STAFF.value, "hospital": hospital, "attestation": token}


def read_record(
    record: Any,
    *,
    keys: Keys,
    credentials: Callable[[PatientIdentifier], Sequence[Credential]],
    relying_party: RelyingParty | None,
    now: datetime,
) -> ConsentRecord:
    """Check a consent and its proof.

    Args:
        record: `{"document": …, "proof": …}`, parsed from JSON.
        keys: finds the public key of a hospital of the region; None for anybody else, the hub included.
        credentials: finds the passkeys that count for a patient now (`enrolment.valid_credentials`).
        relying_party: the region's portal; None where it has none.
        now: aware UTC.

    Raises:
        PeerDataError: malformed, outside the profile of consents, or not proved; the message says which.
    """
    if not isinstance(record, dict) or set(record) != {"document", "proof"}:
        raise PeerDataError("a consent record has exactly the members document and proof")
    document, proof = record["document"], record["proof"]
    if not isinstance(document, dict) or set(document) != {"typ", "id", "version", "resource"}:
        raise PeerDataError("a consent's document has exactly the members typ, id, version and resource")
    if document["typ"] != DOCUMENT_TYPE:
        raise PeerDataError("the document is no consent")
    id, version = document["id"], document["version"]
    if not isinstance(id, str) or not 8 <= len(id) <= 64 or not id.isascii() or not id.replace("-", "").isalnum():
        raise PeerDataError("a consent's id has 8 to 64 letters, digits and hyphens")
    if type(version) is not int or not 1 <= version <= MAXIMUM_VERSION:
        raise PeerDataError(f"a consent's version is a whole number from 1 to {MAXIMUM_VERSION}")
    canonical = canonical_json(document)
    if len(canonical) > LIMIT_BYTES:
        raise PeerDataError(f"a consent has at most {LIMIT_BYTES} bytes")
    consent = consent_from_fhir(document["resource"], id=id, version=version)
    if consent.active and version == MAXIMUM_VERSION:
        raise PeerDataError(f"a consent's version is at most {MAXIMUM_VERSION - 1}: the last one takes it back")
    digest = sha256_hex(canonical)
    if not isinstance(proof, dict):
        raise PeerDataError("a consent's proof is an object")
    if proof.get("kind") == ProofKind.STAFF:
        hospital = _check_attestation(proof, digest, consent, keys, now)
        return ConsentRecord(consent, digest, ProofKind.STAFF, hospital)
    if proof.get("kind") == ProofKind.PASSKEY:
        known = [one for identifier in sorted(consent.patient) for one in credentials(identifier)]
        credential = _check_passkey(proof, challenge(document), known, relying_party)
        return ConsentRecord(consent, digest, ProofKind.PASSKEY, credential.hex())
    raise PeerDataError("a consent is proved by a passkey or by staff")


def check_attested_numbers(record: ConsentRecord, spoken_for: Callable[[str], frozenset[str]]) -> None:
    """Make sure that a hospital attests consents under its own numbers and the national one, not under others'.

    Taking a consent back is open to every hospital: that only takes away.

    Args:
        record: as `read_record` returned it.
        spoken_for: the issuers whose numbers a hospital may speak for (`RegionManifest.spoken_for`).

    Raises:
        PeerDataError: it speaks for numbers that it does not assign.
    """
    if record.kind is not ProofKind.STAFF or not record.consent.active:
        return
    foreign = {one.issuer for one in record.consent.patient} - spoken_for(record.by)
    if foreign:
        raise PeerDataError(f"{record.by} does not assign numbers of {', '.join(sorted(foreign))}")


def held_record(document: Mapping[str, Any], kind: ProofKind, by: str) -> ConsentRecord:
    """Read a document whose proof was checked when it came: a key that left the region since does not undo it."""
    consent = consent_from_fhir(document["resource"], id=document["id"], version=document["version"])
    return ConsentRecord(consent, sha256_hex(canonical_json(dict(document))), kind, by)


def follows(new: ConsentRecord, held: ConsentRecord | None) -> bool:
    """Tell whether a record takes the place of the one that is held under its id.

    What changes nothing does not, and is taken as known, so that whoever brings it need not bring it again: the very
    same one, and, once the consent was withdrawn, another withdrawal or an older version.

    Raises:
        PeerDataError: it never may: two documents of one version, a withdrawal undone, another patient.
    """
    if held is None:
        return True
    if new.digest == held.digest:
        return False
    if new.consent.patient != held.consent.patient:
        raise PeerDataError("this consent's id belongs to a consent of another patient")
    if not held.consent.active:
        if not new.consent.active or new.consent.version < held.consent.version:
            return False
        raise PeerDataError("this consent was withdrawn, which is final: a new consent has an id of its own")
    denies = any(one.type is ProvisionType.DENY for one in held.consent.provisions)
    if denies and new.kind is ProofKind.STAFF and (held.kind is not ProofKind.STAFF or new.by != held.by):
        # To take a denial back is to permit: one hospital's word must not undo what a patient has denied elsewhere.
        raise PeerDataError("this consent denies: only the patient, or the hospital that attested it, changes it")
    if not new.consent.active:
        # Whatever its version: who takes back what an amendment meanwhile changed takes back that too.
        return True
    if new.kind is ProofKind.STAFF and held.kind is ProofKind.PASSKEY:
        raise PeerDataError("the patient signed this consent with a passkey: staff can only take it back")
    if new.consent.version == held.consent.version:
        raise PeerDataError("another document under this consent's id and version is held already")
    if new.consent.version < held.consent.version:
        raise PeerDataError("a newer version of this consent is held already")
    return True


def _check_attestation(proof: Mapping[str, Any], digest: str, consent: Consent, keys: Keys, now: datetime) -> str:
    if set(proof) != {"kind", "hospital", "attestation"}:
        raise PeerDataError("a proof by staff has exactly the members kind, hospital and attestation")
    hospital, token = proof["hospital"], proof["attestation"]
    if not isinstance(hospital, str) or not isinstance(token, str):
        raise PeerDataError("a proof's members are text")
    document = verify_document(token, keys, sender=hospital, limit_bytes=LIMIT_BYTES)
    if not isinstance(document, dict) or set(document) != {"typ", "sha256", "staff", "iat"}:
        raise PeerDataError("an attestation has exactly the members typ, sha256, staff and iat")
    if document["typ"] != ATTESTATION_TYPE or document["sha256"] != digest:
        raise PeerDataError("the attestation is for another consent")
    staff = document["staff"]
    if (
        not isinstance(staff, list)
        or len(staff) != 2
        or not all(isinstance(one, str) and 1 <= len(one.strip()) <= 64 for one in staff)
        # Not by case or padding either: one person must not count as two.
        or staff[0].strip().casefold() == staff[1].strip().casefold()
    ):
        raise PeerDataError("a consent on paper is attested by two different members of staff")
    signed = signed_at(document["iat"], now)
    permits = [one for one in consent.provisions if one.type is ProvisionType.PERMIT]
    if consent.active and permits:
        # What only denies may hold for ever.
        if consent.valid_until is None or consent.valid_until > signed + PAPER_LIFE:
            raise PeerDataError(f"a consent on paper ends at most {PAPER_LIFE.days} days after it was attested")
        if any(Purpose.HRESCH in one.purposes or not one.purposes for one in permits):
            raise PeerDataError("a consent on paper names its purposes, and research is none of them")
    return hospital


def _check_passkey(
    proof: Mapping[str, Any], expected: bytes, known: Sequence[Credential], relying_party: RelyingParty | None
) -> bytes:
    if relying_party is None:
        raise PeerDataError("nobody's passkeys are accepted here: the region has no portal")
    # Here, because a node that is told of nothing but paper needs none of its 1.6 MB.
    from fido2.webauthn import AuthenticatorData, CollectedClientData

    members = {"kind", "credential", "authenticator_data", "client_data", "signature"}
    if set(proof) != members or not all(isinstance(proof[name], str) for name in members):
        raise PeerDataError(f"a proof by passkey has exactly the members {', '.join(sorted(members))}")
    data = {name: base64url_decode(proof[name]) for name in members - {"kind"}}
    # More than one only if hospitals contradict each other: then none of them can shut the other's out.
    enrolled = [one for one in known if one.id == data["credential"]]
    if not enrolled:
        raise PeerDataError(
            "the passkey is not enrolled for this patient, or was revoked, or the time of who acts for the patient is"
            " over: a hospital can enrol one"
        )
    try:
        client = CollectedClientData(data["client_data"])
        authenticator = AuthenticatorData(data["authenticator_data"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, struct.error) as error:
        raise PeerDataError("the passkey's answer is malformed") from error
    # WebAuthn Level 2 §7.2, steps 11 to 20.
    if client.type != CollectedClientData.TYPE.GET.value:
        raise PeerDataError("the passkey was asked for something else than a signature")
    if client.challenge != expected:
        raise PeerDataError("the passkey signed another document")
    if client.origin not in relying_party.origins or client.cross_origin:
        raise PeerDataError("the passkey signed on another site than the region's portal")
    if authenticator.rp_id_hash != bytes.fromhex(sha256_hex(relying_party.id.encode("utf-8"))):
        raise PeerDataError("the passkey belongs to another site than the region's portal")
    if not authenticator.is_user_present() or not authenticator.is_user_verified():
        raise PeerDataError("the phone has not made sure that it was the patient (user verification)")
    signed = data["authenticator_data"] + client.hash
    if not any(_verifies(one.public_key, signed, data["signature"]) for one in enrolled):
        raise PeerDataError("the passkey's signature does not verify")
    return data["credential"]


def _verifies(public_key: bytes, signed: bytes, signature: bytes) -> bool:
    from fido2 import cbor
    from fido2.cose import CoseKey

    try:
        CoseKey.parse(dict(cbor.decode(public_key))).verify(signed, signature)  # type: ignore[arg-type]
    except (InvalidSignature, *KEY_FAULTS):
        return False
    return True
