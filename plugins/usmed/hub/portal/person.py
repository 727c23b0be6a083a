"""Whose passkey it is: which numbers a person has, and under which of them the passkey signs."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from usmed.domain.enrolment import Credential, Guardian, one_person_fault, valid_credentials
from usmed.domain.identifiers import NationalNumber, PatientIdentifier
from usmed.hub import charts, enrolments
from usmed.hub.charts import LinkedChart
from usmed.hub.enrolments import HeldEnrolment
from usmed.hub.index import link


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a passkey stands for.

    Attributes:
        credential: the passkey.
        own: the numbers that hospitals have enrolled: under these it signs.
        numbers: all that the hub knows of the same person, these included.
        charts: the hub's charts of this person.
        left_out: how many charts have a number of these, but contradict: they may be another person's.
        born: the birth date (YYYYMMDD), empty if no chart tells.
        guardian: who holds the passkey, if not the patient.
        enrolments: what proves it.
    """

    credential: Credential
    own: frozenset[PatientIdentifier]
    numbers: frozenset[PatientIdentifier]
    charts: tuple[int, ...]
    left_out: int
    born: str
    guardian: Guardian | None
    enrolments: tuple[HeldEnrolment, ...]

    def signs_as(self, national: NationalNumber | None) -> PatientIdentifier:
        """Return the number under which a new consent is given: the national one if there is one."""
        return signing_number(self.own, national)


def signing_number(numbers: Collection[PatientIdentifier], national: NationalNumber | None) -> PatientIdentifier:
    """Return under which of a person's numbers a new consent is given."""
    issuer = national.issuer if national else ""
    return min(numbers, key=lambda one: (one.issuer != issuer, one))


def find_person(
    connection: Connection, credential: Credential, national: NationalNumber | None, now: datetime
) -> Person | None:
    """Return whom a passkey stands for now; None if it stands for nobody, not any more, or not for one person."""
    mine = _naming(connection, credential)
    held = enrolments.of_numbers(connection, {number for one in mine for number in one.enrolment.patient})
    if credential not in valid_credentials([one.enrolment for one in held], now):
        return None
    own = frozenset(number for one in held for number in one.enrolment.patient)
    if one_person_fault(own, national):
        # Better nobody than two people in one.
        return None
    known, left_out = charts_of(connection, own, national)
    guardians = [one.enrolment.guardian for one in mine]
    return Person(
        credential=credential,
        own=own,
        numbers=own | {number for one in known for number in one.linked},
        charts=tuple(sorted({one.chart.id for one in known})),
        left_out=left_out,
        born=min((one.chart.birth_date for one in known), default=""),
        guardian=next((one for one in guardians if one and now < one.until), None),
        enrolments=tuple(held),
    )


def charts_of(
    connection: Connection, own: frozenset[PatientIdentifier], national: NationalNumber | None
) -> tuple[list[LinkedChart], int]:
    """Return the charts of whoever is enrolled under these numbers, and how many are left out.

    One study under a wrong number joins two people at the hub: better too little than what is another's.
    """
    persons: dict[int, dict[int, LinkedChart]] = {}
    for number in sorted(own):
        found = charts.of_number(connection, number)
        for one in _by_numbers(found, number, national):
            persons.setdefault(one.person, {})[one.chart.id] = one
    fitting = {person: found for person, found in persons.items() if _fits(own, found.values(), national)}
    # Each may fit by itself, and contradict another.
    if not _fits(own, [one for found in fitting.values() for one in found.values()], national):
        fitting = {}
    known = [one for found in fitting.values() for one in found.values()]
    return known, sum(map(len, persons.values())) - len(known)


def _by_numbers(
    person: Collection[LinkedChart], number: PatientIdentifier, national: NationalNumber | None
) -> list[LinkedChart]:
    """Return those charts of a person that numbers join with this one.

    What a registrar has joined is for hospitals to find: no patient reads of another's by a registrar's mistake.
    """
    joined = link((replace(one.chart, identifiers=one.linked) for one in person), national).persons
    named = {joined[one.chart.id] for one in person if number in one.linked}
    return [one for one in person if joined[one.chart.id] in named]


def _fits(
    own: frozenset[PatientIdentifier], found: Collection[LinkedChart], national: NationalNumber | None
) -> bool:
    numbers = own.union(*(one.linked for one in found))
    born = {one.chart.birth_date for one in found if one.chart.birth_date}
    if one_person_fault(numbers, national) or len(born) > 1:
        return False
    nationals = [one for one in own if national is not None and one.issuer == national.issuer]
    return all(national.accepts(one.value, day) for one in nationals for day in born) if national else True


def credentials_with(connection: Connection, credential_id: bytes) -> list[Credential]:
    """Return the passkeys with an id that hospitals ever enrolled, whether they count now or not."""
    held = enrolments.of_credential(connection, credential_id)
    found = [each for one in held for each in one.enrolment.credentials if each.id == credential_id]
    return list(dict.fromkeys(found))


def is_known(connection: Connection, credential: Credential) -> bool:
    """Tell whether a hospital ever enrolled a passkey, whether it counts now or not."""
    return bool(_naming(connection, credential))


def _naming(connection: Connection, credential: Credential) -> list[HeldEnrolment]:
    held = enrolments.of_credential(connection, credential.id)
    return [one for one in held if credential in one.enrolment.credentials]
