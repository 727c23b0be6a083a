"""One pull from its manifest to its last hash: what is fetched, verified, filed under the right patient and stored.

The queue and the states are in `pulls.py`; here is what happens between START and VERIFIED.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import batched
from typing import Any, Protocol

from usmed.domain.errors import IdentityConflictError, PeerDataError, RefusedError, TransportError
from usmed.domain.identifiers import Naming, PatientIdentifier, orthanc_id
from usmed.domain.manifest import LIMIT_BYTES, ManifestEntry, StudyManifest, parse_manifest, read_frames
from usmed.domain.region import RegionManifest
from usmed.domain.request_signature import verify_document
from usmed.domain.ticket_decision import NO_CONSENT
from usmed.hospital.archive import ARRIVING_LABEL, GUEST_LABEL, Archive, ArchiveError, Stored
from usmed.hospital.changes import Changes
from usmed.hospital.filing import Filing, check_instance, file_under
from usmed.hospital.guest_store import GuestStore
from usmed.hospital.identities import Poster
from usmed.hospital.store import PullRow, PullStore
from usmed.hospital.tickets import NoTicketError, SignedTicket, Tickets

MANIFEST_PATH = "/federation/v1/manifest"
INSTANCES_PATH = "/federation/v1/instances"
MANIFEST_DEADLINE_S = 120.0
TICKET_DEADLINE_S = 10.0
SAVE_EVERY_S = 0.5
UNKNOWN = "unknown"
"""A source's code for "no such study, or no permission": the one refusal that is an answer."""

BATCH = 5000
"""Instances in one request: some 400 KB, below the largest body that a source accepts."""


class Streamer(Poster, Protocol):
    """Sends a signed request and reads a streamed answer (`platform.signed_http.SignedClient`)."""

    def stream(
        self, member_id: str, path: str, document: Any, *, idle_s: float
    ) -> AbstractContextManager[Callable[[int], bytes]]:
        """Give a reader of the answer."""
        ...


