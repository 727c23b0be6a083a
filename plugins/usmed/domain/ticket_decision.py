"""What a key server signs: the whole decision about a ticket, recomputed from proved inputs alone.

The requesting hospital says for whom, by whom and what for; every key server builds the ticket from what it holds and
what the request brought along, and signs what it built. Servers that know the same build the same bytes. One that knows
more (a withdrawal, a denial) builds another ticket or none; the requester then brings each what the others hold, and
asks anew.

An emergency is decided here as well, by the rule turned round: everything of one patient, unless the patient denied it.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from joserfc.jwk import OKPKey

from usmed.domain.consent import AccessRequest, Consent, ProvisionType, Purpose
from usmed.domain.consent_record import ConsentRecord
from usmed.domain.enrolment import Enrolment, linked
from usmed.domain.errors import RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import (
    CLOCK_TOLERANCE,
    EMERGENCY_LIFE,
    LIFE,
    MAXIMUM_CONSENTS,
    MAXIMUM_IDENTIFIERS,
    MAXIMUM_PROVISIONS,
    AccessTicket,
    ConsentReference,
    Staff,
    denies_everything,
    emergency_fault,
    emergency_scope,
    permits_anything,
    scope_of,
    thumbprint,
)
from usmed.domain.ticket_wish import TicketWish

NO_CONSENT = "no-consent"
NOT_ONE_PERSON = "not-one-person"
MALFORMED = "malformed"
DENIED_BY_PATIENT = "denied-by-patient"


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
    confirmed_by: Staff | None = None,
    reason: str = "",
) -> AccessTicket:
    """Build the ticket that proved consents allow; for an emergency, the one that they do not forbid.

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
        life: how long it is valid, LIFE at most; EMERGENCY_LIFE for an emergency.
        confirmed_by, reason: for an emergency only: another member of staff, and why.

    Raises:
        RefusedError: no consent permits anything to this requester for this purpose now (`no-consent`); the
            identifiers are not known to be one person's (`not-one-person`); the patient forbids even emergencies
            (`denied-by-patient`); an emergency without its people or reason (`malformed`).
    """
    emergency = purpose is Purpose.ETREAT
    if emergency and (fault := emergency_fault(staff, confirmed_by, reason)):
        raise RefusedError(MALFORMED, fault)
    if not emergency and (confirmed_by is not None or reason):
        raise RefusedError(MALFORMED, "only an emergency is confirmed by a second member of staff, with a reason")
    found = [records_of(identifier, records, enrolments) for identifier in sorted(patient)]
    if not found or any(one != found[0] for one in found) or (not found[0] and not _linked(patient, enrolments)):
        # Else a patient's consent could open another patient's studies: name both, and one of them agrees.
        raise RefusedError(NOT_ONE_PERSON, "these identifiers are not known to be one person's")
    # Whether the patient permits something else changes nothing in an emergency: servers that know different permits
    # build the same ticket.
    basis = [one for one in found[0] if not emergency or _speaks_of_emergencies(one.consent, requester)]
    consents = [one.consent for one in basis]
    if emergency:
        scope = emergency_scope(consents, requester, issued)
        if denies_everything(scope):
            raise RefusedError(DENIED_BY_PATIENT, "the patient has forbidden this hospital access in emergencies too")
    else:
        scope = scope_of(consents, AccessRequest(requester, purpose), issued)
        if not permits_anything(scope):
            raise RefusedError(NO_CONSENT, "no consent permits this hospital anything of this patient for this purpose")
    if len(patient) > MAXIMUM_IDENTIFIERS or len(basis) > MAXIMUM_CONSENTS or len(scope) > MAXIMUM_PROVISIONS:
        raise RefusedError(MALFORMED, "there is more to say about this patient than a ticket holds")
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
            for one in basis
            if one.consent.in_force(issued)
        ),
        issued=issued,
        # A ticket never outlives what it rests on: it ends when the next consent, or denial, begins or ends.
        expires=min([issued + life, *_changes_after(issued, consents)]),
        confirmed_by=confirmed_by,
        reason=reason,
    )


def _linked(patient: frozenset[PatientIdentifier], enrolments: Iterable[Enrolment]) -> bool:
    """Without any consent nothing else joins identifiers: nobody's empty list is the same as another nobody's."""
    return patient <= linked(min(patient), enrolments)


def _speaks_of_emergencies(consent: Consent, requester: str) -> bool:
    return any(
        one.type is ProvisionType.DENY
        and (not one.purposes or Purpose.ETREAT in one.purposes)
        and (not one.recipients or requester in one.recipients)
        for one in consent.provisions
    )


def _changes_after(moment: datetime, consents: Iterable[Consent]) -> Iterable[datetime]:
    for consent in consents:
        if consent.active:
            for bound in (consent.valid_from, consent.valid_until):
                if bound is not None and bound > moment:
                    yield bound.replace(microsecond=0)


def grant(
    wish: TicketWish,
    *,
    region: str,
    recipients: Collection[str],
    sender: str,
    sender_key: OKPKey,
    records: Sequence[ConsentRecord],
    enrolments: Sequence[Enrolment],
    now: datetime,
) -> AccessTicket:
    """Decide about a wish: the ticket that this server signs.

    Servers that hold the same build the same bytes. One that knows more builds another ticket, with which its signature
    counts for nothing beside the others', until they know the same.

    Who receives need not be who asks: a source that sends to another hospital asks for it. The ticket is bound to the
    sender's key all the same, so that nobody but the sender can make anything of it.

    Args:
        wish: what the sender asks for.
        region: this server's region.
        recipients: the hospitals of the region.
        sender, sender_key: the hospital that signed the request, verified, and its key.
        records, enrolments: what this server holds, after it has taken in what the request brought.
        now: aware UTC.

    Raises:
        RefusedError: with a code: `malformed`, `no-consent`, `not-one-person` or `denied-by-patient`.
    """
    if abs(wish.issued - now) > CLOCK_TOLERANCE:
        raise RefusedError(MALFORMED, f"the ticket is dated {(wish.issued - now).total_seconds():+.0f} s from now")
    longest = EMERGENCY_LIFE if wish.purpose is Purpose.ETREAT else LIFE
    if wish.life > longest:
        raise RefusedError(MALFORMED, f"a ticket for {wish.purpose} lives at most {longest.total_seconds():.0f} s")
    if wish.purpose not in (Purpose.TREAT, Purpose.ETREAT):
        raise RefusedError(NO_CONSENT, f"a ticket for {wish.purpose} is not given automatically")
    if wish.recipient not in recipients:
        raise RefusedError(NO_CONSENT, f"there is no hospital {wish.recipient!r} in this region")
    if wish.purpose is Purpose.ETREAT and wish.recipient != sender:
        raise RefusedError(MALFORMED, "an emergency is at the hospital that asks")
    persons = _persons(wish.patient, records, enrolments)
    if wish.purpose is Purpose.ETREAT and len(persons) > 1:
        raise RefusedError(NOT_ONE_PERSON, "an emergency is about one patient: are these numbers one's?")
    refusal = RefusedError(NO_CONSENT, "nobody has said anything about this patient's consent")
    denied = [one for one in persons if _denied(one, wish, records, enrolments)]
    for patient in persons:
        if denied not in ([], [patient]):
            # Any no wins over every yes, also under numbers that nobody has proved to be the same person's.
            raise RefusedError(NO_CONSENT, "another of these numbers carries a denial")
        try:
            return propose(
                jti=wish.jti,
                region=region,
                requester=wish.recipient,
                requester_key=sender_key,
                staff=wish.staff,
                patient=patient,
                purpose=wish.purpose,
                records=records,
                enrolments=enrolments,
                issued=wish.issued,
                life=wish.life,
                confirmed_by=wish.confirmed_by,
                reason=wish.reason,
            )
        except RefusedError as error:
            refusal = error
    raise refusal


def _denied(
    patient: frozenset[PatientIdentifier],
    wish: TicketWish,
    records: Sequence[ConsentRecord],
    enrolments: Sequence[Enrolment],
) -> bool:
    """Tell whether somebody has denied something to this hospital for this purpose."""
    consents = [one.consent for one in records_of(min(patient), records, enrolments)]
    scope = scope_of(consents, AccessRequest(wish.recipient, wish.purpose), wish.issued)
    return any(one.type is ProvisionType.DENY for one in scope)


def _persons(
    patient: Iterable[PatientIdentifier], records: Sequence[ConsentRecord], enrolments: Sequence[Enrolment]
) -> list[frozenset[PatientIdentifier]]:
    """Divide numbers into those that are proved to be one person's, each with what else is: most to say first."""
    groups: dict[tuple[tuple[str, ...], frozenset[PatientIdentifier]], set[PatientIdentifier]] = {}
    for identifier in sorted(patient):
        said = tuple(one.digest for one in records_of(identifier, records, enrolments))
        whole = linked(identifier, enrolments)
        # The same consents, or else the same enrolments, make one person.
        groups.setdefault((said, frozenset() if said else whole), set()).update(whole)
    return [frozenset(groups[one]) for one in sorted(groups, key=lambda key: (-len(key[0]), key[0], sorted(key[1])))]
