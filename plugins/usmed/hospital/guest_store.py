"""The node's tables about guest copies: what they rest on, what they brought, and what has to be checked anew."""

import json
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa

from usmed.domain.consent import Purpose, StudyFacts
from usmed.domain.guest_copy import Change, GuestCopy
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.pull import State
from usmed.domain.study_record import is_date
from usmed.domain.ticket import AccessTicket
from usmed.platform.storage import Database

_pull = sa.table("pull", *map(sa.column, ("study_instance_uid", "state", "source", "identifiers")))
_basis = sa.table(
    "guest_basis",
    *map(sa.column, ("study_instance_uid", "emergency", "consents", "known_by", "numbers", "modalities", "study_date",
                     "withdrawn")),
)  # fmt: skip
_instances = sa.table("guest_instances", *map(sa.column, ("study_instance_uid", "patient_id", "sop_instance_uids")))
_check = sa.table(
    "copy_check", *map(sa.column, ("consent", "issuer", "value", "told", "attempts", "due", "problem"))
)
_cursor = sa.table("hub_cursor", *map(sa.column, ("id", "cursor")))

_LONGEST_PROBLEM = 500


@dataclass(frozen=True, slots=True)
class Held:
    """A guest copy, and where it stands; `withdrawn` are changed consents that do not permit it any more."""

    copy: GuestCopy
    state: State
    withdrawn: frozenset[str]


@dataclass(frozen=True, slots=True)
class Check:
    """A change of a patient's will for which the copies here are still to be checked.

    Attributes:
        change: what changed; with an empty id, the hub hinted that something did.
        told: how often it was told: one that is told anew while it is worked on is not done with that.
        attempts: tries that came to no end.
    """

    change: Change
    told: int
    attempts: int


class GuestStore:
    """What is written down of guest copies besides their pulls."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def released(
        self,
        study_instance_uid: str,
        patient_id: str,
        *,
        ticket: AccessTicket,
        number: PatientIdentifier,
        sop_instance_uids: Iterable[str],
        unheeded: Collection[str],
        now: datetime,
    ) -> None:
        """Note what a source is about to send, before it does: on which ticket, and which instances.

        Args:
            patient_id: the PatientID under which they are filed here.
            number: the patient's at the source.
            unheeded: the ids of consents that the ticket should have heeded: this copy has to be checked against them,
                also if all others are already.
            now: aware UTC.
        """
        known = {
            "emergency": int(ticket.purpose is Purpose.ETREAT),
            "consents": json.dumps([one.id for one in ticket.consents]),
            "known_by": _numbers_text({number, *ticket.patient}),
        }
        basis = self._database.insert(_basis).values(
            study_instance_uid=study_instance_uid, numbers=_numbers_text({number}), **known
        )
        key = {"study_instance_uid": study_instance_uid, "patient_id": patient_id}
        with self._database.write() as connection:
            connection.execute(
                basis.on_conflict_do_update(
                    index_elements=["study_instance_uid"], set_=known | {"withdrawn": json.dumps([])}
                )
            )
            for consent in sorted(unheeded):
                note_change(self._database, connection, Change(consent, ticket.patient | {number}), now)
            # A source may have more the next time, or less: what came from it once stays known as a guest.
            before = self._brought(connection, study_instance_uid).get(patient_id, frozenset())
            after = before.union(sop_instance_uids)
            if after != before:
                packed = {"sop_instance_uids": zlib.compress("\n".join(sorted(after)).encode("ascii"))}
                insert = self._database.insert(_instances).values(**key, **packed)
                connection.execute(
                    insert.on_conflict_do_update(index_elements=["study_instance_uid", "patient_id"], set_=packed)
                )

    def arrived(self, study: StudyFacts, numbers: Collection[PatientIdentifier]) -> None:
        """Note what a whole copy is: what consents speak of, and whose it is by its source's word."""
        facts = {
            "numbers": _numbers_text(numbers),
            "modalities": json.dumps(sorted(study.modalities)),
            "study_date": f"{study.study_date:%Y%m%d}" if study.study_date is not None else "",
        }
        this = _basis.c.study_instance_uid == study.study_instance_uid
        with self._database.write() as connection:
            connection.execute(sa.update(_basis).where(this).values(**facts))

    def copies(self) -> list[Held]:
        """Return every study that came, or is coming, from another hospital."""
        query = sa.select(_pull, *(one for one in _basis.c if one.name != "study_instance_uid")).select_from(
            _pull.outerjoin(_basis, _basis.c.study_instance_uid == _pull.c.study_instance_uid)
        )
        with self._database.read() as connection:
            return [_held(row) for row in connection.execute(query)]

    def brought(self, study_instance_uid: str) -> dict[str, frozenset[str]]:
        """Return the SOP Instance UIDs that a guest copy brought, by the PatientID under which they are filed."""
        with self._database.read() as connection:
            return self._brought(connection, study_instance_uid)

    def set_withdrawn(self, study_instance_uid: str, consents: Collection[str]) -> None:
        """Note which changed consents do not permit a copy any more, before it goes or is kept; none if it may stay."""
        this = _basis.c.study_instance_uid == study_instance_uid
        with self._database.write() as connection:
            connection.execute(sa.update(_basis).where(this).values(withdrawn=json.dumps(sorted(consents))))

    def withdrawn(self, study_instance_uid: str) -> frozenset[str]:
        """Return what `set_withdrawn` has noted."""
        query = sa.select(_basis.c.withdrawn).where(_basis.c.study_instance_uid == study_instance_uid)
        with self._database.read() as connection:
            return frozenset(json.loads(connection.execute(query).scalar() or "[]"))

    # ---- what has to be checked ----

    def hint(self, numbers: Collection[PatientIdentifier], now: datetime) -> None:
        """Note that the consents of whoever these numbers name may have changed."""
        if not numbers:
            return
        with self._database.write() as connection:
            note_change(self._database, connection, Change("", frozenset(numbers)), now)

    def due(self, now: datetime, limit: int) -> list[Check]:
        """Return checks that are due, the oldest first."""
        query = sa.select(_check).where(_check.c.due <= int(now.timestamp()))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_check.c.due, _check.c.consent).limit(limit)).all()
        return [
            Check(Change(one.consent, frozenset({PatientIdentifier(one.issuer, one.value)})), one.told, one.attempts)
            for one in rows
        ]

    def done(self, checks: Iterable[Check]) -> None:
        """Strike checks off that were not told anew meanwhile."""
        with self._database.write() as connection:
            for one in checks:
                connection.execute(sa.delete(_check).where(_this(one), _check.c.told == one.told))

    def again(self, checks: Iterable[Check], due: datetime, problem: str) -> None:
        """Let checks wait that came to no end."""
        values = {"due": int(due.timestamp()), "problem": problem.replace("\0", "\ufffd")[:_LONGEST_PROBLEM]}
        with self._database.write() as connection:
            for one in checks:
                more = values | {"attempts": one.attempts + 1}
                connection.execute(sa.update(_check).where(_this(one), _check.c.told == one.told).values(**more))

    # ---- how far the hub's list of changes was read ----

    def cursor(self) -> int:
        """Return where the hub's list of changes was read to; 0 if it never was."""
        with self._database.read() as connection:
            return int(connection.execute(sa.select(_cursor.c.cursor)).scalar() or 0)

    def read_to(self, cursor: int) -> None:
        """Remember it, once what was read is noted."""
        insert = self._database.insert(_cursor).values(id=1, cursor=cursor)
        with self._database.write() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"cursor": cursor}))

    def _brought(self, connection: sa.Connection, study_instance_uid: str) -> dict[str, frozenset[str]]:
        query = sa.select(_instances).where(_instances.c.study_instance_uid == study_instance_uid)
        return {
            row.patient_id: frozenset(zlib.decompress(row.sop_instance_uids).decode("ascii").split("\n"))
            for row in connection.execute(query)
        }


