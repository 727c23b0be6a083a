"""Enforcement at the source: what this hospital shows and sends to another, decided study by study.

Without permission every answer is the one for an unknown patient. The decision rests on whose the study is by
its own DICOM identifiers and on the permission that the request carries (`permission.py`), never on what the requester
says about the patient.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import sha256_hex
from usmed.domain.consent import Decision, Purpose
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import Naming, PatientIdentifier, is_uid
from usmed.domain.lookup import Level, Query
from usmed.domain.manifest import MAXIMUM_INSTANCES, ManifestEntry, StudyManifest, frame_end, frame_header, in_pieces
from usmed.domain.study_record import parse_identifier
from usmed.hospital.archive import Archive, StoredInstance, Study
from usmed.hospital.permission import NO_TICKET, Permission, Permissions
from usmed.hospital.tag_names import is_tag_name
from usmed.platform.audit_log import AuditLog

log = logging.getLogger(__name__)

DIGESTING = 4
"""Instances of one manifest that are read and hashed at the same time: whoever pulls waits for the last of them."""

LISTED = timedelta(minutes=1)
"""How long a manifest's instances are taken for those of the study."""

MAXIMUM_IDENTIFIERS = 50
MAXIMUM_TAGS = 200
LONGEST_CONSENT_ID = 200
UNKNOWN = "there is no such study, or no permission for it"


@dataclass(frozen=True, slots=True)
class Permitted:
    """A study that may go to the requester, whose it is, and by which permission."""

    study: Study
    identifier: PatientIdentifier
    decision: Decision
    permission: Permission


