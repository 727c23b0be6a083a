"""What an ADT message says of a patient, in DICOM's terms: PID, PV1, EVN and MRG (HL7 v2.5.1 chapter 3).

IHE Radiology TF-2 appendix D maps the same fields: PID-3 to PatientID with IssuerOfPatientID, PID-5 to PatientName,
PID-7 to PatientBirthDate, PID-8 to PatientSex.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from usmed.domain.arrival import LONGEST_AHEAD, Arrival, Source
from usmed.domain.errors import PeerDataError
from usmed.domain.hl7_message import UNKNOWN, ErrorCode, Message, MessageError, part
from usmed.domain.identifiers import Naming, PatientIdentifier, is_text, patient_identifier

MAXIMUM_NUMBERS = 20
MAXIMUM_PATIENTS = 50
"""How many patients one message may merge."""

_NAME_CHARACTERS = 64
_SEXES = {"": "", "M": "M", "F": "F", "O": "O", "A": "O", "N": "O", "U": ""}
"""PID-8 (HL7 table 0001) and PatientSex (PS3.3 C.7.1.1): ambiguous and not applicable are other, unknown is empty."""


class Event(StrEnum):
    """What a message is about."""

    ARRIVED = "arrived"
    UPDATED = "updated"
    MERGED = "merged"


EVENTS = {"A01": Event.ARRIVED, "A04": Event.ARRIVED, "A08": Event.UPDATED, "A40": Event.MERGED}


@dataclass(frozen=True, slots=True)
class Authorities:
    """How PID-3 is read: who assigned a number.

    Attributes:
        naming: this hospital's own issuer, and the national number.
        issuers: CX-4.1 (namespace) or CX-4.2 (universal id) as the sender writes it, to the issuer it stands for here.
        without: the issuer of a number without CX-4; empty: the national one if the number is a valid one, else own.
    """

    naming: Naming
    issuers: Mapping[str, str]
    without: str = ""

    def number(self, cx: Sequence[Sequence[str]], birth_date: str, sex: str) -> PatientIdentifier | None:
        """Return a CX as an identifier; None for a number that this hospital cannot say anything by.

        Raises:
            PeerDataError: it cannot be an identifier.
        """
        value = part(cx, 1)
        given = [one for one in (part(cx, 4, 1), part(cx, 4, 2)) if one]
        national = self.naming.national
        if not value:
            return None
        if not given:
            return self.naming.identify(value, self.without, birth_date, sex)
        own = (self.naming.own_issuer, national.issuer if national else "")
        known = dict(zip(own, own, strict=True)) | dict(self.issuers)
        issuer = next((known[one] for one in given if one in known), "")
        if not issuer:
            return None
        if national is not None and issuer == national.issuer and not national.accepts(value, birth_date, sex):
            # A placeholder, as for a foreigner, or somebody else's.
            return None
        return patient_identifier(issuer, value)


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a message is about: all numbers, the one that names the patient here; PN, DA and sex as DICOM has them."""

    identifier: PatientIdentifier
    identifiers: frozenset[PatientIdentifier]
    name: str
    birth_date: str
    sex: str


@dataclass(frozen=True, slots=True)
class Merge:
    """What a message says to be one patient: the number that stays, and those that it takes the place of."""

    surviving: PatientIdentifier
    prior: frozenset[PatientIdentifier]


@dataclass(frozen=True, slots=True)
class Adt:
    """A message, read."""

    event: Event
    person: Person
    arrival: Arrival | None
    merges: tuple[Merge, ...] = ()


def read_adt(message: Message, authorities: Authorities, today: date) -> Adt:
    """Read what an ADT message says.

    Args:
        message: of one of `EVENTS`.
        authorities: how its numbers are read.
        today: the hospital's day, for a message that tells none.

    Raises:
        MessageError: something that is needed is missing or wrong (AE).
    """
    event = EVENTS[message.header.event]
    groups = message.groups()
    if not groups:
        raise MessageError(ErrorCode.SEGMENT_SEQUENCE, "PID", "there is no PID segment")
    if len(groups) > (MAXIMUM_PATIENTS if event is Event.MERGED else 1):
        raise MessageError(ErrorCode.SEGMENT_SEQUENCE, "PID^2", "too many PID segments")
    person = _person(message, groups[0].get("PID"), authorities)
    if event is Event.MERGED:
        return Adt(event, person, None, tuple(_merge(message, one, authorities) for one in groups))
    return Adt(event, person, _arrival(message, groups[0], person, today))


def _person(message: Message, pid: Any, authorities: Authorities) -> Person:
    birth_date = _birth_date(message.text(pid, 7))
    sex = message.text(pid, 8).upper()
    if sex not in _SEXES:
        raise MessageError(ErrorCode.TABLE_VALUE, "PID^1^8", "PID-8 is not in HL7 table 0001")
    numbers = _numbers(message, pid, 3, "PID", authorities, birth_date, _SEXES[sex])
    name = _name(message.repetitions(pid, 5))
    return Person(_first(numbers, authorities.naming), frozenset(numbers), name, birth_date, _SEXES[sex])


