"""Who had what of a patient's: told by the hospitals that gave it, shown to the patient on the portal.

A source speaks of itself only: whoever sends is the source. It is not proof, which is in the audit logs at both ends.
A hospital that opens emergency access says that of itself, too: a patient reads it also where nothing was given then.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.consent import Purpose
from usmed.domain.contact import Topic
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier, is_uid
from usmed.domain.region import Hospital, RegionManifest
from usmed.domain.shown_text import is_readable
from usmed.domain.study_record import parse_identifier
from usmed.hub.causes import Tell, tell_nobody
from usmed.hub.tables import SLICE, chart, insert, names, number
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database

KEPT = timedelta(days=3653)
"""Ten years."""

CLOCK_TOLERANCE = timedelta(seconds=60)
MOST_EMERGENCIES_A_DAY = 50
"""How many emergencies one hospital may say a day that it opened; key servers sign fewer."""

PRUNED_EVERY = timedelta(hours=1)
PRUNED_AT_ONCE = 2000
"""How many accesses that are too old go with one announcement: nobody waits for a million of them."""
MOST_CONSENTS = 100
LONGEST_TEXT = 64
LARGEST = 2**53 - 1
MOST_SHOWN = 500
_LIMIT_BYTES = 16384

_MEMBERS = {"sequence", "at", "patient", "recipient", "role", "purpose", "study_instance_uid", "consents"}
_COLUMNS = "id source sequence sha256 issuer value at recipient role purpose study_instance_uid consents"
_access = sa.table("patient_access", *map(sa.column, _COLUMNS.split()))


@dataclass(frozen=True, slots=True)
class Access:
    """One release of one study; or that a hospital has opened emergency access, whatever was given then.

    Attributes:
        id: names it in `Accesses.of`.
        at: aware UTC, as the source says.
        source: the hospital that gave it.
        recipient, role: who received it: the hospital, and what the person who asked is there.
        purpose: purpose of use.
        patient: the number it was asked by.
        study_instance_uid: empty where emergency access was opened; then `source` is who opened it.
        consents: ids of the consents it rested on; none in an emergency.
    """

    id: int
    at: datetime
    source: str
    recipient: str
    role: str
    purpose: Purpose
    study_instance_uid: str
    patient: PatientIdentifier
    consents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One that was not taken.

    Attributes:
        place: in the list that was sent, from 0.
        again: whether it may be taken later: a clock is wrong, or the patient was not announced yet.
    """

    place: int
    reason: str
    again: bool


