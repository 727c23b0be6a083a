"""What a key server signs: the whole decision about a ticket, recomputed from proved inputs alone.

The requesting hospital proposes a ticket; every key server builds the same one from what it holds itself and what the
request brought along, and signs only if both are the same. A server that knows more (a withdrawal, a denial) builds
another ticket and refuses; the requester learns what it lacks and proposes anew.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from joserfc.jwk import OKPKey

from usmed.domain.consent import AccessRequest, Consent, Purpose
from usmed.domain.consent_record import ConsentRecord, Enrolment
from usmed.domain.errors import RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import (
    CLOCK_TOLERANCE,
    LIFE,
    AccessTicket,
    ConsentReference,
    Staff,
    permits_anything,
    scope_of,
    thumbprint,
)

NO_CONSENT = "no-consent"
DIFFERS = "differs"
NOT_ONE_PERSON = "not-one-person"
MALFORMED = "malformed"


def linked(identifier: PatientIdentifier, enrolments: Iterable[Enrolment]) -> frozenset[PatientIdentifier]:
    """Return all identifiers that hospitals have enrolled together with this one, itself included."""
    known = {identifier}
    rest = [one.patient for one in enrolments]
    while more := [one for one in rest if one & known]:
        rest = [one for one in rest if not one & known]
        known.update(*more)
    return frozenset(known)


def records_of(
    identifier: PatientIdentifier, records: Iterable[ConsentRecord], enrolments: Sequence[Enrolment]
) -> list[ConsentRecord]:
    """Return the records of the person whom an identifier names, by id."""
    names = linked(identifier, enrolments)
    return sorted((one for one in records if one.consent.patient & names), key=lambda one: one.consent.id)


def propose(
    *,
    jti: str,
    region: str,
    requester: str,
    requester_key: OKPKey,
    staff: Staff,
    patient: frozenset[PatientIdentifier],
    purpose: Purpose,
    records: Sequence[ConsentRecord],
    enrolments: Sequence[Enrolment],
    issued: datetime,
    life: timedelta = LIFE,
) -> AccessTicket:
    """Build the ticket that proved consents allow.

    Args:
        jti: a new identifier, 22 characters or more of randomness.
        region: the region's id.
        requester, requester_key: the hospital, and its public key in the region manifest.
        staff: on whose behalf.
        patient: the identifiers asked for.
        purpose: purpose of use.
        records: the newest version of each consent that is known, of whomever.
        enrolments: that are known, of whomever.
        issued: aware UTC, whole seconds.
        life: how long it is valid, LIFE at most.

    Raises:
        RefusedError: no consent permits anything to this requester for this purpose now (`no-consent`); the
            identifiers are not known to be one person's (`not-one-person`).
    """
    found = [records_of(identifier, records, enrolments) for identifier in sorted(patient)]
    if not found or any(one != found[0] for one in found):
        # Else a patient's consent could open another patient's studies: name both, and one of them agrees.
        raise RefusedError(NOT_ONE_PERSON, "these identifiers are not known to be one person's")
    consents = [one.consent for one in found[0]]
    scope = scope_of(consents, AccessRequest(requester, purpose), issued)
    if not permits_anything(scope):
        raise RefusedError(NO_CONSENT, "no consent permits this hospital anything of this patient for this purpose")
    return AccessTicket(
        jti=jti,
        region=region,
        requester=requester,
        key_thumbprint=thumbprint(requester_key),
        staff=staff,
        patient=patient,
        purpose=purpose,
        scope=scope,
        consents=tuple(
            ConsentReference(one.consent.id, one.consent.version, one.digest)
            for one in found[0]
            if one.consent.in_force(issued)
        ),
        issued=issued,
        # A ticket never outlives what it rests on: it ends when the next consent, or denial, begins or ends.
        expires=min([issued + life, *_changes_after(issued, consents)]),
    )


def _changes_after(moment: datetime, consents: Iterable[Consent]) -> Iterable[datetime]:
    for consent in consents:
        if consent.active:
            for bound in (consent.valid_from, consent.valid_until):
                if bound is not None and bound > moment:
                    yield bound.replace(microsecond=0)


def judge(
    ticket: AccessTicket,
    *,
    region: str,
    recipients: Collection[str],
    sender_key: OKPKey,
    records: Sequence[ConsentRecord],
    enrolments: Sequence[Enrolment],
    now: datetime,
) -> None:
    """Agree to a proposed ticket, or refuse.

    Who receives need not be who asks: a source that sends to another hospital asks for it. The ticket is bound to the
    sender's key all the same, so that nobody but the sender can make anything of it.

    Args:
        ticket: what the sender proposes.
        region: this server's region.
        recipients: the hospitals of the region.
        sender_key: the key of the hospital that signed the request, verified.
        records, enrolments: what this server holds, after it has taken in what the request brought.
        now: aware UTC.

    Raises:
        RefusedError: with a code: `malformed`, `no-consent`, `not-one-person`, or `differs` when this server would
            sign another ticket.
    """
    if abs(ticket.issued - now) > CLOCK_TOLERANCE:
        raise RefusedError(MALFORMED, f"the ticket is dated {(ticket.issued - now).total_seconds():+.0f} s from now")
    if ticket.expires - ticket.issued > LIFE:
        raise RefusedError(MALFORMED, f"a ticket lives at most {LIFE.total_seconds():.0f} s")
    if ticket.purpose is not Purpose.TREAT:
        raise RefusedError(NO_CONSENT, f"a ticket for {ticket.purpose} is not given automatically")
    if ticket.requester not in recipients:
        raise RefusedError(NO_CONSENT, f"there is no hospital {ticket.requester!r} in this region")
    expected = propose(
        jti=ticket.jti,
        region=region,
        requester=ticket.requester,
        requester_key=sender_key,
        staff=ticket.staff,
        patient=ticket.patient,
        purpose=ticket.purpose,
        records=records,
        enrolments=enrolments,
        issued=ticket.issued,
        life=ticket.expires - ticket.issued,
    )
    if expected != ticket:
        raise RefusedError(DIFFERS, "this server knows other consents of this patient than the ticket rests on")
