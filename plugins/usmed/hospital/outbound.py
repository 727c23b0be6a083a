"""Every other way out of the hospital passes the same check as a pull: sending by REST, DICOMweb and C-MOVE.

A destination is the hospital's own, or foreign: of another hospital of the region, or unknown. Own ones get what
they always got. What goes to any other is decided study by study from the patient's consents.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from usmed.domain.audit import AuditEvent, AuditEventType, Detail, Outcome
from usmed.domain.consent import Decision, Purpose
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import Naming
from usmed.hospital.archive import Archive, Study
from usmed.hospital.permission import Permissions
from usmed.hospital.settings import ForeignSettings, OwnSettings
from usmed.hospital.store import PullStore
from usmed.platform.audit_log import AuditLog


class Kind(StrEnum):
    """What sort of system a destination is; the value is the name in the settings."""

    MODALITY = "Modalities"
    PEER = "Peers"
    DICOMWEB = "DicomWebServers"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where images would go.

    Attributes:
        kind, name: as in Orthanc's configuration.
        own: it belongs to this hospital.
        hospital: the region's hospital it belongs to, or None if nobody said so.
    """

    kind: Kind
    name: str
    own: bool
    hospital: str | None


class Outbound:
    """Checks what leaves."""

    def __init__(
        self,
        *,
        hospital: str,
        naming: Naming,
        archive: Archive,
        permissions: Permissions,
        pulls: PullStore,
        audit: AuditLog,
        clock: Callable[[], datetime],
        own: OwnSettings,
        foreign: ForeignSettings,
    ) -> None:
        self._hospital = hospital
        self._naming = naming
        self._archive = archive
        self._permissions = permissions
        self._pulls = pulls
        self._audit = audit
        self._clock = clock
        self._own = own
        self._foreign = foreign

    def destination(self, kind: Kind, name: str) -> Destination:
        """Classify a destination; one that no setting names is foreign."""
        own = name in getattr(self._own, kind.value)
        return Destination(kind, name, own, getattr(self._foreign, kind.value).get(name))

    def check_resources(self, destination: Destination, orthanc_ids: Iterable[str], agent: str) -> None:
        """Let resources go, or not: all of them or none.

        Args:
            destination: where they would go.
            orthanc_ids: patients, studies, series or instances.
            agent: who sends.

        Raises:
            RefusedError: at least one study may not go there.
            PeerDataError: one of them is not here, so nothing can be decided about it.
        """
        if destination.own:
            return
        studies: dict[str, Study] = {}
        for one in orthanc_ids:
            found = self._archive.parent_studies([one])
            if not found:
                raise PeerDataError(f"there is no resource {one[:64]} here")
            studies |= {study.orthanc_id: study for study in found}
        self.check_studies(destination, studies.values(), agent)

    def check_studies(self, destination: Destination, studies: Iterable[Study], agent: str) -> None:
        """As `check_resources`, for studies.

        Raises:
            RefusedError: at least one study may not go there.
        """
        if destination.own:
            return
        decided = [(study, *self._decide(study, destination.hospital, agent)) for study in studies]
        refused = [
            f"{study.study_instance_uid} ({decision.reason})"
            for study, decision, _ in decided
            if not decision.permitted
        ]
        for study, decision, granted in decided:
            # What may go does not, beside what may not: nobody is to read that it did.
            beside = decision.permitted and refused
            reason = "another study of the same request may not go" if beside else decision.reason
            self._audit.append(
                AuditEvent(
                    at=self._clock(),
                    event=AuditEventType.RELEASE,
                    agent=agent,
                    peer=destination.hospital or f"{destination.kind}:{destination.name}",
                    patient=self._patient(study),
                    study_instance_uid=study.study_instance_uid,
                    outcome=Outcome.DENIED if refused else Outcome.SUCCESS,
                    reason=reason,
                    detail={**granted, "destination": destination.name},
                )
            ).wait()
        if refused:
            raise RefusedError(
                "no-consent",
                f"{destination.name} is not a system of this hospital, and without the patient's consent nothing goes"
                f" there: {'; '.join(refused[:10])}. If it is one of ours, an administrator lists it under"
                f" Usmed.Own.{destination.kind}.",
            )

    def _decide(self, study: Study, recipient: str | None, agent: str) -> tuple[Decision, dict[str, Detail]]:
        try:
            permission = self._permissions.to_send(study, recipient, Purpose.TREAT, agent)
        except RefusedError as error:
            return Decision(False, "", str(error)), {}
        decision = permission.decide(study, self._source(study))
        return decision, permission.recorded(study, decision)

    def _source(self, study: Study) -> str:
        row = self._pulls.get(study.study_instance_uid)
        if row is not None:
            return row.source
        return "" if study.is_guest else self._hospital

    def _patient(self, study: Study) -> str:
        try:
            return str(study.identifier(self._naming))
        except PeerDataError:
            return ""
