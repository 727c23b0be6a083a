"""Enrolments: a hospital says which numbers are one person's, and by which passkeys that person signs.

For a child, or an adult who cannot decide, somebody else signs: the enrolment says on what basis, and until when. A
passkey that was lost is revoked, for good. Both decide about what is signed from then on; what was proved stays proved.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cryptography.exceptions import InvalidSignature
from joserfc.jwk import OKPKey

from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.canonical import base64url_decode, canonical_json, parse_json, sha256_hex
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import NationalNumber, PatientIdentifier, patient_identifier
from usmed.domain.request_signature import Keys, sign_document, signed_at, verify_document
from usmed.domain.ticket import MAXIMUM_IDENTIFIERS

ENROLMENT_TYPE = "usmed-enrolment"
LIMIT_BYTES = 65536
MAXIMUM_PASSKEYS = 10
MAXIMUM_REVOKED = 50
LONGEST_ID = 1023
"""Of a passkey, in bytes (WebAuthn Level 2 §4, Credential ID)."""

LONGEST_KEY = 4096
"""Of a passkey, in bytes: an RSA key of 16,384 bits has 2 KB."""

MOST_OF_A_KIND = 20
MAXIMUM_NEEDED = 2 * MOST_OF_A_KIND + MAXIMUM_IDENTIFIERS
"""How many enrolments prove one signature: those that add a passkey, that revoke it, and that link to these."""

KEY_TYPES = {-7: 2, -8: 1, -257: 3}
"""The algorithms of passkeys, with the type of their keys: ES256, EdDSA and RS256 (RFC 9053 §2, RFC 8812 §2)."""

KEY_FAULTS = (ValueError, KeyError, TypeError, IndexError, RecursionError, struct.error, NotImplementedError)
"""What fido2 raises where a key or a signature is none."""

_LAST_SECOND = 253_402_300_799
"""The end of the year 9999, after which there is no time to write."""


class Basis(StrEnum):
    """Why somebody else signs for the patient."""

    PARENT = "parent"
    GUARDIAN = "guardian"
    COURT = "court"


@dataclass(frozen=True, slots=True)
class Guardian:
    """Somebody else signs for the patient: on what basis, and until when (aware UTC, whole seconds, not included)."""

    basis: Basis
    until: datetime


@dataclass(frozen=True, slots=True)
class Credential:
    """A passkey: its id, and the public key in COSE form (RFC 9052 §7)."""

    id: bytes
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A hospital says which numbers are one person's, and which passkeys count for that person.

    Attributes:
        hospital: who enrolled, verified.
        patient: the identifiers that the hospital saw a document for.
        credentials: the passkeys that are added; none where only numbers are stated, or passkeys revoked.
        at: aware UTC.
        guardian: whose passkeys these are, if they are not the patient's own.
        revoked: ids of passkeys that no longer count for this person.
    """

    hospital: str
    patient: frozenset[PatientIdentifier]
    credentials: tuple[Credential, ...]
    at: datetime
    guardian: Guardian | None = None
    revoked: frozenset[bytes] = frozenset()


def enrol(
    key: OKPKey,
    *,
    hospital: str,
    patient: Iterable[PatientIdentifier],
    credentials: Sequence[Credential] = (),
    guardian: Guardian | None = None,
    revoked: Collection[bytes] = (),
    now: datetime,
) -> str:
    """Return the enrolment of a patient, a compact JWS signed by the hospital's node.

    Args:
        key: the node's private key.
        hospital: its id.
        patient: the numbers of one person, whose identity document was seen.
        credentials: the passkeys to add.
        guardian: whose they are, if not the patient's own.
        revoked: ids of passkeys that no longer count for this person.
        now: aware UTC.
    """
    document: dict[str, Any] = {
        "typ": ENROLMENT_TYPE,
        "patient": [{"issuer": one.issuer, "value": one.value} for one in sorted(patient)],
        "credentials": [{"id": one.id.hex(), "public_key": one.public_key.hex()} for one in credentials],
        "iat": int(now.timestamp()),
    }
    if guardian is not None:
        document["guardian"] = {"basis": guardian.basis.value, "until": int(guardian.until.timestamp())}
    if revoked:
        document["revoked"] = sorted(one.hex() for one in revoked)
    return sign_document(key, sender=hospital, document=document)


