"""The access ticket: this hospital may have these data of this patient, for this purpose, until then.

Key servers sign its canonical bytes, one signature each; the requesting hospital carries it; the source verifies it
without asking anybody. Its scope is what the patient's consents say to this hospital for this purpose, denials
included, so that the source decides about each study by the same rules as ever (`domain.consent`). An emergency
(ETREAT) needs no consent: its scope is everything, without what the patient denied for emergencies too; two members
of staff and a reason stand in the ticket instead.
Claims carry the names of RFC 7519 §4.1 and RFC 7800 §3.1 where these have one.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.canonical import canonical_json
from usmed.domain.consent import AccessRequest, Consent, Decision, Provision, ProvisionType, Purpose, StudyFacts, decide
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier, is_uid, patient_identifier
from usmed.domain.quorum import Keys, require, verify_quorum

TYPE = "usmed-access-ticket"
LIFE = timedelta(minutes=15)
EMERGENCY_LIFE = timedelta(minutes=60)
LONGEST_LIFE = timedelta(minutes=60)
CLOCK_TOLERANCE = timedelta(seconds=60)
"""How far the clocks of a key server and of a source may be apart."""

LIMIT_BYTES = 65536
MAXIMUM_IDENTIFIERS = 50
MAXIMUM_PROVISIONS = 200
MAXIMUM_CONSENTS = 100
SHORTEST_REASON, LONGEST_REASON = 10, 500


@dataclass(frozen=True, slots=True)
class ConsentReference:
    """A consent that a ticket rests on: its id, its version, and the SHA-256 of its canonical bytes."""

    id: str
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Staff:
    """Who asks, inside the requesting hospital: as that hospital says."""

    id: str
    role: str

    def to_json(self) -> dict[str, str]:
        """Return it as tickets carry it."""
        return {"id": self.id, "role": self.role}


@dataclass(frozen=True, slots=True)
class AccessTicket:
    """What the key servers sign.

    Attributes:
        jti: the ticket's own identifier, 16 to 64 characters.
        region: the region it holds in.
        requester: the hospital that may receive.
        key_thumbprint: thumbprint (RFC 7638) of the key with which the requester signs each use.
        staff: on whose behalf.
        patient: the identifiers it covers.
        purpose: purpose of use.
        scope: what the consents say about this requester and purpose; sorted.
        consents: what the scope rests on; sorted.
        issued, expires: aware UTC, whole seconds.
        confirmed_by: for an emergency, another member of staff who agrees; None otherwise.
        reason: for an emergency, why, in the words of the staff; empty otherwise.
    """

    jti: str
    region: str
    requester: str
    key_thumbprint: str
    staff: Staff
    patient: frozenset[PatientIdentifier]
    purpose: Purpose
    scope: tuple[Provision, ...]
    consents: tuple[ConsentReference, ...]
    issued: datetime
    expires: datetime
    confirmed_by: Staff | None = None
    reason: str = ""

    def decide(self, study: StudyFacts, now: datetime) -> Decision:
        """Decide about one study: the same rules as over the consents themselves, on the ticket's scope."""
        return decide([self.as_consent()], AccessRequest(self.requester, self.purpose), study, now)

    def as_consent(self) -> Consent:
        """Return what it says as one consent of the patient's, under the ids of those that it rests on."""
        names = ",".join(one.id for one in self.consents)
        return Consent(names, 1, self.patient, self.issued - CLOCK_TOLERANCE, self.expires, True, self.scope)

    def to_json(self) -> dict[str, Any]:
        """Return the document that is signed."""
        document: dict[str, Any] = {
            "typ": TYPE,
            "jti": self.jti,
            "aud": self.region,
            "sub": self.requester,
            "cnf": {"jkt": self.key_thumbprint},
            "staff": self.staff.to_json(),
            "patient": [{"issuer": one.issuer, "value": one.value} for one in sorted(self.patient)],
            "purpose": self.purpose.value,
            "scope": [provision_to_json(one) for one in self.scope],
            "consents": [{"id": one.id, "version": one.version, "sha256": one.digest} for one in self.consents],
            "iat": int(self.issued.timestamp()),
            "exp": int(self.expires.timestamp()),
        }
        if self.confirmed_by is not None:
            document["confirmed_by"] = self.confirmed_by.to_json()
        if self.reason:
            document["reason"] = self.reason
        return document