class Release:
    """Answers the other hospitals."""

    def __init__(
        self,
        *,
        hospital: str,
        naming: Naming,
        archive: Archive,
        permissions: Permissions,
        is_guest: Callable[[str], bool],
        audit: AuditLog,
        clock: Callable[[], datetime],
    ) -> None:
        self._is_guest = is_guest
        self._hospital = hospital
        self._naming = naming
        self._archive = archive
        self._permissions = permissions
        self._audit = audit
        self._clock = clock
        self._digests = _DigestCache()
        self._listings = _Listings(clock)

    def lookup(self, sender: str, document: Any) -> dict[str, Any]:
        """Answer a lookup of another hospital.

        Args:
            sender: the requesting hospital, verified.
            document: the request's JSON.

        Returns:
            `{"answers": [...]}`; empty for an unknown patient and for one who has not agreed alike.

        Raises:
            PeerDataError: the request is malformed.
        """
        request = _read_lookup(document)
        permitted = self._permitted(sender, request.wanted)
        answers = []
        for one in permitted:
            query = Query(
                request.level,
                {**request.keys, "PatientID": one.study.patient_id, "StudyInstanceUID": one.study.study_instance_uid},
                request.tags,
                request.case_sensitive,
            )
            if not _names(request.keys, one.study.study_instance_uid):
                continue
            for match in self._archive.find(query):
                answers.append(
                    {
                        "identifier": {"issuer": one.identifier.issuer, "value": one.identifier.value},
                        "study_instance_uid": one.study.study_instance_uid,
                        "instances": one.study.instances,
                        "tags": {**match.tags, "StudyInstanceUID": one.study.study_instance_uid},
                    }
                )
        self._audit.append(
            AuditEvent(
                at=self._clock(),
                event=AuditEventType.LOOKUP,
                agent=sender,
                peer=sender,
                patient=str(permitted[0].identifier if permitted else min(request.wanted.identifiers, default="")),
                study_instance_uid=request.wanted.study_instance_uid,
                outcome=Outcome.SUCCESS if permitted else Outcome.DENIED,
                detail={"level": request.level.value, "answers": len(answers)},
            )
        ).wait()
        return {"answers": answers}

    def manifest(self, sender: str, document: Any) -> StudyManifest:
        """Say what exactly would be sent of one study.

        Raises:
            PeerDataError: the request is malformed.
            RefusedError: no such study, or no permission: the same answer for both.
        """
        wanted = _read_study_request(document)
        one = self._one(sender, wanted)
        stored = self._archive.instances(one.study.orthanc_id)
        self._listings.put(one.study.orthanc_id, stored)
        with ThreadPoolExecutor(DIGESTING, "digest") as pool:
            digests = pool.map(self._digest, stored)
            entries = [
                ManifestEntry(instance.sop_instance_uid, instance.series_instance_uid, size, digest)
                for instance, (size, digest) in zip(stored, digests, strict=True)
            ]
        return StudyManifest(
            source=self._hospital,
            requester=sender,
            study_instance_uid=wanted.study_instance_uid,
            identifier=one.identifier,
            birth_date=one.study.birth_date,
            sex=one.study.sex,
            consent_id=_shortened(one.decision.consent_id),
            entries=tuple(entries),
        )

    def stream(self, sender: str, document: Any) -> Iterator[bytes]:
        """Send instances of one study, as frames of `domain.manifest`, in the order asked for.

        The permission is checked and the release is on disk in the audit log before the first byte leaves.

        Raises:
            PeerDataError: the request is malformed.
            RefusedError: no such study or instance, or no permission.
        """
        wanted = _read_study_request(document)
        listed = document.get("instances")
        if not isinstance(listed, list) or not listed:
            raise PeerDataError("instances: must be a list of [index, SOP Instance UID]")
        one = self._one(sender, wanted)
        instances = self._listings.get(one.study.orthanc_id) or self._archive.instances(one.study.orthanc_id)
        by_uid = {stored.sop_instance_uid: stored for stored in instances}
        try:
            chosen = [(_index(index), by_uid[sop]) for index, sop in listed]
        except (TypeError, ValueError) as error:
            raise PeerDataError("instances: must be a list of [index, SOP Instance UID]") from error
        except KeyError as error:
            raise RefusedError("unknown", UNKNOWN) from error
        self._audit.append(
            AuditEvent(
                at=self._clock(),
                event=AuditEventType.RELEASE,
                agent=sender,
                peer=sender,
                patient=str(one.identifier),
                study_instance_uid=wanted.study_instance_uid,
                reason=one.decision.reason,
                detail={**one.permission.recorded(one.study, one.decision), "instances": len(chosen)},
            )
        ).wait()
        return in_pieces(self._frames(one, chosen))

    def _frames(self, one: Permitted, chosen: Sequence[tuple[int, StoredInstance]]) -> Iterator[bytes]:
        for index, instance in chosen:
            if not one.permission.holds(one.study, self._hospital):
                # The stream ends without its end: the receiver knows that it has a part.
                raise RefusedError("unknown", UNKNOWN)
            # The receiver compares it with the manifest, for which Orthanc has checked it.
            data = self._archive.read_unchecked(instance)
            yield frame_header(index, len(data))
            yield data
        yield frame_end()

    def _one(self, sender: str, wanted: "_Wanted") -> Permitted:
        permitted = self._permitted(sender, wanted)
        if len(permitted) != 1:
            raise RefusedError("unknown", UNKNOWN)
        return permitted[0]

    def _permitted(self, sender: str, wanted: "_Wanted") -> list[Permitted]:
        """Return the studies that may be shown to `sender`: of these identifiers, or the one study that is named."""
        try:
            permission = self._permissions.of_request(sender, wanted.ticket, wanted.purpose)
            if wanted.identifiers and not permission.covers(wanted.identifiers):
                raise RefusedError(NO_TICKET, "the access ticket is another patient's")
        except RefusedError as error:
            self._record_refusal(sender, wanted, error)
            return []
        # By these they are found; whose they are, and whether the permission is about that patient, their own tell.
        identifiers = wanted.identifiers
        candidates: dict[str, Study] = {}
        if wanted.study_instance_uid:
            candidates = {one.orthanc_id: one for one in self._archive.study(wanted.study_instance_uid)}
        else:
            for value in sorted({one.value for one in identifiers}):
                candidates |= {one.orthanc_id: one for one in self._archive.studies_of_patient(value)}
        permitted = []
        for study in candidates.values():
            if study.is_guest or self._is_guest(study.study_instance_uid):
                # It is another hospital's: that one decides, and is asked itself.
                continue
            try:
                own = study.identifiers(self._naming)
            except PeerDataError:
                continue
            if identifiers and not identifiers.intersection(own):
                continue
            decision = permission.decide(study, self._hospital)
            self._record_decision(sender, own[0], study, decision, wanted.purpose, permission.ticket.jti)
            if decision.permitted:
                shown = next((one for one in own if one in identifiers), own[0])
                permitted.append(Permitted(study, shown, decision, permission))
        return permitted

    def _record_refusal(self, sender: str, wanted: "_Wanted", error: RefusedError) -> None:
        self._audit.append(
            AuditEvent(
                at=self._clock(),
                event=AuditEventType.REFUSED,
                agent=sender,
                peer=sender,
                patient=str(min(wanted.identifiers, default="")),
                study_instance_uid=wanted.study_instance_uid,
                outcome=Outcome.DENIED,
                reason=str(error),
                detail={"purpose": wanted.purpose.value},
            )
        ).wait()

    def _record_decision(
        self,
        sender: str,
        identifier: PatientIdentifier,
        study: Study,
        decision: Decision,
        purpose: Purpose,
        ticket_id: str,
    ) -> None:
        self._audit.append(
            AuditEvent(
                at=self._clock(),
                event=AuditEventType.DECISION,
                agent=sender,
                peer=sender,
                patient=str(identifier),
                study_instance_uid=study.study_instance_uid,
                outcome=Outcome.SUCCESS if decision.permitted else Outcome.DENIED,
                reason=decision.reason,
                detail={"consent": decision.consent_id, "purpose": purpose.value, "ticket": ticket_id},
            )
        )

    def _digest(self, instance: StoredInstance) -> tuple[int, str]:
        if known := self._digests.get(instance.file_uuid):
            return known
        data = self._archive.read(instance.orthanc_id)
        result = len(data), sha256_hex(data)
        self._digests.put(instance.file_uuid, result)
        return result


