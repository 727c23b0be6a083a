"""The log-in page in a real browser: from Orthanc Explorer and back, a session that ends in the middle of a form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host.archive_data import instances
from support.browser import DESK, PHONE, Browser
from support.process import eventually
from support.region import CLERK, DOCTOR, Hospital, Hub, running_region


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder: Path = tmp_path_factory.mktemp("log-in")
    one = Hospital(
        "page", "Spitalul Județean Iași", "PAGE", folder / "page", orthanc={"AuthenticationEnabled": False},
        section={"Staff": {"LogIn": "page"}},
    )  # fmt: skip
    with running_region(folder, [one], Hub(folder / "hub")):
        for file in list(instances())[:4]:
            one.store(file)
        yield one


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    one = Browser(tmp_path / "chromium", passkeys=False, language="ro")
    yield one
    one.close()


def look(browser: Browser, name: str) -> None:
    for size in (PHONE, DESK):
        browser.resize(size)
        browser.picture(f"log-in-{name}")
        assert browser.barriers() == [], name
        assert browser.overflow() <= 0, name


def field(browser: Browser, name: str) -> Any:
    return browser.driver.find_element("css selector", f"[name={name}]")


def log_in(browser: Browser, who: tuple[str, str]) -> None:
    name = field(browser, "name")
    name.clear()
    name.send_keys(who[0])
    field(browser, "password").send_keys(who[1])
    browser.driver.find_element("css selector", "form.card button").click()


def at(browser: Browser, part: str) -> None:
    eventually(lambda: part in browser.driver.current_url, 20, f"{part}, and not {browser.driver.current_url}")


def test_orthanc_explorer_leads_to_the_page_and_back_to_where_one_was(node: Hospital, browser: Browser) -> None:
    study = node.get("/studies").json()[0]
    wanted = f"/app/explorer.html#study?uuid={study}"
    browser.open(node.url + wanted)
    at(browser, "/usmed/log-in?next=app%2Fexplorer.html%23study")
    look(browser, "page")
    log_in(browser, (DOCTOR[0], "wrong"))
    eventually(lambda: "nu se potrivesc" in browser.driver.page_source, 20, "what was wrong")
    look(browser, "wrong")
    log_in(browser, DOCTOR)
    at(browser, wanted)
    shown = "return $('#study-info').text()"
    eventually(lambda: "Study" in (browser.driver.execute_script(shown) or ""), 20, "the study")
    browser.open(f"{node.url}/usmed/desk/start")
    assert "Rolul dumneavoastră nu permite" in browser.driver.page_source
    look(browser, "no-permission")
    browser.driver.find_element("css selector", "form.out button").click()
    at(browser, "/usmed/log-in")
    assert browser.driver.get_cookie("usmed-session") is None


def test_what_was_typed_when_the_session_ended_is_sent_after_the_next_log_in(node: Hospital, browser: Browser) -> None:
    browser.open(f"{node.url}/usmed/desk/patient?PatientID=1234")
    at(browser, "/usmed/log-in?next=usmed%2Fdesk%2Fpatient")
    log_in(browser, CLERK)
    at(browser, "/usmed/desk/patient?PatientID=1234")
    browser.driver.delete_cookie("usmed-session")
    browser.driver.execute_script("document.querySelector('form.card').noValidate = true")
    browser.driver.find_element("css selector", "form.card button.main").click()
    eventually(lambda: "Sesiunea s-a încheiat" in browser.driver.page_source, 20, "the log-in in place")
    look(browser, "session-over")
    log_in(browser, CLERK)
    eventually(lambda: "Trimite acum" in browser.driver.page_source, 20, "the form that was kept")
    look(browser, "go-on")
    browser.driver.find_element("css selector", "form.card button").click()
    at(browser, "/usmed/desk/enrolments")
    page = browser.driver.page_source
    # The desk has read the form: it says what is wrong with it, and not that it does not know whose it is.
    assert "form.card" not in page
    assert "Acest formular nu este din această sesiune" not in page
    assert "Autentificare</h1>" not in page
    assert 'value="1234"' in page or "1234" in page
