"""Who else knows this patient, and where are studies? Told only as far as the patient's consents let it be known."""

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import datetime

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.consent import AccessRequest, Purpose, decide
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import Hospital, RegionManifest
from usmed.hub import charts, studies
from usmed.hub.known import Known, Lookup
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database


@dataclass(frozen=True, slots=True)
class Question:
    """What names the patient: exactly one of these is given."""

    identifier: PatientIdentifier | None = None
    study_instance_uid: str = ""
    accession_number: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A patient's numbers, and how many permitted studies each other hospital holds.

    It is empty, and the same, for an unknown patient, for a question that fits several, and without permission.
    """

    identifiers: tuple[PatientIdentifier, ...] = ()
    holders: tuple[tuple[str, int], ...] = ()


NOTHING = Resolution()


class Resolver:
    """The use case of a lookup."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        region: Callable[[], RegionManifest],
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._region = region
        self._clock = clock

    def resolve(self, hospital: Hospital, question: Question, purpose: Purpose) -> Resolution:
        """Answer a hospital's lookup, once its audit record is durable.

        Raises:
            StorageError: the database fails, or the lookup could not be recorded.
        """
        now = self._clock()
        known = _known(self._database, question)
        answer, reason = NOTHING, "names several patients" if known.persons else "nobody known"
        patient = question.identifier
        if len(known.persons) == 1:
            patient = patient or min((number for one in known.numbers.values() for number in one), default=None)
            others = self._region().hospitals.keys() - {hospital.id}
            answer, reason = _answer(known, hospital, others, purpose, now)
        self._audit.append(
            AuditEvent(
                now,
                AuditEventType.LOOKUP,
                hospital.id,
                patient=str(patient or ""),
                study_instance_uid=question.study_instance_uid,
                outcome=Outcome.SUCCESS if answer.holders else Outcome.DENIED,
                reason=reason,
                detail={"purpose": purpose.value, "holders": dict(answer.holders)}
                | ({"accession_number": question.accession_number} if question.accession_number else {}),
            )
        ).wait()
        return answer


_BY_NUMBER = Lookup(charts.persons_by_number())
_BY_STUDY = Lookup(studies.persons_by_study())
_BY_ACCESSION_NUMBER = Lookup(studies.persons_by_accession_number())


def _known(database: Database, question: Question) -> Known:
    if question.identifier is not None:
        return _BY_NUMBER.run(
            database, {"issuer": question.identifier.issuer, "value": question.identifier.value}
        )
    if question.study_instance_uid:
        return _BY_STUDY.run(database, {"study_instance_uid": question.study_instance_uid})
    return _BY_ACCESSION_NUMBER.run(database, {"accession_number": question.accession_number})


def _answer(
    known: Known, hospital: Hospital, others: Set[str], purpose: Purpose, now: datetime
) -> tuple[Resolution, str]:
    request = AccessRequest(hospital.id, purpose)
    permitted = [
        study
        for study in known.studies
        if study.facts.source in others and decide(known.consents, request, study.facts, now).permitted
    ]
    if not permitted:
        return NOTHING, "no permission, or no study at another hospital"
    visible = {study.chart for study in permitted}
    visible |= {key for key, held_by in known.hospitals.items() if held_by == hospital.id}
    identifiers = {number for key in visible for number in known.numbers[key]}
    holders = Counter(study.facts.source for study in permitted)
    return Resolution(tuple(sorted(identifiers)), tuple(sorted(holders.items()))), ""