@dataclass
class Progress:
    """A pull that runs in this process; read by pages, C-MOVE and the HTTP filter."""

    row: PullRow
    manifest: StudyManifest | None = None
    verified: bytearray = field(default_factory=bytearray)
    received_bytes: int = 0
    started: float = 0.0
    first_image: float = 0.0
    """When the first instance was stored, as `started` by a clock that only runs forward; 0 before."""
    saved: float = 0.0
    changed: threading.Condition = field(default_factory=threading.Condition)
    done: bool = False
    broken_off: str = ""
    """Why nothing more of it may be written; empty as long as it may."""
    writers: int = 0

    def arrived(self) -> list[int]:
        """Return the indexes of the manifest's entries that are verified and stored."""
        return [index for index, flag in enumerate(self.verified) if flag]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write something of it, here or in the archive.

        Raises:
            RefusedError: it is broken off.
        """
        with self.changed:
            if self.broken_off:
                raise RefusedError(UNKNOWN, self.broken_off)
            self.writers += 1
        try:
            yield
        finally:
            with self.changed:
                self.writers -= 1
                if self.broken_off:
                    # Who waits for instances is told of each already.
                    self.changed.notify_all()

    def break_off(self, reason: str, timeout_s: float) -> bool:
        """Let nothing more of it be written, whatever it waits for; return whether nothing is being written now."""
        with self.changed:
            self.broken_off = reason
            return self.changed.wait_for(lambda: not self.writers, timeout_s)


class Transfer:
    """Carries out pulls, each in the thread that calls `run`."""

    def __init__(
        self,
        *,
        hospital: str,
        naming: Naming,
        region: Callable[[], RegionManifest],
        store: PullStore,
        guests: GuestStore,
        archive: Archive,
        client: Streamer,
        tickets: Tickets,
        changes: Changes,
        clock: Callable[[], datetime],
        connections: int,
        idle_s: float,
    ) -> None:
        self._hospital = hospital
        self._naming = naming
        self._region = region
        self._store = store
        self._guests = guests
        self._archive = archive
        self._client = client
        self._tickets = tickets
        self._changes = changes
        self._clock = clock
        self._connections = connections
        self._idle_s = idle_s
        self._stopping = False

    def stop(self) -> None:
        """Let every pull end after the instance that it is storing now."""
        self._stopping = True

    def announced(self, row: PullRow) -> frozenset[str]:
        """Return the SOP Instance UIDs that the manifest of a pull names.

        Raises:
            PeerDataError: it is not, or no more, to be verified.
        """
        return frozenset(one.sop_instance_uid for one in self._read_manifest(row, row.manifest).entries)

    def run(self, progress: Progress) -> None:
        """Fetch, verify and store what is missing of one study.

        Raises:
            RefusedError: the source does not give it (any more).
            IdentityConflictError: a person has to look at it.
            TransportError, PeerDataError, ArchiveError, StorageError: worth another try; what is verified stays.
        """
        row, progress.started = progress.row, time.monotonic()
        ticket = self._ticket(row)
        manifest, verified = self._manifest(progress, ticket)
        filing = self._filing(row, manifest)
        self._check_identity(row, manifest, filing)
        progress.manifest, progress.verified = manifest, verified
        study = orthanc_id(filing.patient_id, manifest.study_instance_uid)
        missing = [index for index, flag in enumerate(verified) if not flag]
        if missing:
            # The first instance comes alone: it makes the study, which is then labelled before any other arrives.
            self._stream(progress, manifest, filing, missing[:1])
            with progress.writing():
                # In this order: a guest copy that is not marked as arriving is a whole one.
                self._archive.label(study, add=[ARRIVING_LABEL, GUEST_LABEL])
            self._stream_all(progress, manifest, filing, missing[1:])
        with progress.writing():
            # What was told since was checked without the later tickets that it came on.
            self._note_released(row, ticket, manifest)
            self._end(progress, manifest, study, ticket.ticket.jti)

    def _end(self, progress: Progress, manifest: StudyManifest, study: str, ticket_id: str) -> None:
        self._check_whole(progress, manifest, study)
        self._note_arrived(progress.row, manifest, study)
        self._archive.set_provenance(
            study,
            {
                "source": manifest.source,
                "identifier": str(manifest.identifier),
                "consent": manifest.consent_id,
                "instances": len(manifest.entries),
                "pulled": self._clock().isoformat(timespec="seconds"),
                "requested_by": progress.row.requested_by,
                "ticket": ticket_id,
            },
        )
        self._archive.label(study, add=[GUEST_LABEL], remove=[ARRIVING_LABEL])

    def _check_whole(self, progress: Progress, manifest: StudyManifest, study: str) -> None:
        """Complete means that every instance is in the archive now, whole, not that it once was.

        Raises:
            ArchiveError: some are gone (deleted meanwhile, or cut short by a full disk); they will be fetched again.
        """
        # Orthanc knows nothing of a study whose last instance was deleted, and says so by an error.
        whole_study_gone = all(one.orthanc_id != study for one in self._archive.study(manifest.study_instance_uid))
        stored = [] if whole_study_gone else self._archive.instances(study)
        damaged = [one for one in stored if self._archive.is_cut_short(one)]
        for one in damaged:
            self._archive.delete_instance(one.orthanc_id)
        here = {one.sop_instance_uid for one in stored if one not in damaged}
        gone = [index for index, entry in enumerate(manifest.entries) if entry.sop_instance_uid not in here]
        if gone:
            for index in gone:
                progress.verified[index] = 0
            self._save(progress)
            raise ArchiveError(
                f"{len(gone)} instance(s) disappeared from the archive or were cut short while the study was arriving"
            )

    def _note_arrived(self, row: PullRow, manifest: StudyManifest, study: str) -> None:
        """Note what a later change of the patient's will is compared with."""
        here = self._archive.study_by_orthanc_id(study)
        source = self._region().hospitals.get(row.source)
        if here is None:
            return
        speaks_for = {*(source.issuers if source is not None else ())}
        if self._naming.national is not None:
            speaks_for.add(self._naming.national.issuer)
        numbers = {one for one in here.identifiers(self._naming) if one.issuer in speaks_for}
        self._guests.arrived(here.facts(row.source), numbers | {manifest.identifier})

    def _manifest(self, progress: Progress, ticket: SignedTicket) -> tuple[StudyManifest, bytearray]:
        """Ask for the manifest, at every try anew: the source decides again, and may have more by now.

        Returns:
            The manifest, and for each entry whether it is verified and stored already.
        """
        row = progress.row
        try:
            answer = self._client.post(
                row.source,
                MANIFEST_PATH,
                self._request(row, ticket),
                deadline_s=MANIFEST_DEADLINE_S,
                limit_bytes=LIMIT_BYTES * 2,
            )
            token = answer.get("manifest") if isinstance(answer, dict) else None
            if not isinstance(token, str):
                raise PeerDataError("it is missing")
            manifest = self._read_manifest(row, token)
        except PeerDataError as error:
            raise PeerDataError(f"the manifest from {row.source} is not accepted: {error}") from error
        if row.identifiers and manifest.identifier not in row.identifiers:
            raise IdentityConflictError(
                f"{row.source} says that this study is of another patient than the one asked for"
            )
        verified = bytearray(len(manifest.entries))
        if row.manifest:
            earlier = self._read_manifest(row, row.manifest).entries
            have = {entry for entry, flag in zip(earlier, row.verified, strict=True) if flag}
            verified = bytearray(entry in have for entry in manifest.entries)
        with progress.writing():
            self._note_released(row, ticket, manifest)
            self._store.set(
                row.study_instance_uid,
                manifest=token,
                verified=bytes(verified),
                instances=len(manifest.entries),
                size_bytes=manifest.size_bytes,
            )
        return manifest, verified

    def _note_released(self, row: PullRow, ticket: SignedTicket, manifest: StudyManifest) -> None:
        """Note on which ticket a study is released, unless that holds no more.

        A withdrawal that was told before this was noted may have been checked without this copy, because nothing here
        named its consent or its patient yet. Then the copy is put on the list of what has to be checked in the same
        step, and whatever of it is here goes as if the withdrawal had just been told.

        Raises:
            TransportError: it holds no more. The next try asks for another ticket.
        """
        with self._changes.still():
            self._guests.released(
                row.study_instance_uid,
                row.patient_id,
                ticket=ticket.ticket,
                number=manifest.identifier,
                sop_instance_uids=[one.sop_instance_uid for one in manifest.entries],
                unheeded=self._changes.unheeded(ticket.ticket),
                now=self._clock(),
            )
        self._check_not_overtaken(row, ticket)

    def _read_manifest(self, row: PullRow, token: str) -> StudyManifest:
        document = verify_document(token, self._region().key_of, sender=row.source, limit_bytes=LIMIT_BYTES)
        return parse_manifest(
            document, source=row.source, requester=self._hospital, study_instance_uid=row.study_instance_uid
        )

    def _filing(self, row: PullRow, manifest: StudyManifest) -> Filing:
        hospital = self._region().hospitals.get(row.source)
        issuer = next((one.issuer for one in row.identifiers if one.value == row.patient_id), "")
        # The same at every try, so that a file which is stored already can be recognised.
        asked = datetime.fromtimestamp(row.created, UTC)
        return Filing(row.patient_id, issuer, manifest.identifier, hospital.name if hospital else row.source, asked)

    def _check_identity(self, row: PullRow, manifest: StudyManifest, filing: Filing) -> None:
        """Refuse to put the study under a patient who is, by what is already here, somebody else.

        Raises:
            IdentityConflictError: it would.
        """
        for study in self._archive.study(manifest.study_instance_uid):
            if study.patient_id != filing.patient_id:
                raise IdentityConflictError("this study is here already, under another patient")
        known = {*row.identifiers, manifest.identifier}
        for study in self._archive.studies_of_patient(filing.patient_id):
            if study.is_guest:
                continue
            contradictions = [
                name
                for name, here, there in (
                    ("birth date", study.birth_date, manifest.birth_date),
                    ("sex", study.sex, manifest.sex),
                )
                if here and there and here != there and "O" not in (here, there)
            ]
            numbers, others = self._national(study.identifiers(self._naming)), self._national(known)
            if numbers and others and not numbers & others:
                contradictions.append("national number")
            if contradictions:
                raise IdentityConflictError(
                    f"the patient's {' and '.join(contradictions)} here and at {manifest.source} differ: not filed"
                    " under one number until a person has looked at the patient index"
                )
            if not known.intersection(study.identifiers(self._naming)):
                raise IdentityConflictError("the number under which it would be filed belongs to somebody else here")

    def _national(self, identifiers: Iterable[PatientIdentifier]) -> set[str]:
        issuer = self._naming.national.issuer if self._naming.national is not None else None
        return {one.value for one in identifiers if one.issuer == issuer}

    def _stream_all(self, progress: Progress, manifest: StudyManifest, filing: Filing, missing: Sequence[int]) -> None:
        if not missing:
            return
        streams = _shares(manifest.entries, missing, self._connections)
        with ThreadPoolExecutor(max_workers=len(streams), thread_name_prefix="stream") as pool:
            futures = [pool.submit(self._stream, progress, manifest, filing, share) for share in streams]
            wait(futures, return_when=FIRST_EXCEPTION)
            # The others may go on for what they have begun; each verified instance counts.
        for future in futures:
            future.result()

    def _stream(self, progress: Progress, manifest: StudyManifest, filing: Filing, indexes: Sequence[int]) -> None:
        for batch in batched(indexes, BATCH, strict=False):
            self._stream_batch(progress, manifest, filing, batch)

    def _stream_batch(
        self, progress: Progress, manifest: StudyManifest, filing: Filing, indexes: Sequence[int]
    ) -> None:
        row = progress.row
        document = {
            **self._request(row, self._ticket(row)),
            "instances": [[index, manifest.entries[index].sop_instance_uid] for index in indexes],
        }
        with self._client.stream(row.source, INSTANCES_PATH, document, idle_s=self._idle_s) as read:
            try:
                for index, dicom in read_frames(read, manifest.entries, indexes):
                    self._store_instance(progress, manifest, filing, index, dicom)
                    if time.monotonic() - progress.saved > SAVE_EVERY_S:
                        # One of the streams does it for all.
                        progress.saved = time.monotonic()
                        self._save(progress)
                    if self._stopping:
                        raise TransportError("this node is stopping")
            finally:
                self._save(progress)

    def _store_instance(
        self, progress: Progress, manifest: StudyManifest, filing: Filing, index: int, dicom: bytes
    ) -> None:
        entry = manifest.entries[index]
        try:
            check_instance(
                dicom,
                study_instance_uid=manifest.study_instance_uid,
                sop_instance_uid=entry.sop_instance_uid,
                patient_id=manifest.identifier.value,
            )
            filed = file_under(dicom, filing)
            with progress.writing():
                stored = self._archive.store(filed)
                if not stored.is_new:
                    self._replace(stored, filed)
        except PeerDataError as error:
            raise PeerDataError(f"instance {entry.sop_instance_uid} is not accepted: {error}") from error
        except ArchiveError as error:
            raise ArchiveError(f"instance {entry.sop_instance_uid} could not be stored: {error}") from error
        if stored.study_orthanc_id != orthanc_id(filing.patient_id, manifest.study_instance_uid):
            raise IdentityConflictError(f"instance {entry.sop_instance_uid} was filed under another study or patient")
        with progress.changed:
            progress.verified[index] = 1
            progress.first_image = progress.first_image or time.monotonic()
            progress.received_bytes += len(dicom)
            progress.changed.notify_all()

    def _replace(self, stored: Stored, filed: bytes) -> None:
        """Make sure that what is here under this SOP Instance UID is what was verified.

        It is, after a process was killed between storing and noting. It is not if the source has changed the instance.

        Raises:
            IdentityConflictError: it is not, and it is this hospital's own.
        """
        if self._archive.read(stored.orthanc_id) == filed:
            return
        study = self._archive.study_by_orthanc_id(stored.study_orthanc_id)
        if study is None or not study.labels & {GUEST_LABEL, ARRIVING_LABEL}:
            raise IdentityConflictError("an instance of this study is here already, with another content")
        self._archive.delete_instance(stored.orthanc_id)
        self._archive.store(filed)

    def _save(self, progress: Progress) -> None:
        self._store.set(progress.row.study_instance_uid, verified=bytes(progress.verified))

    def _request(self, row: PullRow, ticket: SignedTicket) -> dict[str, Any]:
        identifiers = row.identifiers | ticket.ticket.patient
        return {
            "identifiers": [{"issuer": one.issuer, "value": one.value} for one in sorted(identifiers)],
            "study_instance_uid": row.study_instance_uid,
            "purpose": ticket.ticket.purpose.value,
            "ticket": ticket.signed,
        }

    def _ticket(self, row: PullRow) -> SignedTicket:
        """Return the ticket for this pull; one that is remembered costs nothing.

        Raises:
            RefusedError: there is no consent (any more).
            TransportError: key servers cannot sign now, which may pass.
        """
        try:
            ticket = self._tickets.get(row.identifiers, row.requested_by, deadline_s=TICKET_DEADLINE_S)
        except NoTicketError as error:
            if error.code == NO_CONSENT:
                raise RefusedError(UNKNOWN, str(error)) from error
            raise TransportError(str(error)) from error
        self._check_not_overtaken(row, ticket)
        return ticket

    def _check_not_overtaken(self, row: PullRow, ticket: SignedTicket) -> None:
        if changed := self._changes.overtaken(ticket.ticket):
            # The source may not know it yet. What came now would come after the copies here were checked.
            self._tickets.forget(row.identifiers)
            raise TransportError(f"too few key servers know yet that consent {changed} was changed or taken back")


def _shares(entries: Sequence[ManifestEntry], indexes: Sequence[int], streams: int) -> list[list[int]]:
    """Divide the instances into runs of about equal size in bytes, one for each connection."""
    total = sum(entries[index].size_bytes for index in indexes)
    shares: list[list[int]] = [[]]
    filled = 0
    for index in indexes:
        if shares[-1] and len(shares) < streams and filled >= total * len(shares) / streams:
            shares.append([])
        shares[-1].append(index)
        filled += entries[index].size_bytes
    return shares
