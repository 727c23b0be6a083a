"""What a person chose on a page, and the FHIR Consent that says exactly that."""

import re
import unicodedata
from calendar import monthrange
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any

from usmed.domain.consent import ProvisionType, Purpose
from usmed.domain.fhir_consent import HOSPITAL_SYSTEM, ISSUER_SYSTEM, MODALITY_SYSTEM
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub.portal.kinds import COMPANIONS, KINDS
from usmed.hub.portal.words import LANGUAGES, MONTHS

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
LONGEST_YEARS = 50
"""A date farther away is a slip of the finger."""

TERMS = {"month": 1, "half-year": 6, "year": 12, "five-years": 60}
"""How long a consent may be given for with one tap, in months."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a consent is to say. An empty set, or a missing date, sets no bound.

    Attributes:
        permits: a permit; otherwise a denial.
        purposes: what for.
        recipients: hospitals that may see, or may not.
        sources: hospitals whose images are meant.
        modalities: DICOM modalities.
        study_from, study_to: days on which the studies were made, both included.
        until: the last day on which it holds.
    """

    permits: bool
    purposes: frozenset[Purpose] = frozenset()
    recipients: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    modalities: frozenset[str] = frozenset()
    study_from: date | None = None
    study_to: date | None = None
    until: date | None = None


def consent_resource(choices: Choices, *, patient: PatientIdentifier, now: datetime, zone: tzinfo) -> dict[str, Any]:
    """Return the FHIR R4 Consent of the strict profile (`domain.fhir_consent`) that says what was chosen.

    Args:
        choices: what it says.
        patient: the number that it is given under.
        now: aware UTC.
        zone: the patient's clock: the last day ends when it ends there.
    """
    provision: dict[str, Any] = {"type": (ProvisionType.PERMIT if choices.permits else ProvisionType.DENY).value}
    if choices.until is not None:
        after = datetime.combine(choices.until + timedelta(days=1), time(0), zone).astimezone(UTC)
        provision["period"] = {"end": f"{after:%Y-%m-%dT%H:%M:%SZ}"}
    bounds = {"start": choices.study_from, "end": choices.study_to}
    if any(bounds.values()):
        provision["dataPeriod"] = {name: day.isoformat() for name, day in bounds.items() if day}
    actors = [("IRCP", one) for one in sorted(choices.recipients)] + [("CST", one) for one in sorted(choices.sources)]
    if actors:
        provision["actor"] = [_actor(role, hospital) for role, hospital in actors]
    if choices.purposes:
        system = f"{TERMINOLOGY}/v3-ActReason"
        provision["purpose"] = [{"system": system, "code": one.value} for one in sorted(choices.purposes)]
    if choices.modalities:
        # A permit for CT scans means the notes that belong to them, too; a denial of CT scans does not deny all notes.
        codes = choices.modalities | (COMPANIONS if choices.permits else frozenset())
        provision["code"] = [_concept(MODALITY_SYSTEM, code) for code in sorted(codes)]
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": _concept(f"{TERMINOLOGY}/consentscope", "patient-privacy"),
        "category": [_concept("http://loinc.org", "59284-0")],
        "patient": {"identifier": {"system": f"{ISSUER_SYSTEM}{patient.issuer}", "value": patient.value}},
        "dateTime": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "provision": provision,
    }