def scope_of(consents: Iterable[Consent], request: AccessRequest, now: datetime) -> tuple[Provision, ...]:
    """Return what consents in force say about a requester and a purpose, as a ticket carries it.

    Recipients and purposes are dropped: the ticket names one of each. The result has one order and no repetition, so
    that key servers which hold the same consents sign the same bytes.
    """
    kept = set()
    for consent in consents:
        if not consent.in_force(now):
            continue
        for one in consent.provisions:
            said_to = not one.recipients or request.recipient in one.recipients
            said_for = not one.purposes or request.purpose in one.purposes
            if said_to and said_for:
                kept.add(
                    Provision(
                        one.type,
                        sources=one.sources,
                        modalities=one.modalities,
                        studies=one.studies,
                        study_date_from=one.study_date_from,
                        study_date_to=one.study_date_to,
                    )
                )
    return tuple(sorted(kept, key=lambda one: canonical_json(provision_to_json(one))))


def emergency_scope(consents: Iterable[Consent], requester: str, now: datetime) -> tuple[Provision, ...]:
    """Return what an emergency opens to a requester: everything, without what the patient denies in emergencies.

    A denial that names ETREAT, or names no purpose and so means all of them (FHIR R4 Consent.provision.purpose), wins;
    one that names other purposes only does not speak of emergencies. Permits do not matter, nothing needs one.
    """
    said = scope_of(consents, AccessRequest(requester, Purpose.ETREAT), now)
    # In the order of `scope_of`: a denial is written before a permit.
    return (*(one for one in said if one.type is ProvisionType.DENY), Provision(ProvisionType.PERMIT))


def denies_everything(scope: Iterable[Provision]) -> bool:
    """Tell whether a scope holds a denial without any bound."""
    return Provision(ProvisionType.DENY) in scope


def emergency_fault(staff: Staff, confirmed_by: Staff | None, reason: str) -> str:
    """Return what is wrong with the people and the reason of an emergency; empty if nothing is."""
    if confirmed_by is None or _name(confirmed_by) == _name(staff):
        return "an emergency needs a second member of staff, not the same one"
    if not SHORTEST_REASON <= len(reason) <= LONGEST_REASON or not reason.isprintable() or reason != reason.strip():
        return f"an emergency needs a reason of {SHORTEST_REASON} to {LONGEST_REASON} characters on one line"
    return ""


def _name(staff: Staff) -> str:
    # One person must not count as two by case, padding, or another way to write a letter.
    return unicodedata.normalize("NFKC", staff.id).strip().casefold()


def permits_anything(scope: Iterable[Provision]) -> bool:
    """Tell whether a scope permits something at all; without that there is nothing to sign."""
    return any(one.type is ProvisionType.PERMIT for one in scope)


def provision_to_json(provision: Provision) -> dict[str, Any]:
    """Return a provision of a scope; what does not constrain is left out."""
    document: dict[str, Any] = {"type": provision.type.value}
    for name in ("sources", "modalities", "studies"):
        if values := getattr(provision, name):
            document[name] = sorted(values)
    if provision.study_date_from is not None:
        document["from"] = provision.study_date_from.isoformat()
    if provision.study_date_to is not None:
        document["to"] = provision.study_date_to.isoformat()
    return document


