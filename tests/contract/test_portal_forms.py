"""Every field of every form of the portal, with script and worse in it: text stays text, and what was typed stays."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from uuid import uuid4

import pytest

from contract.hub_region import Region, running_region, study
from contract.portal_patients import Patient

ANA = ("RO-CNP", "1630615123457")
PAYLOADS = (
    "<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "javascript:alert(1)", "{{7*7}}", "\u202e\0\n",
)  # fmt: skip
FORM = re.compile(r"<form(?P<open>[^>]*)>(?P<body>.*?)</form>", re.S)
FIELD = re.compile(r"<(?:input|select|textarea|button)[^>]*\sname=\"([^\"]+)\"")


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    with running_region(f"sqlite:///{tmp_path / uuid4().hex}.db") as running:
        yield running


def forms(page: str) -> list[tuple[str, list[str]]]:
    """Return the address of each form of a page, with the names of its fields."""
    found = []
    for one in FORM.finditer(page):
        action = re.search(r'action="([^"]*)"', one["open"])
        assert action is not None
        found.append((unescape(action[1]), sorted(set(FIELD.findall(one["body"])))))
    return found


def test_no_field_of_any_form_becomes_markup(region: Region) -> None:
    region.feed("iasi", study("1.2.3", ANA))
    ana = Patient(region, ANA).enrolled()
    consent = ana.permit(recipients="bacau")
    id = str(uuid4())
    body = {"id": id, "identifier": {"issuer": ANA[0], "value": ANA[1]}, "purpose": "TREAT",
            "department": "Radiologie", "role": "medic"}  # fmt: skip
    region.post("bacau", "/v1/requests", body)
    tried = 0
    paths = ("/consents/new?kind=permit", f"/consents/{consent}", f"/requests/{id}", f"/requests/{id}/no")
    for path in paths:
        page = ana.read(path)
        for action, fields in forms(page):
            if action.endswith("/logout"):
                continue
            assert action.startswith("/portal/")
            for name in fields:
                for payload in PAYLOADS:
                    given = {**dict.fromkeys(fields, "x"), "csrf": ana.csrf, name: payload}
                    answer = ana.submit(action.removeprefix("/portal"), **given)
                    assert answer.status_code in (200, 302, 400, 403, 404), (path, name)
                    inside = re.sub(r'"[^"]*"', '""', answer.text)
                    assert "alert(1)" not in inside.replace("&lt;script&gt;alert(1)", ""), (path, name)
                    assert payload != "{{7*7}}" or "49" not in inside, (path, name)
                    tried += 1
    assert tried > 80


def test_a_form_with_a_fault_keeps_all_that_was_typed(region: Region) -> None:
    ana = Patient(region, ANA).enrolled()
    typed = {"study_from": "<5 martie>", "study_to": "2020-01-01", "until": "mâine", "term": "date"}
    page = ana.choose(recipients=["iasi", "bacau"], sources=["suceava"], where="some", **typed).text
    for value in typed.values():
        assert value in unescape(page), value
    ticked = re.findall(r'name="(recipients|sources)" value="(\w+)" checked', page)
    assert ticked == [("recipients", "bacau"), ("recipients", "iasi"), ("sources", "suceava")]


def test_the_birth_date_that_was_typed_stays(region: Region) -> None:
    ana = Patient(region, ANA)
    ana.get(f"/enrol/{ana.invited()}")
    for fields in (("<b>15", "iunie", "19"), ("31", "2", "1963"), ("15", "\u202e6", "1963")):
        answer = ana.tell_birth_date(*fields)
        assert answer.status_code == 400
        shown = dict(re.findall(r'name="(day|month|year)"[^>]*value="([^"]*)"', answer.text))
        assert tuple(unescape(shown[one]) for one in ("day", "month", "year")) == fields
