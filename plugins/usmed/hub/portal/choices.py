"""What a person chose on a page of the portal (`domain.consent_choices` makes the Consent of it)."""

import re
import unicodedata
from calendar import monthrange
from collections.abc import Mapping, Sequence
from datetime import date

from usmed.domain.consent_choices import PURPOSES, Choices
from usmed.domain.study_kinds import KINDS
from usmed.hub.portal.words import LANGUAGES, MONTHS

LONGEST_YEARS = 50
"""A date farther away is a slip of the finger."""

TERMS = {"month": 1, "half-year": 6, "year": 12, "five-years": 60}
"""How long a consent may be given for with one tap, in months."""


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
    return Choices(
        kind == "permit", PURPOSES[kind], chosen["recipients"], chosen["sources"], modalities, first, last,
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
