"""May this hospital have this study, for this purpose, now? Deny unless permitted; any matching deny wins.

The decision is a pure function of the patient's consents, the request and the time. The source hospital, the
hub and (later) every key server call the same one. How a FHIR Consent becomes these types is in `fhir_consent`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from usmed.domain.identifiers import PatientIdentifier


class Purpose(StrEnum):
    """Purpose of use (HL7 v3 ActReason)."""

    TREAT = "TREAT"
    ETREAT = "ETREAT"
    HRESCH = "HRESCH"


class ProvisionType(StrEnum):
    """FHIR R4 consent provision type."""

    PERMIT = "permit"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Provision:
    """One rule of a consent. An empty set or a missing bound does not constrain (FHIR R4 Consent.provision).

    Attributes:
        type: permit or deny.
        recipients: hospitals that may receive (actor role IRCP); empty means everyone.
        sources: hospitals whose studies are meant (actor role CST); empty means all.
        purposes: purposes of use; empty means all.
        modalities: DICOM Modality values; empty means all.
        studies: Study Instance UIDs; empty means all.
        study_date_from, study_date_to: bounds of StudyDate, both included (provision.dataPeriod).
    """

    type: ProvisionType
    recipients: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    purposes: frozenset[Purpose] = frozenset()
    modalities: frozenset[str] = frozenset()
    studies: frozenset[str] = frozenset()
    study_date_from: date | None = None
    study_date_to: date | None = None


@dataclass(frozen=True, slots=True)
class Consent:
    """One consent of a patient.

    Attributes:
        id: the registry's identifier of it; `version` counts its changes.
        patient: the identifiers it was given under.
        valid_from, valid_until: aware UTC; it holds from the first (included) to the second (excluded).
        active: false once withdrawn, superseded or entered in error: it then says nothing at all.
        provisions: its rules; their order has no meaning.
    """

    id: str
    version: int
    patient: frozenset[PatientIdentifier]
    valid_from: datetime | None
    valid_until: datetime | None
    active: bool
    provisions: tuple[Provision, ...]

    def in_force(self, now: datetime) -> bool:
        """Tell whether the consent speaks at `now` (aware UTC)."""
        return (
            self.active
            and (self.valid_from is None or self.valid_from <= now)
            and (self.valid_until is None or now < self.valid_until)
        )


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What a decision needs to know of one study.

    Attributes:
        study_instance_uid: StudyInstanceUID.
        source: the hospital that made the study (for a guest copy: where it came from); empty when it is not known.
        modalities: ModalitiesInStudy.
        study_date: StudyDate, or None when the study has none.
    """

    study_instance_uid: str
    source: str
    modalities: frozenset[str]
    study_date: date | None


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """Who asks, for what. `recipient` is None for a destination that no region manifest knows."""

    recipient: str | None
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, with the consent that decided (empty when nothing was said) and a reason for the audit log."""

    permitted: bool
    consent_id: str
    reason: str


def decide(consents: Iterable[Consent], request: AccessRequest, study: StudyFacts, now: datetime) -> Decision:
    """Decide about one study.

    Args:
        consents: all consents of the patient, in any order.
        request: who asks and for what purpose.
        study: what is asked for.
        now: aware UTC.

    Returns:
        Permitted only if some consent in force permits and none in force denies.
    """
    permit: Decision | None = None
    for consent in consents:
        if not consent.in_force(now):
            continue
        for provision in consent.provisions:
            if provision.type is ProvisionType.DENY and _may_match(provision, request, study):
                return Decision(False, consent.id, "denied by the patient")
            if provision.type is ProvisionType.PERMIT and permit is None and _matches(provision, request, study):
                permit = Decision(True, consent.id, "permitted by the patient")
    return permit or Decision(False, "", "no consent permits it")


def _matches(provision: Provision, request: AccessRequest, study: StudyFacts) -> bool:
    """A permit holds only where every fact it asks for is known and fits."""
    return (
        (not provision.recipients or request.recipient in provision.recipients)
        and (not provision.sources or study.source in provision.sources)
        and (not provision.purposes or request.purpose in provision.purposes)
        # Every modality of the study must be permitted: a PET/CT is not covered by a permit for CT alone.
        and (not provision.modalities or (bool(study.modalities) and study.modalities <= provision.modalities))
        and (not provision.studies or study.study_instance_uid in provision.studies)
        and _date_fits(provision, study.study_date, unknown=False)
    )


def _may_match(provision: Provision, request: AccessRequest, study: StudyFacts) -> bool:
    """A deny holds wherever it cannot be ruled out: an unknown fact counts as fitting."""
    return (
        (not provision.recipients or request.recipient is None or request.recipient in provision.recipients)
        and (not provision.sources or not study.source or study.source in provision.sources)
        and (not provision.purposes or request.purpose in provision.purposes)
        and (not provision.modalities or not study.modalities or bool(study.modalities & provision.modalities))
        and (not provision.studies or study.study_instance_uid in provision.studies)
        and _date_fits(provision, study.study_date, unknown=True)
    )


def _date_fits(provision: Provision, study_date: date | None, *, unknown: bool) -> bool:
    if provision.study_date_from is None and provision.study_date_to is None:
        return True
    if study_date is None:
        return unknown
    return (provision.study_date_from is None or provision.study_date_from <= study_date) and (
        provision.study_date_to is None or study_date <= provision.study_date_to
    )