def parse_ticket(document: Any, *, canonical: bytes | None = None) -> AccessTicket:
    """Read the document of a ticket.

    Args:
        document: parsed from JSON.
        canonical: its canonical bytes, if they are known already.

    Raises:
        PeerDataError: not such a document, with the first fault.
    """
    more = _EMERGENCY_MEMBERS & set(document) if isinstance(document, dict) else set()
    root = _object(document, "ticket", _MEMBERS | more)
    if root["typ"] != TYPE:
        raise PeerDataError("ticket: typ is another one")
    asked, expires = read_asked(root), _instant(root, "exp")
    if not asked.issued < expires <= asked.issued + LONGEST_LIFE:
        raise PeerDataError(f"ticket: lives from iat to exp, at most {LONGEST_LIFE.total_seconds():.0f} s")
    ticket = AccessTicket(
        jti=asked.jti,
        region=_text(root, "aud", 64),
        requester=asked.requester,
        key_thumbprint=_text(_object(root["cnf"], "ticket.cnf", {"jkt"}), "jkt", 43, shortest=43),
        staff=asked.staff,
        patient=asked.patient,
        purpose=asked.purpose,
        scope=tuple(_provision(one) for one in _list(root, "scope", MAXIMUM_PROVISIONS)),
        consents=tuple(_reference(one) for one in _list(root, "consents", MAXIMUM_CONSENTS)),
        issued=asked.issued,
        expires=expires,
        confirmed_by=asked.confirmed_by,
        reason=asked.reason,
    )
    if canonical_json(ticket.to_json()) != (canonical_json(document) if canonical is None else canonical):
        # Order and repetition carry no meaning, so there is one way to write each ticket.
        raise PeerDataError("ticket: not written in its one way")
    return ticket


@dataclass(frozen=True, slots=True)
class Asked:
    """What a ticket and the wish for one have in common; the attributes are those of the ticket."""

    jti: str
    requester: str
    staff: Staff
    patient: frozenset[PatientIdentifier]
    purpose: Purpose
    issued: datetime
    confirmed_by: Staff | None
    reason: str


def read_asked(root: Mapping[str, Any]) -> Asked:
    """Read the members jti, sub, staff, patient, purpose, iat and, for an emergency, confirmed_by and reason.

    Raises:
        PeerDataError: with the first fault. All but the last two have to be there.
    """
    try:
        purpose = Purpose(_text(root, "purpose", 16))
    except ValueError as error:
        raise PeerDataError("ticket: purpose is not a known purpose of use") from error
    asked = Asked(
        jti=_text(root, "jti", 64, shortest=16),
        requester=_text(root, "sub", 32),
        staff=_staff(root, "staff"),
        patient=frozenset(_identifiers(root["patient"])),
        purpose=purpose,
        issued=_instant(root, "iat"),
        confirmed_by=_staff(root, "confirmed_by") if "confirmed_by" in root else None,
        reason=_text(root, "reason", LONGEST_REASON, shortest=SHORTEST_REASON) if "reason" in root else "",
    )
    if purpose is Purpose.ETREAT:
        if fault := emergency_fault(asked.staff, asked.confirmed_by, asked.reason):
            raise PeerDataError(f"ticket: {fault}")
    elif asked.confirmed_by is not None or asked.reason:
        raise PeerDataError(f"ticket: only an emergency has the members {', '.join(sorted(_EMERGENCY_MEMBERS))}")
    return asked


def verify_ticket(
    signed: Any, keys: Keys, *, threshold: int, region: str, requester: str, requester_key: OKPKey, now: datetime
) -> AccessTicket:
    """Check everything about a ticket that does not depend on a study.

    Args:
        signed: the parsed general JWS.
        keys: the current keys of the region's key servers; None for anybody else.
        threshold: how many of them must have signed.
        region: the region's id.
        requester: the hospital that presents it, and has signed this request.
        requester_key: its public key, with which the request was verified: the proof of possession.
        now: aware UTC.

    Raises:
        QuorumError: too few valid signatures.
        PeerDataError: malformed, of another region, another hospital's, or not valid now.
    """
    quorum = verify_quorum(signed, keys, threshold=threshold, limit_bytes=LIMIT_BYTES)
    require(quorum, "the access ticket")
    ticket = parse_ticket(quorum.document, canonical=quorum.payload)
    if ticket.region != region:
        raise PeerDataError("the access ticket is of another region")
    if ticket.requester != requester:
        raise PeerDataError("the access ticket was issued to another hospital")
    if ticket.key_thumbprint != thumbprint(requester_key):
        raise PeerDataError("the access ticket is bound to another key than the one that signed the request")
    if now < ticket.issued - CLOCK_TOLERANCE:
        raise PeerDataError("the access ticket is not valid yet: check both clocks")
    if now >= ticket.expires:
        raise PeerDataError("the access ticket has expired")
    return ticket


