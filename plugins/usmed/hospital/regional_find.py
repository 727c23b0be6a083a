"""What the region adds to a local lookup, ready to be shown: our patient number, where it is, how to get it.

Whatever fails here, the local answer stands: local care never waits for, or fails with, the region.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from usmed.domain.errors import UsmedError
from usmed.domain.identifiers import Naming
from usmed.domain.lookup import (
    NEARLINE,
    ONLINE,
    Level,
    Query,
    RemoteAnswer,
    RemoteAnswers,
    Selector,
    only_remote,
)
from usmed.domain.pull import State
from usmed.hospital.archive import Archive
from usmed.hospital.fetch import Fetch
from usmed.hospital.lookup import FederatedLookup, shown_identifier
from usmed.hospital.pulls import Pulls
from usmed.hospital.store import PullRow

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Addition:
    """One entity that the region adds.

    Attributes:
        tags: as shown here.
        answer: as the holder gave it.
        holder_name: the holder's name for people.
        filed_under: the PatientID under which it is, or will be, in this archive.
    """

    tags: dict[str, Any]
    answer: RemoteAnswer
    holder_name: str
    filed_under: str


@dataclass(frozen=True, slots=True)
class Additions:
    """What the region adds to a lookup.

    Attributes:
        entities: to be shown behind the local answers.
        replaced: Study Instance UIDs whose local answer is left out, because only a part of the study is here.
    """

    entities: tuple[Addition, ...] = ()
    replaced: frozenset[str] = frozenset()


class RegionalFind:
    """Joins the region's answers to local ones."""

    def __init__(
        self,
        *,
        naming: Naming,
        archive: Archive,
        lookup: FederatedLookup,
        fetch: Fetch,
        pulls: Pulls,
        hospital_name: Callable[[str], str],
        own_aet: str,
    ) -> None:
        self._naming = naming
        self._archive = archive
        self._lookup = lookup
        self._fetch = fetch
        self._pulls = pulls
        self._hospital_name = hospital_name
        self.own_aet = own_aet

    def selector(self, query: Query) -> Selector | None:
        """Tell which single patient a lookup names, or None: then the region is not asked."""
        return self._lookup.select(query)

    def add(
        self, query: Query, selector: Selector, agent: str, local_uids: Callable[[], Iterable[str]], *, have_local: bool
    ) -> Additions:
        """Ask the region.

        Args:
            query: the lookup.
            selector: the patient it names.
            agent: who asks.
            local_uids: gives the unique keys, at the query's level, of the local answers.
            have_local: whether there is any local answer (at PATIENT level that is the patient).
        """
        try:
            return self._add(query, selector, agent, local_uids, have_local)
        except UsmedError as error:
            log.error("a lookup was answered without the region: %s", error)
            return Additions()

    @property
    def nothing_arriving(self) -> bool:
        """Tell whether every study here is whole."""
        return self._pulls.nothing_arriving

    def is_arriving(self, any_id: str) -> bool:
        """Tell whether only a part of this study is here (Study Instance UID or Orthanc identifier)."""
        return not self._pulls.nothing_arriving and self._pulls.arriving(any_id) is not None

    def _add(
        self,
        query: Query,
        selector: Selector,
        agent: str,
        local_uids: Callable[[], Iterable[str]],
        have_local: bool,
    ) -> Additions:
        if query.level is not Level.PATIENT and "StudyInstanceUID" in query.keys and self._whole(query):
            return Additions()
        found = self._lookup.find(query, selector, agent)
        if query.level in (Level.PATIENT, Level.STUDY):
            self._fetch.looked_up(found, agent)
        if not found.answers:
            return Additions()
        if query.level is Level.PATIENT:
            return Additions() if have_local else Additions(tuple(self._patients(selector, found)))
        pulls = self._pulls.rows({one.study_instance_uid for one in found.answers})
        partial = {one.study_instance_uid for one in found.answers if _is_partial(one, pulls)}
        remote = only_remote(query.level, found.answers, local_uids(), partial)
        entities = tuple(self._addition(selector, found, one, here=_is_here(one, pulls)) for one in remote)
        replaced = frozenset(one.study_instance_uid for one in remote) if query.level is Level.STUDY else frozenset()
        return Additions(entities, replaced)

    def _addition(self, selector: Selector, found: RemoteAnswers, answer: RemoteAnswer, *, here: bool) -> Addition:
        name = self._hospital_name(answer.holder)
        tags = {
            **answer.tags,
            "PatientID": shown_identifier(selector, self._naming, found, answer),
            "RetrieveAETitle": self.own_aet,
            "InstanceAvailability": ONLINE if here else NEARLINE,
            # No attribute of a study names its holder; the institution is the one that workstations show.
            "InstitutionName": name,
        }
        if selector.identifier is not None:
            tags["IssuerOfPatientID"] = selector.identifier.issuer
        return Addition(tags, answer, name, self._naming.local_patient_id(found.identifiers | {answer.identifier}))

    def _patients(self, selector: Selector, found: RemoteAnswers) -> list[Addition]:
        """Return the person, once, with the counts of what the region may show."""
        patients: dict[str, Addition] = {}
        for answer in found.answers:
            one = self._addition(selector, found, answer, here=False)
            patient = patients.setdefault(one.tags["PatientID"], one)
            counts = patient.tags
            counts["NumberOfPatientRelatedStudies"] = str(int(counts.get("NumberOfPatientRelatedStudies", 0)) + 1)
            counts["NumberOfPatientRelatedInstances"] = str(
                int(counts.get("NumberOfPatientRelatedInstances", 0)) + answer.instances
            )
        return list(patients.values())

    def _whole(self, query: Query) -> bool:
        uid = str(query.keys["StudyInstanceUID"])
        return not self.is_arriving(uid) and bool(self._archive.study(uid))


def _is_partial(answer: RemoteAnswer, pulls: Mapping[str, PullRow]) -> bool:
    """Tell whether a guest copy is here that lacks something the holder has."""
    row = pulls.get(answer.study_instance_uid)
    return row is not None and (row.state is not State.COMPLETE or row.instances < answer.instances)


def _is_here(answer: RemoteAnswer, pulls: Mapping[str, PullRow]) -> bool:
    """Tell whether a whole guest copy is here, though under another of the patient's numbers."""
    return answer.study_instance_uid in pulls and not _is_partial(answer, pulls)