def taken_back(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Return a consent as it says that it is taken back."""
    return {**resource, "status": "inactive"}


def read_choices(
    form: Mapping[str, Sequence[str]], hospitals: frozenset[str], today: date
) -> tuple[Choices | None, dict[str, str]]:
    """Read the form of a new consent.

    Args:
        form: every field with all its values, as they were typed.
        hospitals: ids that may be named.
        today: on the patient's calendar.

    Returns:
        The choices, and no faults; or None and, by field, the name of the word that says what is wrong.
    """
    faults: dict[str, str] = {}
    kind = _one(form, "kind")
    if kind not in ("permit", "deny", "emergency"):
        faults["kind"] = "fault-kind"
    chosen: dict[str, frozenset[str]] = {}
    for field, otherwise in (("who", "recipients"), ("where", "sources")):
        chosen[otherwise] = frozenset()
        if _one(form, field) == "some":
            chosen[otherwise] = frozenset(form.get(otherwise, ())) & hospitals
            if not chosen[otherwise]:
                faults[otherwise] = "fault-hospitals"
        elif _one(form, field) != "all":
            faults[otherwise] = "fault-hospitals"
    modalities: frozenset[str] = frozenset()
    if _one(form, "what") == "some":
        modalities = frozenset().union(*(KINDS[one] for one in form.get("kinds", ()) if one in KINDS))
    if not modalities and _one(form, "what") != "all":
        faults["kinds"] = "fault-kinds"
    first, last = (_date(form, field, faults) for field in ("study_from", "study_to"))
    if first and last and last < first:
        faults["study_to"] = "fault-order"
    until = _until(form, today, faults)
    if faults:
        return None, faults
    purposes = {"permit": {Purpose.TREAT}, "deny": {Purpose.TREAT, Purpose.HRESCH}, "emergency": {Purpose.ETREAT}}
    return Choices(
        kind == "permit", frozenset(purposes[kind]), chosen["recipients"], chosen["sources"], modalities, first, last,
        until,
    ), {}  # fmt: skip


def months_later(day: date, months: int) -> date:
    """Return the same day of a later month, or that month's last day."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def read_birth_date(day: str, month: str, year: str, today: date) -> date | None:
    """Read a birth date as people type it: `5`, `martie` or `03`, `1946`; also all of it in the first field.

    Returns:
        The date; None if it is none, or cannot be anybody's.
    """
    parts = [part for part in re.split(r"[\s./,-]+", f"{day} {month} {year}".strip()) if part]
    if len(parts) == 1 and re.fullmatch(r"[0-9]{8}", parts[0]):
        parts = [parts[0][:2], parts[0][2:4], parts[0][4:]]
    if len(parts) != 3:
        return None
    if len(parts[0]) == 4:
        parts.reverse()
    number = _month(parts[1])
    if not all(re.fullmatch(r"[0-9]{1,4}", one) for one in (parts[0], parts[2])) or len(parts[2]) != 4 or not number:
        return None
    try:
        born = date(int(parts[2]), number, int(parts[0]))
    except ValueError:
        return None
    return born if date(1880, 1, 1) <= born <= today else None


def _month(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,2}", text):
        return int(text)
    plain = _plain(text)
    found = {
        number
        for language in LANGUAGES
        for number, name in enumerate(MONTHS[language], start=1)
        if len(plain) >= 3 and _plain(name).startswith(plain)
    }
    return found.pop() if len(found) == 1 else 0


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text.casefold())
    return "".join(one for one in decomposed if not unicodedata.combining(one))


def _until(form: Mapping[str, Sequence[str]], today: date, faults: dict[str, str]) -> date | None:
    term = _one(form, "term")
    if term in TERMS:
        return months_later(today, TERMS[term])
    if term == "none":
        return None
    if term != "date":
        faults["until"] = "fault-term"
        return None
    until = _date(form, "until", faults)
    if until is None and "until" not in faults:
        faults["until"] = "fault-date"
    elif until is not None and not today <= until <= months_later(today, 12 * LONGEST_YEARS):
        faults["until"] = "fault-past" if until < today else "fault-far"
    return until


def _date(form: Mapping[str, Sequence[str]], field: str, faults: dict[str, str]) -> date | None:
    """Read a date as browsers send it, or as people type it where a browser has no field for dates."""
    text = _one(form, field)
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        found = read_birth_date(text, "", "", date(9000, 1, 1))
    if found is None:
        faults[field] = "fault-date"
    return found


def _one(form: Mapping[str, Sequence[str]], field: str) -> str:
    values = form.get(field, ())
    return values[0].strip() if len(values) == 1 else ""


def _actor(role: str, hospital: str) -> dict[str, Any]:
    return {
        "role": _concept(f"{TERMINOLOGY}/v3-ParticipationType", role),
        "reference": {"identifier": {"system": HOSPITAL_SYSTEM, "value": hospital}},
    }


def _concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}