def read_enrolment(token: str, *, hospital: str, keys: Keys, now: datetime) -> Enrolment:
    """Check an enrolment that `hospital` signed.

    Raises:
        PeerDataError: not signed by it, malformed, signed in the future, or with a key that no passkey has.
    """
    document = verify_document(token, keys, sender=hospital, limit_bytes=LIMIT_BYTES)
    enrolment = _read(document, hospital)
    signed_at(document["iat"], now)
    if not all(is_passkey_key(one.public_key) for one in enrolment.credentials):
        raise PeerDataError("a passkey's public key is none of ES256, EdDSA or RS256 in COSE form")
    return enrolment


def given_enrolment(
    document: Any, *, keys: Keys, spoken_for: Callable[[str], frozenset[str]], now: datetime
) -> tuple[Enrolment, str]:
    """Check an enrolment as one member of the region brings it to another.

    Args:
        document: `{"hospital", "token"}`, parsed from JSON.
        keys: finds the public key of a hospital of the region; None for anybody else, the hub included.
        spoken_for: the issuers whose numbers a hospital may speak for (`RegionManifest.spoken_for`).
        now: aware UTC.

    Returns:
        What it says, and the token.

    Raises:
        PeerDataError: as `read_enrolment` and `check_enrolled_numbers`.
    """
    if not isinstance(document, dict) or set(document) != {"hospital", "token"}:
        raise PeerDataError("has exactly the members hospital and token")
    hospital, token = document["hospital"], document["token"]
    if not isinstance(hospital, str) or not isinstance(token, str):
        raise PeerDataError("its members are text")
    enrolment = read_enrolment(token, hospital=hospital, keys=keys, now=now)
    check_enrolled_numbers(enrolment, spoken_for)
    return enrolment, token


def held_enrolment(token: str, hospital: str) -> Enrolment:
    """Read an enrolment that was checked when it came: a key that left the region since does not undo it."""
    payload = base64url_decode(token.split(".")[1])
    return _read(parse_json(payload, limit_bytes=LIMIT_BYTES), hospital)


def check_enrolled_numbers(enrolment: Enrolment, spoken_for: Callable[[str], frozenset[str]]) -> None:
    """Make sure that a hospital enrols under its own numbers and, having seen a document, the national one.

    Args:
        enrolment: as `read_enrolment` returned it.
        spoken_for: the issuers whose numbers a hospital may speak for (`RegionManifest.spoken_for`).

    Raises:
        PeerDataError: it speaks for numbers that it does not assign.
    """
    foreign = {one.issuer for one in enrolment.patient} - spoken_for(enrolment.hospital)
    if foreign:
        raise PeerDataError(f"{enrolment.hospital} does not assign numbers of {', '.join(sorted(foreign))}")


def one_person_fault(numbers: Collection[PatientIdentifier], national: NationalNumber | None) -> str:
    """Return why these cannot be one person's numbers; empty if they can."""
    if len(numbers) > MAXIMUM_IDENTIFIERS:
        return f"one person has at most {MAXIMUM_IDENTIFIERS} numbers"
    if national is not None and sum(one.issuer == national.issuer for one in numbers) > 1:
        return "one person has one national number"
    return ""


def linked(identifier: PatientIdentifier, enrolments: Iterable[Enrolment]) -> frozenset[PatientIdentifier]:
    """Return all identifiers that hospitals have enrolled together with this one, itself included."""
    known = {identifier}
    rest = [one.patient for one in enrolments]
    while more := [one for one in rest if one & known]:
        rest = [one for one in rest if not one & known]
        known.update(*more)
    return frozenset(known)