def note_change(database: Database, connection: sa.Connection, change: Change, now: datetime) -> None:
    """Put a change on the list of what has to be checked, in the caller's transaction; each number by itself."""
    due = int(now.timestamp())
    for number in sorted(change.numbers):
        insert = database.insert(_check).values(
            consent=change.consent_id, issuer=number.issuer, value=number.value, due=due
        )
        again = {"told": _check.c.told + 1, "attempts": 0, "due": due, "problem": ""}
        connection.execute(insert.on_conflict_do_update(index_elements=["consent", "issuer", "value"], set_=again))


def forget_copy(connection: sa.Connection, study_instance_uid: str) -> None:
    """Delete what is written down of a guest copy that is gone, in the caller's transaction."""
    for table in (_basis, _instances):
        connection.execute(sa.delete(table).where(table.c.study_instance_uid == study_instance_uid))


def _this(check: Check) -> sa.ColumnElement[bool]:
    (number,) = check.change.numbers
    return sa.and_(
        _check.c.consent == check.change.consent_id,
        _check.c.issuer == number.issuer,
        _check.c.value == number.value,
    )


def _held(row: sa.Row[tuple[object, ...]]) -> Held:
    values = row._mapping
    known = _numbers(values["identifiers"]) | _numbers(values["known_by"] or "[]")
    day = values["study_date"] or ""
    copy = GuestCopy(
        study=StudyFacts(
            study_instance_uid=values["study_instance_uid"],
            source=values["source"],
            modalities=frozenset(json.loads(values["modalities"] or "[]")),
            study_date=date.fromisoformat(day) if is_date(day) else None,
        ),
        # Before its source has said whose it is, whoever it was asked for.
        numbers=_numbers(values["numbers"] or "[]") or known,
        known_by=known,
        consents=frozenset(json.loads(values["consents"] or "[]")),
        emergency=bool(values["emergency"]),
    )
    return Held(copy, State(values["state"]), frozenset(json.loads(values["withdrawn"] or "[]")))


def _numbers_text(numbers: Iterable[PatientIdentifier]) -> str:
    return json.dumps([[one.issuer, one.value] for one in sorted(numbers)])


def _numbers(text: str) -> frozenset[PatientIdentifier]:
    listed: Sequence[tuple[str, str]] = json.loads(text)
    return frozenset(PatientIdentifier(*one) for one in listed)
