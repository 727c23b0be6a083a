"""Every text of the registrars' pages is there, in both languages; and none is left over."""

import re
from importlib.resources import files

import pytest

from usmed.hub.candidates import State
from usmed.hub.decisions import Kind, Side
from usmed.hub.registrar.words import LANGUAGES, WORDS, say
from usmed.hub.review import ALREADY, CONTRADICTION, UNKNOWN

FOLDER = files("usmed.hub.registrar")
PROGRAM = FOLDER.joinpath("app.py").read_text("utf-8")
PAGES = "\n".join(one.read_text("utf-8") for one in FOLDER.joinpath("templates").iterdir())
MADE = {
    *(f"kind-{one}" for one in Kind), *(f"{one}-side" for one in Side),
    *(f"state-{one}" for one in State if one is not State.OPEN),
    *(f"refused-{one}" for one in (ALREADY, CONTRADICTION, UNKNOWN, "bad-code")),
}  # fmt: skip
"""Names that are put together."""


def test_every_text_that_is_used_is_there_and_no_other() -> None:
    used = set(re.findall(r"""\bt\(["']([a-z0-9-]+)["']\)""", PAGES))
    named = set(re.findall(r"""["']([a-z0-9-]+)["']""", PAGES + PROGRAM))
    assert len(used) > 40
    assert (used | MADE) - set(WORDS) == set()
    assert set(WORDS) - named - MADE == set()


@pytest.mark.parametrize("name", sorted(WORDS))
def test_both_languages_say_it(name: str) -> None:
    assert len(WORDS[name]) == len(LANGUAGES)
    assert all(say(language, name).strip() for language in LANGUAGES)
    # Romanian with commas below, never with cedillas.
    assert not set("".join(WORDS[name])) & set('ŞşŢţ"')
