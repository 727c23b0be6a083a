"""Which guest copies may stay here after a patient has changed their will.

A copy rests on what the patient's consents said when it was pulled. Once a patient takes something back, it stays only
if a consent that holds now lets this hospital have that study. A consent that just ends is no such change: what was
rightly received under it stays until it goes unused.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from usmed.domain.consent import AccessRequest, Consent, Decision, ProvisionType, Purpose, StudyFacts, decide
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import AccessTicket


@dataclass(frozen=True, slots=True)
class Change:
    """A patient's will changed in a way that takes something away.

    Attributes:
        consent_id: the consent that was taken back, changed, or denies; empty if it is only known that one was.
        numbers: the patient's, as far as they were told.
    """

    consent_id: str
    numbers: frozenset[PatientIdentifier]


@dataclass(frozen=True, slots=True)
class GuestCopy:
    """What is to be known of a study that was pulled, or is being pulled, from another hospital.

    Attributes:
        study: what consents speak of.
        numbers: whose it is by its source's word; before that has come, whoever it was asked for.
        known_by: all numbers under which it was asked for.
        consents: the ids of those that it was released on.
        emergency: no consent was needed.
    """

    study: StudyFacts
    numbers: frozenset[PatientIdentifier]
    known_by: frozenset[PatientIdentifier]
    consents: frozenset[str]
    emergency: bool

    def concerned_by(self, change: Change) -> bool:
        """Tell whether a change may be about this copy."""
        return change.consent_id in self.consents or not change.numbers.isdisjoint(self.known_by)


@dataclass(frozen=True, slots=True)
class Concerned:
    """One patient: the changes of their will, and the copies here that these may be about."""

    changes: tuple[Change, ...]
    copies: tuple[GuestCopy, ...]


def by_patient(changes: Iterable[Change], copies: Sequence[GuestCopy]) -> list[Concerned]:
    """Put changes and copies together that are about one patient, so that key servers are asked once for each."""
    found: list[Concerned] = []
    for change in changes:
        about = {one.study.study_instance_uid: one for one in copies if one.concerned_by(change)}
        together = [one for one in found if any(each.study.study_instance_uid in about for each in one.copies)]
        for one in together:
            about |= {each.study.study_instance_uid: each for each in one.copies}
        found = [one for one in found if one not in together]
        found.append(Concerned((*(each for one in together for each in one.changes), change), tuple(about.values())))
    return found


def may_stay(
    copy: GuestCopy, tickets: Iterable[AccessTicket], denials: Iterable[Consent], *, recipient: str, now: datetime
) -> Decision:
    """Decide whether a guest copy may stay.

    Args:
        copy: the copy.
        tickets: what key servers signed just now for the numbers it is known by; none if they refused.
        denials: what this hospital was told itself, which key servers may not know yet.
        recipient: this hospital.
        now: aware UTC.

    Returns:
        Permitted only if the copy needed no consent, or a ticket that covers its patient permits it and nothing that
        is known of this patient denies it: the rule by which its source would release it now.
    """
    if copy.emergency:
        return Decision(True, "", "it was received in an emergency")
    said = [*denials]
    for one in tickets:
        consent = one.as_consent()
        if copy.numbers.isdisjoint(one.patient):
            # Any no wins, also under numbers that nobody has proved to be the same person's; a yes needs proof.
            only = tuple(each for each in consent.provisions if each.type is ProvisionType.DENY)
            consent = replace(consent, provisions=only)
        said.append(consent)
    return decide(said, AccessRequest(recipient, Purpose.TREAT), copy.study, now)


def uncovered(copies: Collection[GuestCopy], tickets: Iterable[AccessTicket]) -> bool:
    """Tell whether key servers have to be asked more: some copy's patient is in none of these tickets."""
    covered = frozenset[PatientIdentifier]().union(*(one.patient for one in tickets))
    return any(one.numbers.isdisjoint(covered) for one in copies if not one.emergency)
