"""How the portal speaks: Romanian and English, dates as people write them, lists as people say them."""

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, tzinfo

from usmed.domain.enrolment import Basis, Guardian
from usmed.hub.portal.words_consents import CONSENT_WORDS
from usmed.hub.portal.words_help import HELP_WORDS
from usmed.hub.portal.words_notices import NOTICE_WORDS
from usmed.hub.portal.words_pages import PAGE_WORDS

LANGUAGES = {"ro": "Română", "en": "English"}
"""The first one is for whoever asks for none of them."""

WORDS = {**PAGE_WORDS, **CONSENT_WORDS, **HELP_WORDS, **NOTICE_WORDS}

MONTHS = {
    "ro": ("ianuarie", "februarie", "martie", "aprilie", "mai", "iunie", "iulie", "august", "septembrie", "octombrie",
           "noiembrie", "decembrie"),
    "en": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December"),
}  # fmt: skip


def say(language: str, name: str, **values: object) -> str:
    """Return a text in a language, with what belongs into it.

    Raises:
        KeyError: there is no such text.
    """
    return WORDS[name][list(LANGUAGES).index(language)].format(**values)


def day_text(language: str, day: date) -> str:
    """Write a day: `5 martie 1946`."""
    return f"{day.day} {MONTHS[language][day.month - 1]} {day.year}"


def moment_text(language: str, moment: datetime, zone: tzinfo) -> str:
    """Write a moment, as exactly as it is: `5 martie 1946, 14:05`."""
    local = moment.astimezone(zone)
    clock = f"{local:%H:%M}"
    if local.second or local.microsecond:
        clock = f"{local:%H:%M:%S.%f}".rstrip("0").rstrip(".")
    if _is_twice(local):
        # When clocks go back an hour is there twice.
        clock += f" {local:%Z}"
    return f"{day_text(language, local.date())}, {clock}"


def end_text(language: str, end: datetime, zone: tzinfo) -> str:
    """Write until when something holds whose first moment after it is `end`: a whole day as its last day."""
    local = end.astimezone(zone)
    if local.time() == time(0) and not _is_twice(local):
        return say(language, "end-of-day", day=day_text(language, (local - timedelta(days=1)).date()))
    return moment_text(language, end, zone)


def mark_text(language: str, number: str, guardian: Guardian | None, born: str) -> str:
    """Return what tells a person from others who use the same phone: the hub knows no names.

    Args:
        language: of the text.
        number: under which consents are given.
        guardian: who holds the passkey, if not the patient.
        born: YYYYMMDD, or empty.
    """
    end = say(language, "number-ends", end=number[-4:])
    if guardian is None:
        return end
    child = guardian.basis is Basis.PARENT
    if not born:
        return f"{say(language, 'for-child' if child else 'for-other')}, {end}"
    day = f"{born[6:]}.{born[4:6]}.{born[:4]}"
    return f"{say(language, 'for-child-born' if child else 'for-other-born', day=day)}, {end}"


def listed(language: str, parts: Iterable[str]) -> str:
    """Write a list: `A, B și C`."""
    *first, last = list(parts)
    return say(language, "and", first=", ".join(first), last=last) if first else last


def _is_twice(local: datetime) -> bool:
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
