"""The page on attacks names tests that are there, and shows the attackers' table as it is run."""

import re
from pathlib import Path

import pytest

from contract import attacks_on_log_in, attacks_on_pages, attacks_on_people
from contract.attack_table import table

assert attacks_on_log_in and attacks_on_pages and attacks_on_people  # they fill the table

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/explanation/threat-model.md").read_text("utf-8")
NAMED = sorted({
    (folder, name)
    for folder, names in re.findall(r"\b(unit|contract|host|e2e) ((?:`test_\w+`(?:, )?)+)", PAGE)
    for name in re.findall(r"`(test_\w+)`", names)
})  # fmt: skip


@pytest.mark.parametrize(("folder", "name"), NAMED)
def test_a_test_that_is_named_is_there(folder: str, name: str) -> None:
    assert (ROOT / "tests" / folder / f"{name}.py").exists()


def test_every_row_of_the_page_names_a_test() -> None:
    rows = re.findall(r"^\| (?!attack|whose|-)(.*) \|$", PAGE.partition("| attack |")[2].partition("\n\n")[0], re.M)
    assert len(rows) > 40
    assert [one for one in rows if not re.search(r"(unit|contract|host|e2e) `test_\w+`", one)] == []


def test_the_page_shows_the_attackers_table_as_it_is() -> None:
    shown = PAGE.partition("<!-- attacks on patients -->\n")[2].partition("<!-- end")[0].strip()
    assert shown == table(), "put this between the two marks of docs/explanation/threat-model.md:\n" + table()