def valid_credentials(enrolments: Collection[Enrolment], now: datetime) -> list[Credential]:
    """Return the passkeys by which a person can sign now.

    Args:
        enrolments: all that are known of this person, and of nobody else.
        now: aware UTC.

    Returns:
        Each once: those that no enrolment revokes, and of guardians those whose time is not over.
    """
    gone = {id for one in enrolments for id in one.revoked}
    counting = [one for one in enrolments if one.guardian is None or now < one.guardian.until]
    return list(dict.fromkeys(each for one in counting for each in one.credentials if each.id not in gone))


def needed_for(enrolments: Sequence[Enrolment], credential: Credential, patient: PatientIdentifier) -> list[Enrolment]:
    """Return those by which a signature of this passkey is proved for the number it is given under.

    They add the passkey or revoke it, or link such a one to the number. The key counts, not only the passkey's id:
    whoever enrols other keys under the same id must not crowd out the patient's.

    Args:
        enrolments: all that are known of this person.
        credential: the passkey that signs.
        patient: the number under which it signs.

    Returns:
        At most `MAXIMUM_NEEDED`, in the order given, each once; none if nothing links the passkey to the number, or if
        these are more numbers than one person has.
    """
    # From the number outwards: how each one was reached. Each adds a number at least, and a person has few.
    ways: dict[PatientIdentifier, list[Enrolment]] = {patient: []}
    frontier = [patient]
    while frontier and len(ways) <= MAXIMUM_IDENTIFIERS:
        reached, frontier = frontier, []
        for number in reached:
            for one in (each for each in enrolments if number in each.patient):
                for new in sorted(one.patient - ways.keys()):
                    ways[new] = [*ways[number], one]
                    frontier.append(new)
    if len(ways) > MAXIMUM_IDENTIFIERS:
        # Key servers take nobody for one person who has more.
        return []
    linked_ones = [one for one in enrolments if one.patient & ways.keys()]
    adding = [one for one in linked_ones if credential in one.credentials]
    # Those that count for longest: the patient's own before a guardian's.
    adding.sort(key=lambda one: (one.guardian is not None, -one.guardian.until.timestamp() if one.guardian else 0))
    revoking = [one for one in linked_ones if credential.id in one.revoked]
    needed: set[Enrolment] = set()
    for one in [*revoking[:MOST_OF_A_KIND], *adding[:MOST_OF_A_KIND]]:
        nearest = min((ways[each] for each in one.patient & ways.keys()), key=len)
        needed.update(nearest, [one])
    return [one for one in dict.fromkeys(enrolments) if one in needed] if adding else []


def is_passkey_key(public_key: bytes) -> bool:
    """Tell whether this is a key by which passkeys sign, in COSE form (RFC 9052 §7): one that can check signatures."""
    # Here, because a node that is told of nothing but paper needs none of its 1.6 MB.
    from fido2 import cbor
    from fido2.cose import CoseKey

    try:
        key = CoseKey.parse(dict(cbor.decode(public_key)))  # type: ignore[arg-type]
        if KEY_TYPES.get(key[3]) != key[1]:
            return False
        key.verify(b"", b"")
    except InvalidSignature:
        return True
    except KEY_FAULTS:
        return False
    return False


def comparison_code(credential: Credential) -> str:
    """Return six digits that tell one passkey from another, as `123 456`: the clerk and the patient compare them."""
    content = canonical_json({"id": credential.id.hex(), "public_key": credential.public_key.hex()})
    digits = f"{int(sha256_hex(content), 16) % 1_000_000:06d}"
    return f"{digits[:3]} {digits[3:]}"


