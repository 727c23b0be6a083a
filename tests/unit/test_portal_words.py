"""Every text of the portal is there, in both languages, with the same values in it; and none is left over."""

import re
from importlib.resources import files
from string import Formatter

import pytest

from usmed.domain.contact import Channel, Topic
from usmed.domain.study_kinds import DOCUMENTS, KINDS, UNKNOWN
from usmed.hub.portal import words_consents, words_help, words_notices, words_pages
from usmed.hub.portal.choices import TERMS
from usmed.hub.portal.views import State
from usmed.hub.portal.words import LANGUAGES, MONTHS, WORDS, say

FOLDER = files("usmed.hub.portal")
PROGRAMS = "\n".join(
    one.read_text("utf-8") for one in FOLDER.iterdir() if one.name.endswith(".py") and not one.name.startswith("words_")
)
PAGES = "\n".join(one.read_text("utf-8") for one in FOLDER.joinpath("templates").iterdir())
MADE = {
    *(f"state-{one}" for one in State), *(f"term-{one}" for one in TERMS), *(f"form-{one}" for one in KINDS),
    *(f"gone-{one}" for one in (State.OVER, State.WITHDRAWN, State.WITHDRAWING)),
    *KINDS, DOCUMENTS, UNKNOWN, *(f"topic-{one}" for one in Topic),
    *(f"{name}-{one}" for name in ("notices", "address", "code", "fault") for one in Channel),
    *(f"want-{one}{end}" for one in ("permit", "deny", "no-emergency") for end in ("", "-means")),
    *(f"help-{one}{end}" for one in ("what", "passkey", "lost", "new-phone", "consent", "emergency", "withdraw")
      for end in ("", "-text")),
    *(f"{gist}-{number}" for gist in ("may-see", "may-not-see") for number in ("any", "one", "several")),
    *(f"refused-{code}" for code in ("bad-code", "wrong-birth-date", "passkey-taken", "unknown-request")),
}  # fmt: skip
"""Names that are put together. Where they are, `~` or an f-string stands in the source."""


def test_every_text_that_is_used_is_there() -> None:
    used = set(re.findall(r"""\bt\(["']([a-z0-9-]+)["'][,)]""", PAGES))
    said = r'(?:_?say|Sorry)\((?:language, |self\.language, |g\.language, |\d+, )?"([a-z0-9-]+)"'
    used |= set(re.findall(said, PROGRAMS))
    used |= set(re.findall(r'"(fault-[a-z]+|birth-date-[a-z]+)"', PROGRAMS))
    assert len(used) > 100
    assert (used | MADE) - set(LANGUAGES) - set(WORDS) == set()


def test_no_text_is_left_over() -> None:
    named = set(re.findall(r"""["']([a-z0-9-]+)["']""", PAGES + PROGRAMS))
    assert set(WORDS) - named - MADE == set()


def test_no_text_is_there_twice() -> None:
    parts = words_consents.CONSENT_WORDS, words_pages.PAGE_WORDS, words_help.HELP_WORDS
    parts = (*parts, words_notices.NOTICE_WORDS)
    assert sum(map(len, parts)) == len(WORDS)


@pytest.mark.parametrize("name", sorted(WORDS))
def test_both_languages_say_the_same(name: str) -> None:
    texts = WORDS[name]
    assert len(texts) == len(LANGUAGES)
    values = [{field for _, field, _, _ in Formatter().parse(text) if field is not None} for text in texts]
    assert values[0] == values[1]
    assert all(text.strip() for text in texts)
    for number, language in enumerate(LANGUAGES):
        shown = say(language, name, **dict.fromkeys(values[0], "X"))
        assert "{" not in shown
        # Romanian with commas below, never with cedillas; typographic quotes only.
        assert not set(texts[number]) & set('ŞşŢţ"'), texts[number]


def test_months() -> None:
    assert all(len(MONTHS[language]) == 12 for language in LANGUAGES)