class Accesses:
    """The use cases.

    Args:
        kept: how long an access is shown.
        tell: told of every patient of whom something is new, in the transaction that keeps it.
    """

    def __init__(
        self,
        database: Database,
        region: Callable[[], RegionManifest],
        clock: Callable[[], datetime],
        kept: timedelta = KEPT,
        tell: Tell = tell_nobody,
    ) -> None:
        self._tell = tell
        self._database = database
        self._region = region
        self._clock = clock
        self._kept = kept
        self._pruned_at: datetime | None = None

    def take(self, source: Hospital, documents: Sequence[Any]) -> list[Problem]:
        """Keep what a source has given away; return those that are not held now.

        Args:
            documents: as `openapi.yaml` has them (AccessRecord). One that is wrong does not hold up the others: it is
                left out, which the source is told and is in the audit log. The same one sent again is kept once.
                Another one under a sequence number that was there is kept beside it: a node that was restored from a
                backup counts anew, and the patient is to hear of what it gives then, too.
        """
        now, hospitals = self._clock(), self._region().hospitals
        rows: dict[int, dict[str, Any]] = {}
        problems: list[Problem] = []
        for place, document in enumerate(documents):
            try:
                row = _row(source.id, document)
                if row["recipient"] not in hospitals:
                    # A patient reads it: an invented name would be taken for a hospital's.
                    raise PeerDataError("recipient is no hospital of the region")
            except PeerDataError as error:
                problems.append(Problem(place, str(error), again=False))
                continue
            if row["at"] > _time(now + CLOCK_TOLERANCE):
                problems.append(Problem(place, "at is in the future: check the clocks", again=True))
            else:
                rows[place] = row
        with self._database.write() as connection:
            told = {place: one for place, one in rows.items() if one["study_instance_uid"]}
            speakable = self._speakable(connection, source, {_patient(one) for one in told.values()})
            foreign = [place for place, one in told.items() if _patient(one) not in speakable]
            problems += [Problem(place, f"of a patient whom {source.id} has no number of", True) for place in foreign]
            opened = [place for place, one in rows.items() if not one["study_instance_uid"]]
            over = opened[self._room(connection, source, now) :]
            problems += [Problem(place, "too many emergencies were opened within a day", True) for place in over]
            taken = [one for place, one in rows.items() if place not in {*foreign, *over}]
            if taken:
                # In one order, so that two senders of the same never wait for each other.
                ordered = sorted(taken, key=lambda one: (one["sequence"], one["sha256"]))
                kept = insert(connection, _access).on_conflict_do_nothing()
                new = kept.returning(_access.c.issuer, _access.c.value, _access.c.purpose)
                self._tell_of(connection, connection.execute(new, ordered).all())
            self._prune(connection, now)
            left_out = len(problems)
            event = AuditEvent(
                now,
                AuditEventType.FEED,
                source.id,
                outcome=Outcome.PARTIAL if left_out else Outcome.SUCCESS,
                reason="; ".join([f"{count} {reason}" for reason, count in _counted(problems)][:5]),
                detail={"what": "accesses", "taken": len(taken), "left_out": left_out},
            )
            append_in(connection, [event])
        return sorted(problems, key=lambda one: one.place)

    def of(self, numbers: Iterable[PatientIdentifier], limit: int = 100, before: int | None = None) -> list[Access]:
        """Return accesses to the studies of a patient with these numbers, the newest first.

        Args:
            limit: the most that are returned, 1 to 500.
            before: the `id` of the last one of the page before; None for the first page.
        """
        limit = max(1, min(limit, MOST_SHOWN))
        place = (_access.c.at, _access.c.id)
        found: list[Access] = []
        with self._database.read() as connection:
            where: list[sa.ColumnElement[bool]] = [_access.c.at >= _time(self._clock() - self._kept)]
            if before is not None:
                last = connection.execute(sa.select(*place).where(_access.c.id == before)).one_or_none()
                if last is None:
                    return []
                where.append(sa.tuple_(*place) < sa.tuple_(*map(sa.literal, last)))
            for part in batched(sorted(set(numbers)), SLICE, strict=False):
                query = sa.select(_access).where(names(_access, part), *where)
                rows = connection.execute(query.order_by(*(one.desc() for one in place)).limit(limit))
                found += [_read(row) for row in rows]
        return sorted(found, key=lambda one: (one.at, one.id), reverse=True)[:limit]

    def _room(self, connection: Connection, source: Hospital, now: datetime) -> int:
        """Return how many more emergencies a hospital may say to have opened."""
        mine = sa.select(sa.func.count()).where(
            _access.c.source == source.id, _access.c.study_instance_uid == "", _access.c.at > _time(now) - 86400
        )
        return max(0, MOST_EMERGENCIES_A_DAY - int(connection.scalar(mine) or 0))

    def _tell_of(self, connection: Connection, new: Sequence[Any]) -> None:
        urgent = {PatientIdentifier(row.issuer, row.value) for row in new if row.purpose == Purpose.ETREAT}
        self._tell(connection, Topic.EMERGENCY, urgent)
        others = {PatientIdentifier(row.issuer, row.value) for row in new if row.purpose != Purpose.ETREAT}
        self._tell(connection, Topic.LOOKED, others)

    def _speakable(
        self, connection: Connection, source: Hospital, patients: Iterable[PatientIdentifier]
    ) -> set[PatientIdentifier]:
        """Return those numbers that the source assigns, or that the index knows for a patient of this hospital.

        The national number is nobody's own: who has never announced the patient cannot have given anything away.
        """
        speakable = {one for one in patients if one.issuer in source.issuers}
        foreign = sorted(set(patients) - speakable)
        its_patients = sa.select(chart.c.person).where(chart.c.hospital == source.id)
        for part in batched(foreign, SLICE, strict=False):
            known = (
                sa.select(number.c.issuer, number.c.value)
                .join_from(number, chart, number.c.chart == chart.c.id)
                .where(names(number, part), number.c.linked, chart.c.person.in_(its_patients))
            )
            speakable |= {PatientIdentifier(*row) for row in connection.execute(known)}
        return speakable

    def _prune(self, connection: Connection, now: datetime) -> None:
        if self._pruned_at is None or abs(now - self._pruned_at) > PRUNED_EVERY:
            old = sa.select(_access.c.id).where(_access.c.at < _time(now - self._kept)).order_by(_access.c.at)
            gone = connection.execute(sa.delete(_access).where(_access.c.id.in_(old.limit(PRUNED_AT_ONCE))))
            # Where there are more, the next announcement goes on.
            self._pruned_at = now if gone.rowcount < PRUNED_AT_ONCE else None