def _read(document: Any, hospital: str) -> Enrolment:
    required, optional = {"typ", "patient", "credentials", "iat"}, {"guardian", "revoked"}
    if not isinstance(document, dict) or not required <= set(document) <= required | optional:
        raise PeerDataError(
            "an enrolment has exactly the members typ, patient, credentials and iat, and perhaps guardian and revoked"
        )
    if document["typ"] != ENROLMENT_TYPE:
        raise PeerDataError("the document is no enrolment")
    patient, credentials, revoked = document["patient"], document["credentials"], document.get("revoked")
    if not isinstance(patient, list) or not 1 <= len(patient) <= MAXIMUM_IDENTIFIERS:
        raise PeerDataError(f"an enrolment names 1 to {MAXIMUM_IDENTIFIERS} identifiers of one patient")
    if not isinstance(credentials, list) or len(credentials) > MAXIMUM_PASSKEYS:
        raise PeerDataError(f"an enrolment has at most {MAXIMUM_PASSKEYS} passkeys")
    if "revoked" in document and (not isinstance(revoked, list) or not 1 <= len(revoked) <= MAXIMUM_REVOKED):
        raise PeerDataError(f"an enrolment that revokes passkeys revokes 1 to {MAXIMUM_REVOKED}")
    if not credentials and not revoked and len(patient) < 2:
        raise PeerDataError("an enrolment has a passkey, or revokes one, or else joins at least 2 identifiers")
    if not credentials and "guardian" in document:
        raise PeerDataError("who acts for a patient has a passkey")
    try:
        identifiers = frozenset(patient_identifier(one["issuer"], one["value"]) for one in patient)
        added = tuple(Credential(bytes.fromhex(one["id"]), bytes.fromhex(one["public_key"])) for one in credentials)
        gone = frozenset(bytes.fromhex(one) for one in revoked or ())
    except (KeyError, TypeError, ValueError) as error:
        raise PeerDataError("an enrolment's identifiers or passkeys are malformed") from error
    if not all(1 <= len(one) <= LONGEST_ID for one in (*gone, *(each.id for each in added))):
        raise PeerDataError(f"a passkey's id has 1 to {LONGEST_ID} bytes")
    if not all(1 <= len(one.public_key) <= LONGEST_KEY for one in added):
        raise PeerDataError(f"a passkey's public key has 1 to {LONGEST_KEY} bytes")
    if gone & {one.id for one in added}:
        raise PeerDataError("an enrolment adds a passkey or revokes it, not both")
    at = _moment(document["iat"])
    guardian = _guardian(document["guardian"]) if "guardian" in document else None
    if guardian is not None and guardian.until <= at:
        raise PeerDataError("the time of who acts for the patient was over at the enrolment")
    return Enrolment(hospital, identifiers, added, at, guardian, gone)


def _guardian(element: Any) -> Guardian:
    if not isinstance(element, dict) or set(element) != {"basis", "until"}:
        raise PeerDataError("who acts for a patient has exactly the members basis and until")
    if element["basis"] not in list(Basis):
        raise PeerDataError(f"somebody acts for a patient as {', '.join(Basis)}")
    return Guardian(Basis(element["basis"]), _moment(element["until"]))


def _moment(value: Any) -> datetime:
    if type(value) is not int or not 0 <= value <= _LAST_SECOND:
        raise PeerDataError("an enrolment's times are in whole seconds since 1970")
    return datetime.fromtimestamp(value, UTC)


def enrolment_event(enrolment: Enrolment, sender: str, now: datetime) -> AuditEvent:
    """Return what whoever takes an enrolment in writes down; `sender` brought it."""
    return AuditEvent(
        now,
        AuditEventType.IDENTITY,
        sender,
        patient=str(min(enrolment.patient)),
        detail={
            "what": "enrolled",
            "by": enrolment.hospital,
            "passkeys": len(enrolment.credentials),
            "revoked": len(enrolment.revoked),
            "guardian": enrolment.guardian.basis.value if enrolment.guardian else "",
        },
    )
