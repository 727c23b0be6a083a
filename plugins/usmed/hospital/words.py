"""The words of all pages of the node, in English and in Romanian; each subject has a module of its own for them."""

from usmed.hospital.arrivals_words import ARRIVALS_WORDS
from usmed.hospital.audit_words import AUDIT_WORDS
from usmed.hospital.enrolment_words import ENROLMENT_WORDS
from usmed.hospital.frame_words import FRAME_WORDS
from usmed.hospital.log_in_words import LOG_IN_WORDS
from usmed.hospital.paper_words import PAPER_WORDS
from usmed.hospital.statistics_words import STATISTICS_WORDS

LANGUAGES = {"ro": "Română", "en": "English"}

PARTS = (
    FRAME_WORDS,
    LOG_IN_WORDS,
    ARRIVALS_WORDS,
    ENROLMENT_WORDS,
    PAPER_WORDS,
    AUDIT_WORDS,
    STATISTICS_WORDS,
)
WORDS: dict[str, tuple[str, str]] = {name: texts for part in PARTS for name, texts in part.items()}
"""A fault has the code of its error behind `fault-`."""


def translate(language: str, name: str) -> str:
    """Return a text in a language.

    Raises:
        KeyError: there is none.
    """
    return WORDS[name][("en", "ro").index(language)]


def of_fault(language: str, code: str, message: str) -> str:
    """Return what went wrong in a language; with the English message where the code has no words."""
    known = f"fault-{code}"
    return translate(language, known) if known in WORDS else f"{translate(language, 'fault-other')}: {message}"
