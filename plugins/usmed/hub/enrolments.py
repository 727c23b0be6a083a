"""Queries on the enrolments that hospitals bring: whose passkeys may sign on the portal.

They permit nothing and join no charts: key servers decide, and the hub links by studies alone (`index`).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa
from sqlalchemy import Connection

from usmed.domain.canonical import sha256_hex
from usmed.domain.enrolment import Enrolment, held_enrolment
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import MAXIMUM_IDENTIFIERS
from usmed.hub.tables import enrolment as enrolment_table
from usmed.hub.tables import enrolment_number, enrolment_passkey, insert
from usmed.platform.storage import Statement


@dataclass(frozen=True, slots=True)
class HeldEnrolment:
    """An enrolment as it is held: what it says, and the token that its hospital signed."""

    enrolment: Enrolment
    token: str


def _of(by: sa.TableClause, *conditions: sa.ColumnElement[bool]) -> Statement:
    query = sa.select(enrolment_table.c.hospital, enrolment_table.c.token)
    return Statement(query.where(enrolment_table.c.digest.in_(sa.select(by.c.digest).where(*conditions))))


_OF_NUMBER = _of(
    enrolment_number,
    enrolment_number.c.issuer == sa.bindparam("issuer"),
    enrolment_number.c.value == sa.bindparam("value"),
)
_OF_PASSKEY = _of(enrolment_passkey, enrolment_passkey.c.passkey == sa.bindparam("passkey"))


def save(connection: Connection, enrolment: Enrolment, token: str) -> bool:
    """Keep a checked enrolment; return whether it is new here."""
    digest = sha256_hex(f"{enrolment.hospital} {token}".encode())
    row = {"digest": digest, "hospital": enrolment.hospital, "token": token}
    new = insert(connection, enrolment_table).values(row).on_conflict_do_nothing()
    if connection.execute(new.returning(enrolment_table.c.digest)).first() is None:
        return False
    numbers = [{"digest": digest, "issuer": one.issuer, "value": one.value} for one in enrolment.patient]
    connection.execute(sa.insert(enrolment_number), numbers)
    passkeys = [{"digest": digest, "passkey": one} for one in sorted({each.id.hex() for each in enrolment.credentials})]
    if passkeys:
        connection.execute(sa.insert(enrolment_passkey), passkeys)
    return True


def of_numbers(connection: Connection, numbers: Iterable[PatientIdentifier]) -> list[HeldEnrolment]:
    """Return the enrolments of whoever these numbers name, oldest first: also those under numbers that they join.

    It goes on until more numbers are known than one person can have.
    """
    known, found = set(numbers), set[HeldEnrolment]()
    asked: set[PatientIdentifier] = set()
    while (new := known - asked) and len(known) <= MAXIMUM_IDENTIFIERS:
        asked |= new
        for one in sorted(new):
            rows = _OF_NUMBER.run(connection, {"issuer": one.issuer, "value": one.value})
            found.update(_held(*row) for row in rows)
        known |= {number for one in found for number in one.enrolment.patient}
    return _in_order(found)


def of_credential(connection: Connection, credential_id: bytes) -> list[HeldEnrolment]:
    """Return the enrolments that add a passkey, oldest first. Whether it counts, `valid_credentials` says."""
    return _in_order({_held(*row) for row in _OF_PASSKEY.run(connection, {"passkey": credential_id.hex()})})


def as_sent(held: Iterable[HeldEnrolment]) -> tuple[dict[str, str], ...]:
    """Return enrolments as they go out with a record that they prove."""
    return tuple({"hospital": one.enrolment.hospital, "token": one.token} for one in held)


def _in_order(found: Collection[HeldEnrolment]) -> list[HeldEnrolment]:
    return sorted(found, key=lambda one: (one.enrolment.at, one.token))


@lru_cache(maxsize=4096)
def _held(hospital: str, token: str) -> HeldEnrolment:
    return HeldEnrolment(held_enrolment(token, hospital), token)
