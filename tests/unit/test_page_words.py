"""Every text of the node's pages is there in both languages, and none that nobody uses."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

from usmed.domain.arrival import Prefetch, Source
from usmed.domain.audit import AuditEventType, Outcome
from usmed.domain.audit_patterns import Pattern
from usmed.domain.consent_choices import PURPOSES
from usmed.domain.enrolment import Basis
from usmed.domain.invitation import State
from usmed.domain.paper import State as PaperState
from usmed.domain.study_kinds import KINDS
from usmed.hospital.frame import ENTRIES, LOOKS
from usmed.hospital.scans import FAULTS
from usmed.hospital.words import LANGUAGES, PARTS, WORDS, of_fault, translate

FOLDER = files("usmed.hospital")
PAGES = sorted(Path(str(FOLDER.joinpath("templates"))).rglob("*.html"))
CODE = "".join(
    FOLDER.joinpath(name).read_text("utf-8")
    for name in (
        "enrolments.py", "counting_passkeys.py", "enrolment_pages.py", "patient_record.py", "desk.py", "scans.py",
        "paper_pages.py", "frame.py", "arrivals_pages.py", "auditor.py",
    )
)
OVER = [State.VOID, State.EXPIRED]
PLOTS = ["studies", "bytes", "lookups", "pulls", "denied", "first-image", "storage"]
STATISTICS = {
    *(f"plot-{one}" for one in PLOTS), *(f"pull-{one}" for one in ("complete", "failed", "refused")),
    *(f"tile-{one}" for one in ("studies", "bytes", "lookups", "hits", "pulls", "denied", "first-image")),
    *(f"statistics-{one}" for one in ("others", "hit", "no-hit", "pulls")),
}  # fmt: skip
"""Named in the program that draws."""

VALUES = {
    "plot-": PLOTS,
    "audit-": ["search", "patterns", "chain"],
    "event-": list(AuditEventType),
    "outcome-": list(Outcome),
    "pattern-": list(Pattern),
    "entry-": list(ENTRIES),
    "look-": list(LOOKS),
    "prefetch-": list(Prefetch),
    "source-": list(Source),
    "state-": list(State),
    "by-": list(Basis),
    "signs-": [*Basis, "patient"],
    "sex-": ["M", "F"],
    "over-": OVER,
    "paper-": [*(one for one in PaperState if one not in (PaperState.WAITING, PaperState.ATTESTED)), *PURPOSES],
    "study-": list(KINDS),
    "purpose-": ["TREAT", "ETREAT", "HRESCH"],
}
"""What follows a beginning that a page completes with a value."""


def used() -> set[str]:
    found: set[str] = set()
    for page in PAGES:
        text = page.read_text("utf-8")
        for name in re.findall(r"""\bt\(["']([\w-]+)["']\)""", text):
            found.add(name)
        for beginning in re.findall(r"""\bt\(["']([\w-]+-)["'] \+""", text):
            found |= {f"{beginning}{value}" for value in VALUES[beginning]}
        found |= set(re.findall(r'"(step-\w+)"', text))
    return found


def faults() -> set[str]:
    codes = set(re.findall(r'RefusedError\(\s*"([\w-]+)"', CODE))
    codes |= set(re.findall(r'^[A-Z_, ]+ = "([\w-]+)", "([\w-]+)", "([\w-]+)"$', CODE, re.MULTILINE)[0])
    # Of the log-in, the hub, of what is no refusal, and where there is no text for a code.
    codes |= {f"scan-{one}" for one in (*FAULTS, "none", "large", "pages")}
    codes |= {"log-in", "no-permission", "session-over", "wrong-password"}
    return {f"fault-{one}" for one in (*codes, "nobody", "too-many", "away", "other")}


def test_there_is_something_to_look_at() -> None:
    assert len(PAGES) >= 8
    assert len(used()) > 60
    assert len(faults()) > 15
    assert "fault-contradiction" in faults()


def test_no_text_is_missing_and_none_is_too_many() -> None:
    assert (used() | faults() | STATISTICS) - set(WORDS) == set()
    assert set(WORDS) - (used() | faults() | STATISTICS) == set()


def test_no_text_is_there_twice() -> None:
    assert sum(map(len, PARTS)) == len(WORDS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_says_something_in_every_language(language: str) -> None:
    assert [name for name in WORDS if not translate(language, name).strip()] == []
    assert set(LANGUAGES) == {"ro", "en"}


def test_a_fault_without_words_is_told_as_it_came() -> None:
    assert of_fault("ro", "child", "below 16 years") == translate("ro", "fault-child")
    assert of_fault("ro", "passkey-taken", "hub: taken") == "A fost refuzat: hub: taken"