def _numbers(
    message: Message, segment: Any, field: int, name: str, authorities: Authorities, birth_date: str, sex: str
) -> list[PatientIdentifier]:
    location = f"{name}^1^{field}"
    given = message.repetitions(segment, field)
    if not given:
        raise MessageError(ErrorCode.REQUIRED_FIELD, location, f"{name}-{field} is missing")
    if len(given) > MAXIMUM_NUMBERS:
        raise MessageError(ErrorCode.DATA_TYPE, location, f"{name}-{field} has more than {MAXIMUM_NUMBERS} numbers")
    if any(UNKNOWN in part(one, 1) for one in given):
        raise MessageError(ErrorCode.DATA_TYPE, location, f"{name}-{field} holds an escape that is not known here")
    try:
        read = [authorities.number(one, birth_date, sex) for one in given]
    except PeerDataError as error:
        raise MessageError(ErrorCode.DATA_TYPE, location, f"{name}-{field} holds what cannot be a number") from error
    numbers = [one for one in read if one is not None]
    if not numbers:
        raise MessageError(
            ErrorCode.UNKNOWN_KEY,
            location,
            f"{name}-{field} has no number of an assigning authority that is known here",
        )
    return numbers


def _first(numbers: Sequence[PatientIdentifier], naming: Naming) -> PatientIdentifier:
    """Return the number under which the patient is known here: the hospital's own, then the national one."""
    national = naming.national.issuer if naming.national else None
    return min(numbers, key=lambda one: (one.issuer != naming.own_issuer, one.issuer != national))


def _merge(message: Message, group: Mapping[str, Any], authorities: Authorities) -> Merge:
    person = _person(message, group.get("PID"), authorities)
    if "MRG" not in group:
        raise MessageError(ErrorCode.SEGMENT_SEQUENCE, "MRG", "there is no MRG segment")
    prior = _numbers(message, group["MRG"], 1, "MRG", authorities, "", "")
    gone = frozenset(prior) - {person.identifier}
    if not gone:
        raise MessageError(ErrorCode.DATA_TYPE, "MRG^1^1", "MRG-1 is the number that stays")
    return Merge(person.identifier, gone)


def _arrival(message: Message, group: Mapping[str, Any], person: Person, today: date) -> Arrival:
    pv1, evn = group.get("PV1"), group.get("EVN")
    stamps = [(pv1, 44, "PV1"), (evn, 6, "EVN"), (evn, 2, "EVN")]
    given = [(one, name, field) for segment, field, name in stamps if (one := message.text(segment, field))]
    day, time = _moment(*given[0]) if given else (today, "")
    if day < today - timedelta(days=1):
        # Somebody was admitted long ago, or a system writes its year 1: who is told of now is here now.
        day, time = today, ""
    if day > today + LONGEST_AHEAD:
        _, name, field = given[0]
        raise MessageError(ErrorCode.DATA_TYPE, f"{name}^1^{field}", f"{name}-{field} is more than a year ahead")
    place = " ".join(filter(None, (message.text(pv1, 3, component) for component in (1, 2, 3))))
    return Arrival(
        day,
        person.identifier,
        person.identifiers,
        person.name,
        person.birth_date,
        person.sex,
        time,
        "",
        _clean(place)[:_NAME_CHARACTERS],
        Source.HL7,
    )


def _birth_date(text: str) -> str:
    """PID-7 is a TS: the day counts, the time of birth does not. A year or a month alone is no PatientBirthDate."""
    if not text:
        return ""
    if not re.fullmatch(r"\d{4}(\d{2}(\d{2}(\d{2,6}(\.\d{1,4})?)?)?)?([+-]\d{4})?", text, re.ASCII):
        raise MessageError(ErrorCode.DATA_TYPE, "PID^1^7", "PID-7 is not a date")
    digits = re.split(r"[+-]", text)[0]
    if len(digits) < 8:
        return ""
    _day(digits[:8], "PID", 7)
    return digits[:8]


def _moment(text: str, segment: str, field: int) -> tuple[date, str]:
    """Return day and HHMM of a TS as the hospital's clock on the wall shows it."""
    found = re.fullmatch(r"(\d{8})(\d{4})?(\d{2})?(\.\d{1,4})?([+-]\d{4})?", text, re.ASCII)
    if found is None or int((found[2] or "0000")[:2]) > 23 or int((found[2] or "0000")[2:]) > 59:
        raise MessageError(ErrorCode.DATA_TYPE, f"{segment}^1^{field}", f"{segment}-{field} is not a point in time")
    return _day(found[1], segment, field), found[2] or ""


def _day(text: str, segment: str, field: int) -> date:
    try:
        # The day alone: no clock is asked, and no time zone matters.
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007
    except ValueError as error:
        message = f"{segment}-{field} names a day that does not exist"
        raise MessageError(ErrorCode.DATA_TYPE, f"{segment}^1^{field}", message) from error


def _name(names: Sequence[Sequence[Sequence[str]]]) -> str:
    """Return XPN as PN: family^given^middle^prefix^suffix (PS3.5 §6.2.1.2); the legal name if there are several."""
    if not names:
        return ""
    legal = next((one for one in names if part(one, 7) == "L"), names[0])
    parts = [_clean(part(legal, place)) for place in (1, 2, 3, 5, 4)]
    return "^".join(parts).rstrip("^")[:_NAME_CHARACTERS]


def _clean(text: str) -> str:
    """Take out what would be a separator in DICOM (PS3.5 §6.2: backslash, ^ and =) or is no text."""
    return "".join(one if is_text(one) and one not in "\\^=" else " " for one in text).strip(" ")