def thumbprint(key: OKPKey) -> str:
    """Return the JWK thumbprint of a public Ed25519 key (RFC 7638, RFC 8037 §2)."""
    return str(key.thumbprint())


_MEMBERS = {"typ", "jti", "aud", "sub", "cnf", "staff", "patient", "purpose", "scope", "consents", "iat", "exp"}
_EMERGENCY_MEMBERS = {"confirmed_by", "reason"}


def _staff(root: Mapping[str, Any], name: str) -> Staff:
    element = _object(root[name], f"ticket.{name}", {"id", "role"})
    return Staff(_text(element, "id", 64), _text(element, "role", 64))


def _identifiers(value: Any) -> Iterable[PatientIdentifier]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAXIMUM_IDENTIFIERS:
        raise PeerDataError(f"ticket.patient: must be a list of 1 to {MAXIMUM_IDENTIFIERS} identifiers")
    for one in value:
        element = _object(one, "ticket.patient", {"issuer", "value"})
        yield patient_identifier(element["issuer"], element["value"])


def _provision(value: Any) -> Provision:
    if not isinstance(value, dict) or "type" not in value or not set(value) <= _PROVISION_MEMBERS:
        raise PeerDataError("ticket.scope: an element has type and at most sources, modalities, studies, from, to")
    try:
        kind = ProvisionType(_text(value, "type", 8))
    except ValueError as error:
        raise PeerDataError("ticket.scope: type is permit or deny") from error
    studies = _texts(value, "studies", 64)
    if not all(map(is_uid, studies)):
        raise PeerDataError("ticket.scope: studies holds something that is no UID")
    return Provision(
        kind,
        sources=_texts(value, "sources", 32),
        modalities=_texts(value, "modalities", 16),
        studies=studies,
        study_date_from=_day(value, "from"),
        study_date_to=_day(value, "to"),
    )


_PROVISION_MEMBERS = {"type", "sources", "modalities", "studies", "from", "to"}


def _reference(value: Any) -> ConsentReference:
    element = _object(value, "ticket.consents", {"id", "version", "sha256"})
    version = element["version"]
    if type(version) is not int or version < 1:
        raise PeerDataError("ticket.consents: version is not a whole number from 1")
    digest = _text(element, "sha256", 64, shortest=64)
    return ConsentReference(_text(element, "id", 64), version, digest)


def _object(value: Any, path: str, members: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or set(value) != members:
        raise PeerDataError(f"{path}: has exactly the members {', '.join(sorted(members))}")
    return value


def _text(element: Mapping[str, Any], name: str, longest: int, *, shortest: int = 1) -> str:
    value = element[name]
    if not isinstance(value, str) or not shortest <= len(value) <= longest or not value.isprintable():
        raise PeerDataError(f"{name}: must be text of {shortest} to {longest} characters")
    return value


def _texts(element: Mapping[str, Any], name: str, longest: int) -> frozenset[str]:
    if name not in element:
        return frozenset()
    values = element[name]
    if not isinstance(values, list) or not 1 <= len(values) <= 1000:
        # An empty list would not constrain, which is said by leaving it out.
        raise PeerDataError(f"{name}: must be a list of 1 to 1000 texts")
    return frozenset(_text({name: one}, name, longest) for one in values)


def _list(element: Mapping[str, Any], name: str, longest: int) -> list[Any]:
    value = element[name]
    if not isinstance(value, list) or len(value) > longest:
        raise PeerDataError(f"ticket.{name}: must be a list of at most {longest}")
    return value


def _day(element: Mapping[str, Any], name: str) -> date | None:
    if name not in element:
        return None
    text = _text(element, name, 10, shortest=10)
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise PeerDataError(f"{name}: must be a day, YYYY-MM-DD") from error


def _instant(element: Mapping[str, Any], name: str) -> datetime:
    value = element[name]
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise PeerDataError(f"ticket: {name} is not a time in seconds")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise PeerDataError(f"ticket: {name} is not a time in seconds") from error