def _counted(problems: Iterable[Problem]) -> list[tuple[str, int]]:
    return list(Counter(one.reason for one in problems).items())


def _row(source: str, document: Any) -> dict[str, Any]:
    """Read one access.

    Raises:
        PeerDataError: it is none; the message names no patient.
    """
    if not isinstance(document, dict) or set(document) != _MEMBERS:
        raise PeerDataError(f"an access has exactly the members {', '.join(sorted(_MEMBERS))}")
    patient = parse_identifier(document["patient"])
    sequence, at, purpose = document["sequence"], document["at"], document["purpose"]
    if type(sequence) is not int or not 0 <= sequence <= LARGEST:
        raise PeerDataError("sequence is not a whole number from 0")
    if type(at) is not int or not 0 <= at <= LARGEST:
        raise PeerDataError("at is not a time in seconds")
    if not isinstance(purpose, str) or purpose not in set(Purpose):
        raise PeerDataError("purpose is none that is known")
    consents, study = document["consents"], document["study_instance_uid"]
    opened = study == "" and purpose == Purpose.ETREAT and consents == [] and document["recipient"] == source
    if not opened and not is_uid(study):
        raise PeerDataError("study_instance_uid is not a UID; only who opens an emergency leaves it empty")
    if not isinstance(consents, list) or len(consents) > MOST_CONSENTS:
        raise PeerDataError(f"consents is a list of at most {MOST_CONSENTS} ids")
    for one in (document["recipient"], *consents):
        if not _is_text(one) or not one:
            raise PeerDataError(f"recipient and consents are 1 to {LONGEST_TEXT} printable characters each")
    if not _is_text(document["role"]):
        raise PeerDataError(f"role is at most {LONGEST_TEXT} printable characters")
    return {
        "source": source,
        "sequence": sequence,
        "sha256": sha256_hex(canonical_json(document)),
        "issuer": patient.issuer,
        "value": patient.value,
        "at": at,
        "recipient": document["recipient"],
        "role": document["role"],
        "purpose": purpose,
        "study_instance_uid": document["study_instance_uid"],
        "consents": canonical_json(consents).decode("utf-8"),
    }


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and is_readable(value)


def _patient(row: dict[str, Any]) -> PatientIdentifier:
    return PatientIdentifier(row["issuer"], row["value"])


def _read(row: Any) -> Access:
    return Access(
        id=row.id,
        at=datetime.fromtimestamp(row.at, UTC),
        source=row.source,
        recipient=row.recipient,
        role=row.role,
        purpose=Purpose(row.purpose),
        study_instance_uid=row.study_instance_uid,
        patient=PatientIdentifier(row.issuer, row.value),
        consents=tuple(parse_json(row.consents.encode("utf-8"), limit_bytes=_LIMIT_BYTES)),
    )


def _time(moment: datetime) -> int:
    return int(moment.timestamp())