class _DigestCache:
    """Sizes and hashes of instances that were just hashed: a resumed pull asks for them again at once.

    The key is Orthanc's identifier of the stored file (FileUuid), which changes when an instance is overwritten.
    """

    def __init__(self, limit: int = 200_000) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, str]] = {}

    def get(self, file_uuid: str) -> tuple[int, str] | None:
        with self._lock:
            return self._known.get(file_uuid)

    def put(self, file_uuid: str, value: tuple[int, str]) -> None:
        with self._lock:
            if len(self._known) >= self._limit:
                self._known.clear()
            self._known[file_uuid] = value


class _Listings:
    """The instances that a manifest has just named: the streams that follow it ask for no others.

    To list a study of thousands takes Orthanc longer than the streams take to begin.
    """

    def __init__(self, clock: Callable[[], datetime], limit: int = 20_000) -> None:
        self._clock = clock
        self._limit = limit
        self._lock = threading.Lock()
        self._known: dict[str, tuple[datetime, list[StoredInstance]]] = {}

    def get(self, study_orthanc_id: str) -> list[StoredInstance] | None:
        with self._lock:
            at, instances = self._known.get(study_orthanc_id, (None, None))
        return instances if at is not None and self._clock() - at < LISTED else None

    def put(self, study_orthanc_id: str, instances: list[StoredInstance]) -> None:
        """Remember the newest listings, of so many instances in all as the limit says."""
        with self._lock:
            self._known.pop(study_orthanc_id, None)
            self._known[study_orthanc_id] = self._clock(), instances
            while sum(len(one) for _, one in self._known.values()) > self._limit:
                del self._known[next(iter(self._known))]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Whose data, or which study, for what, with which ticket."""

    identifiers: frozenset[PatientIdentifier]
    study_instance_uid: str
    purpose: Purpose
    ticket: Any


@dataclass(frozen=True, slots=True)
class _LookupRequest:
    wanted: _Wanted
    level: Level
    keys: Mapping[str, Any]
    tags: tuple[str, ...]
    case_sensitive: bool


_LOOKUP_MEMBERS = {
    "identifiers", "study_instance_uid", "level", "keys", "tags", "case_sensitive", "purpose", "ticket",
}  # fmt: skip


def _read_lookup(document: Any) -> _LookupRequest:
    if not isinstance(document, dict) or set(document) != _LOOKUP_MEMBERS:
        raise PeerDataError(f"a lookup has exactly the members {', '.join(sorted(_LOOKUP_MEMBERS))}")
    keys, tags = document["keys"], document["tags"]
    if not isinstance(keys, dict) or not all(isinstance(v, str) and len(v) <= 10_000 for v in keys.values()):
        raise PeerDataError("keys: must be an object of text")
    if not isinstance(tags, list) or len(tags) > MAXIMUM_TAGS or not all(isinstance(tag, str) for tag in tags):
        raise PeerDataError(f"tags: must be a list of at most {MAXIMUM_TAGS} tags")
    unknown = [name for name in (*keys, *tags) if not is_tag_name(name)]
    if unknown:
        raise PeerDataError(f"keys, tags: not in the DICOM dictionary: {', '.join(map(repr, unknown[:5]))}"[:300])
    if document["level"] not in (Level.STUDY, Level.SERIES, Level.IMAGE):
        raise PeerDataError("level: must be STUDY, SERIES or IMAGE")
    wanted = _read_wanted(document)
    if not wanted.study_instance_uid and not wanted.identifiers:
        raise PeerDataError("a lookup names a patient or a study")
    return _LookupRequest(wanted, Level(document["level"]), keys, tuple(tags), document["case_sensitive"] is True)


def _read_study_request(document: Any) -> _Wanted:
    if not isinstance(document, dict):
        raise PeerDataError("the request is not an object")
    wanted = _read_wanted(document)
    if not wanted.study_instance_uid:
        raise PeerDataError("study_instance_uid: is missing")
    return wanted


def _read_wanted(document: Mapping[str, Any]) -> _Wanted:
    uid = document.get("study_instance_uid")
    if not isinstance(uid, str) or (uid and not is_uid(uid)):
        raise PeerDataError("study_instance_uid: is not a UID")
    listed = document.get("identifiers")
    if not isinstance(listed, list) or len(listed) > MAXIMUM_IDENTIFIERS:
        raise PeerDataError(f"identifiers: must be a list of at most {MAXIMUM_IDENTIFIERS}")
    identifiers = frozenset(parse_identifier(one) for one in listed)
    if "ticket" not in document:
        raise PeerDataError("ticket: is missing")
    try:
        purpose = Purpose(str(document.get("purpose")))
    except ValueError as error:
        raise PeerDataError("purpose: is not a known purpose of use") from error
    return _Wanted(identifiers, uid, purpose, document["ticket"])


def _shortened(consents: str) -> str:
    """Name the first of many consents: a manifest has room for a few ids, and a patient may give any number."""
    first, *others = consents.split(",")
    return f"{first} and {len(others)} more" if len(consents) > LONGEST_CONSENT_ID else consents


def _index(value: object) -> int:
    if type(value) is not int or not 0 <= value < MAXIMUM_INSTANCES:
        raise ValueError
    return value


def _names(keys: Mapping[str, Any], study_instance_uid: str) -> bool:
    """Tell whether the StudyInstanceUID key, possibly a list (PS3.4 C.2.2.2.2), admits this study."""
    value = keys.get("StudyInstanceUID")
    return not value or study_instance_uid in value.split("\\")
