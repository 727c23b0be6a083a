"""Log-ins of the node's own: accounts, passwords, sessions, tokens; on SQLite and on PostgreSQL."""

import base64
import html
import io
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client, TestResponse

from support.staff import logged_in
from usmed.__main__ import main
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.staff_role import STAFF
from usmed.hospital.frame import Frame, create_entrance
from usmed.hospital.log_in_pages import create_log_in_pages
from usmed.hospital.page_requests import REFUSED, SHOWN
from usmed.hospital.staff.passwords import TRIES, TRIES_OF_ACCOUNT, WINDOW_S, Attempts, fits, hashed
from usmed.hospital.staff.rules import personal, roles
from usmed.hospital.staff.sessions import BASIC_S, COOKIE, FRESH_S, WRONG, NodeLogIns
from usmed.hospital.staff.store import MOST_SESSIONS, SESSION_LIFE, StaffStore
from usmed.hospital.store import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database, open_database

PASSWORD = "parola lunga a Anei"
HASH = hashed(PASSWORD)
IDLE = timedelta(minutes=30)


def basic(name: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


class Node:
    """A node's log-ins, with a clock that tests move."""

    def __init__(self, database: Database) -> None:
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)
        self.store = StaffStore(database)
        self.audit = AuditLog(database)
        self.log_ins = NodeLogIns(
            roles=roles("")[0], personal=personal(), store=self.store, registered={"admin": "secret", "stray": "x"},
            registered_roles={"admin": "administrator"}, other="", idle=IDLE,
            monotonic=self.seconds, clock=lambda: self.now,
        )  # fmt: skip

    def seconds(self) -> float:
        return self.now.timestamp()

    def later(self, **elapsed: float) -> None:
        self.now += timedelta(**elapsed)

    def who(self, headers: dict[str, str], address: str = "10.0.0.1") -> tuple[str, str, str]:
        person = self.log_ins.person(headers, address)
        return person.name, person.role, person.proved

    def log_in(self, name: str = "ana", password: str = PASSWORD, address: str = "10.0.0.1") -> dict[str, str]:
        return {"cookie": f"other=1; {COOKIE}={self.log_ins.log_in(name, password, address)}"}


NOBODY = ("http", "", "")


@pytest.fixture
def node(new_database_url: Callable[[], str]) -> Iterator[Node]:
    database = open_database(new_database_url(), [CHAIN])
    one = Node(database)
    one.store.add("ana", "radiologist", HASH, one.now, "test")
    yield one
    one.audit.close()
    database.close()


# ---- sessions ----


def test_a_session_lasts_while_it_is_used_and_ends_when_it_is_not(node: Node) -> None:
    cookie = node.log_in()
    for _ in range(10):
        assert node.who(cookie) == ("ana", "radiologist", "Session")
        node.later(minutes=25)
    node.later(minutes=10)
    assert node.who(cookie) == NOBODY


def test_a_session_ends_after_a_working_day_however_much_it_is_used(node: Node) -> None:
    cookie = node.log_in()
    for _ in range(int(SESSION_LIFE / timedelta(minutes=20)) - 1):
        node.later(minutes=20)
        assert node.who(cookie)[0] == "ana"
    node.later(minutes=20)
    assert node.who(cookie) == NOBODY


def test_a_session_outlives_a_restart(node: Node) -> None:
    cookie = node.log_in()
    node.who(cookie)
    node.log_ins._sessions.clear()
    node.later(minutes=5)
    assert node.who(cookie)[0] == "ana"


def test_logging_out_ends_it_everywhere_at_once(node: Node) -> None:
    cookie = node.log_in()
    assert node.who(cookie)[0] == "ana"
    node.log_ins.log_out(cookie["cookie"].partition(f"{COOKIE}=")[2])
    assert node.who(cookie) == NOBODY


@pytest.mark.parametrize("cookie", ["", COOKIE, f"{COOKIE}=", f"{COOKIE}=x", f"{COOKIE}=\x00", f"a={COOKIE}", "\udcff"])
def test_a_cookie_that_is_none_is_nobodys(node: Node, cookie: str) -> None:
    assert node.who({"cookie": cookie}) == NOBODY


def test_one_person_has_a_bounded_number_of_sessions(node: Node) -> None:
    first = node.log_in()
    for _ in range(MOST_SESSIONS):
        node.later(seconds=FRESH_S + 1)
        node.log_in()
    assert node.who(first) == NOBODY


@pytest.mark.parametrize("change", [{"disabled": 1}, {"password": hashed("another password")}, {"role": "surgeon"}])
def test_a_change_of_an_account_ends_its_sessions_and_what_was_remembered(node: Node, change: dict[str, Any]) -> None:
    cookie, header = node.log_in(), basic("ana", PASSWORD)
    assert node.who(cookie)[0] == node.who(header)[0] == "ana"
    node.store.change("ana", node.now, "test", "changed", **change)
    node.later(seconds=FRESH_S + 1)
    assert node.who(cookie) == NOBODY
    assert node.who(header) == (("ana", "surgeon", "Basic") if "role" in change else NOBODY)


# ---- passwords ----


def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(node: Node) -> None:
    said = []
    tried = [("ana", "no"), ("nobody", "no"), ("admin", "no"), ("stray", "x"), ("", ""), ("a" * 999, "no")]
    for name, password in tried:
        with pytest.raises(RefusedError) as refusal:
            node.log_in(name, password)
        assert refusal.value.code == WRONG
        said.append(str(refusal.value))
    assert len(set(said)) == 1


def test_the_time_does_not_tell_who_there_is(node: Node) -> None:
    def took(name: str, number: int) -> float:
        start = time.perf_counter()
        with pytest.raises(RefusedError):
            node.log_in(name, "wrong", f"10.1.{number}.{len(name)}")
        return time.perf_counter() - start

    # The shortest of several: a busy machine makes some longer, and nothing makes one shorter than a hash.
    shortest = [min(took(name, number) for number in range(4)) for name in ("ana", "nobody", "admin", "stray")]
    assert min(shortest) > 0.3 * max(shortest)


def test_guessing_is_stopped_for_an_account_and_address_and_goes_on_for_others(node: Node) -> None:
    for _ in range(TRIES):
        with pytest.raises(RefusedError):
            node.log_in(password="wrong")
    with pytest.raises(RefusedError):
        node.log_in()
    # Basic authentication is the same door.
    assert node.who(basic("ana", PASSWORD)) == NOBODY
    assert node.who(basic("ana", PASSWORD), "10.0.0.2")[0] == "ana"
    assert node.log_in(address="10.0.0.2")
    node.later(seconds=WINDOW_S + 1)
    assert node.log_in()


def test_guessing_from_many_addresses_is_stopped_too() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for number in range(TRIES_OF_ACCOUNT):
        assert attempts.allowed("ana", f"10.0.{number}.1")
        attempts.wrong("ana", f"10.0.{number}.1")
    assert not attempts.allowed("ana", "10.9.9.9")
    assert attempts.allowed("bogdan", "10.9.9.9")
    for number in range(20_000):
        attempts.wrong(f"name {number}", f"address {number}")
    assert len(attempts._failed) < 10_000


def test_a_password_that_was_right_is_not_hashed_with_every_request(node: Node) -> None:
    header = basic("ana", PASSWORD)
    assert node.who(header) == ("ana", "radiologist", "Basic")
    start = time.perf_counter()
    for _ in range(100):
        node.who(header)
    assert (time.perf_counter() - start) / 100 < 30e-6 * 10
    node.later(seconds=BASIC_S + 1)
    assert node.who(header)[0] == "ana"


def test_users_of_orthancs_configuration_log_in_too(node: Node) -> None:
    assert node.who(basic("admin", "secret")) == ("admin", "administrator", "Basic")
    assert node.who(basic("admin", "Secret")) == NOBODY
    assert node.who(node.log_in("admin", "secret")) == ("admin", "administrator", "Session")
    # Whose role nobody has named.
    assert node.who(basic("stray", "x")) == NOBODY
    # An account of the same name does not open the configuration's.
    node.store.add("stray", "administrator", HASH, node.now, "test")
    node.later(seconds=FRESH_S + 1)
    assert node.who(basic("stray", PASSWORD)) == NOBODY


def test_a_hash_fits_its_password_and_nothing_else() -> None:
    assert HASH.startswith("$argon2id$")
    assert fits(PASSWORD, HASH)
    assert not any(fits(one, HASH) for one in ("", PASSWORD + " ", "x" * 257))
    assert not fits("nobody's password", "")
    assert not fits(PASSWORD, "no hash")
    for wrong in ("short", "x" * 257):
        with pytest.raises(PeerDataError):
            hashed(wrong)


# ---- tokens ----


def test_a_token_may_what_it_says_until_it_expires_or_is_revoked(node: Node) -> None:
    expires = node.now + timedelta(days=1)
    token = node.store.add_token("ris", ["archive.find"], node.now, expires, "test")
    header = {"authorization": f"Bearer {token}"}
    person = node.log_ins.person(header)
    assert (person.name, person.proved) == ("token:ris", "Bearer")
    assert person.permissions - {"anybody"} == {"archive.find", STAFF}
    assert node.who({"authorization": f"bearer {token}"})[0] == "token:ris"
    assert node.who({"authorization": f"Bearer {token}x"}) == NOBODY
    with pytest.raises(RefusedError):
        node.store.add_token("ris", ["archive.delete"], node.now, expires, "test")
    node.later(days=1)
    assert node.who(header) == NOBODY
    again = node.store.add_token("pacs", ["archive.find"], node.now, node.now + timedelta(days=1), "test")
    node.later(seconds=FRESH_S + 1)
    assert node.who({"authorization": f"Bearer {again}"})[0] == "token:pacs"
    node.store.revoke("pacs", node.now, "test")
    node.later(seconds=FRESH_S + 1)
    assert node.who({"authorization": f"Bearer {again}"}) == NOBODY


def test_no_program_counts_as_a_member_of_staff(node: Node) -> None:
    assert personal() == {
        "arrivals.merges", "patients.ask", "patients.enrol", "paper.write", "paper.confirm", "emergencies.ask",
        "emergencies.confirm",
    }  # fmt: skip
    token = node.store.add_token("x", [*personal(), "jobs.read"], node.now, node.now + timedelta(days=1), "test")
    assert node.log_ins.person({"authorization": f"Bearer {token}"}).permissions == {"jobs.read", STAFF, "anybody"}


def test_nothing_on_disk_lets_anybody_in(node: Node) -> None:
    cookie = node.log_in()["cookie"].partition(f"{COOKIE}=")[2]
    token = node.store.add_token("ris", ["archive.find"], node.now, node.now + timedelta(days=1), "test")
    with node.store._database.read() as connection:
        held = "".join(
            str(connection.exec_driver_sql(f"SELECT * FROM {table}").all())
            for table in ("staff_account", "staff_session", "staff_token", "audit_record")
        )
    assert not any(secret in held for secret in (cookie, token, PASSWORD))


def test_every_change_stands_in_the_audit_log(node: Node) -> None:
    node.log_in()
    node.store.change("ana", node.now, "test", "account disabled", disabled=1)
    done = [(one["agent"], one["detail"]["what"], one["detail"]["for"]) for one in node.audit.tail(10)]
    assert done == [("test", "account added", "ana"), ("ana", "logged in", "ana"), ("test", "account disabled", "ana")]


@pytest.mark.parametrize("name", ["", "a" * 65, "a:b", "a\nb", " ana"])
def test_a_name_that_cannot_be_one(node: Node, name: str) -> None:
    with pytest.raises(PeerDataError):
        node.store.add(name, "surgeon", HASH, node.now, "test")


# ---- the page ----


class Browser:
    """The log-in page before a client without Orthanc; `address` is where the gate says it comes from."""

    def __init__(self, node: Node) -> None:
        app = Flask("usmed.hospital.pages", static_folder=None, template_folder="templates")
        frame = Frame(hospital_name=lambda: "Spitalul Ana", audit=node.audit, clock=lambda: node.now)
        app.register_blueprint(create_log_in_pages(frame, node.log_ins))
        app.register_blueprint(create_entrance())
        self.client = Client(app)

    def get(self, path: str, **environ: Any) -> TestResponse:
        return self.client.get(path, environ_overrides=environ, headers={"Accept": "text/html"})

    def post(self, path: str, form: dict[str, Any], **environ: Any) -> TestResponse:
        headers = {"Accept": "text/html", "Accept-Language": "ro"}
        return self.client.post(path, data=form, environ_overrides=environ, headers=headers)


@pytest.fixture
def browser(node: Node) -> Browser:
    return Browser(node)


def test_the_page_lets_in_and_goes_where_somebody_wanted(node: Node, browser: Browser) -> None:
    shown = browser.get("/log-in?next=usmed/desk/start%3Fx%3D1")
    assert 'name="next" value="usmed/desk/start?x=1"' in shown.text
    answer = browser.post("/log-in", {"name": " ana ", "password": PASSWORD, "next": "usmed/desk/start?x=1"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "../usmed/desk/start?x=1")
    cookie = answer.headers["Set-Cookie"]
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}; HttpOnly; Path=/; SameSite=Strict", cookie)
    assert node.who({"cookie": cookie.partition(";")[0]})[0] == "ana"
    secure = {"wsgi.url_scheme": "https"}
    safe = browser.post("/log-in", {"name": "ana", "password": PASSWORD}, **secure)
    assert "; Secure;" in safe.headers["Set-Cookie"]
    assert safe.headers["Location"] == "../app/explorer.html"


@pytest.mark.parametrize("wanted", ["", "/", "//", "\\\\evil.example", "a\r\nSet-Cookie: x=1", "é", "x" * 501])
def test_nobody_is_led_astray(browser: Browser, wanted: str) -> None:
    answer = browser.post("/log-in", {"name": "ana", "password": PASSWORD, "next": wanted})
    assert answer.headers["Location"] == "../app/explorer.html"


@pytest.mark.parametrize("wanted", ["https://evil.example/", "//evil.example/", "javascript:alert(1)"])
def test_an_address_elsewhere_is_one_below_here(browser: Browser, wanted: str) -> None:
    answer = browser.post("/log-in", {"name": "ana", "password": PASSWORD, "next": wanted})
    assert answer.headers["Location"] == f"../{wanted.lstrip('/')}"


def test_a_wrong_password_is_said_and_written_down_without_it(node: Node, browser: Browser) -> None:
    answer = browser.post("/log-in", {"name": "ana", "password": "parola gresita", "next": "usmed/desk"})
    assert "nu se potrivesc" in answer.text
    assert 'value="ana"' in answer.text
    assert "Set-Cookie" not in answer.headers
    last = node.audit.tail(1)[0]
    assert (last["event"], last["outcome"]) == ("refused", "denied")
    assert "parola gresita" not in str(last)


def test_a_form_that_came_too_late_is_not_lost(node: Node, browser: Browser) -> None:
    away = {REFUSED: "log-in", SHOWN: "/desk/enrolments", "PATH_INFO": "/refused"}
    late = browser.post("/refused", {"number": ["1", "2"], "name": "Popescu <b>"}, **away)
    assert "Sesiunea s-a încheiat" in late.text
    assert 'action="../log-in"' in late.text
    # Another language would be another request, without the form.
    assert "lang=en" not in late.text
    kept = re.search(r'name="kept" value="([^"]*)"', late.text)
    assert kept is not None
    form = {"name": "ana", "password": "wrong", "next": "usmed/desk/enrolments", "kept": html.unescape(kept[1])}
    assert kept[0] in browser.post("/log-in", form).text
    again = browser.post("/log-in", form | {"password": PASSWORD})
    assert again.headers["Set-Cookie"].startswith(COOKIE)
    assert 'action="../usmed/desk/enrolments"' in again.text
    fields = re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', again.text)
    assert fields == [("number", "1"), ("number", "2"), ("name", "Popescu &lt;b&gt;")]


@pytest.mark.parametrize("kept", ["{}", "x", "[1]", '[["a"]]', '[["a", 1]]'])
def test_a_kept_form_that_is_none_is_refused(browser: Browser, kept: str) -> None:
    answer = browser.post("/log-in", {"name": "ana", "password": PASSWORD, "kept": kept})
    assert "Set-Cookie" not in answer.headers


def test_whoever_is_turned_away_goes_to_the_page_or_is_told_why(browser: Browser) -> None:
    away = {REFUSED: "log-in", SHOWN: "/desk/start", "PATH_INFO": "/refused"}
    sent = browser.get("/refused?a=1", **away)
    assert sent.headers["Location"] == "../log-in?next=usmed%2Fdesk%2Fstart%3Fa%3D1"
    lacking = away | {REFUSED: "no-permission"} | logged_in("ana")
    assert "Rolul dumneavoastră" in browser.client.get(
        "/refused", environ_overrides=lacking, headers={"Accept": "text/html", "Accept-Language": "ro"}
    ).text
    program = browser.client.post("/refused", environ_overrides=away, data=b"x")
    assert (program.status_code, program.json["error"]) == (403, "log-in")


def test_logging_out_forgets_the_cookie(node: Node, browser: Browser) -> None:
    entered = browser.post("/log-in", {"name": "ana", "password": PASSWORD})
    cookie = entered.headers["Set-Cookie"].partition(";")[0]
    out = browser.client.post("/log-out", headers={"Cookie": cookie})
    assert out.headers["Location"] == "log-in"
    assert "Max-Age=0" in out.headers["Set-Cookie"]
    assert node.who({"cookie": cookie}) == NOBODY


# ---- the commands ----


def test_the_commands(
    new_database_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USMED_DATABASE_URL", new_database_url())

    def run(*arguments: str, typed: str = "") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = main(["staff", *arguments])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    assert run("add", "ana", "radiologist", typed=f"{PASSWORD}\n") == (0, "ana may log in as radiologist\n")
    assert run("add", "ana", "surgeon", typed=f"{PASSWORD}\n")[0] == 1
    assert "there is no role 'doctor'" in run("add", "bogdan", "doctor", typed=f"{PASSWORD}\n")[1]
    assert "10 to 256" in run("add", "bogdan", "surgeon", typed="short\n")[1]
    assert run("role", "ana", "surgeon")[0] == 0
    assert run("disable", "ana")[0] == 0
    assert "ana  surgeon, disabled, changed" in run("list")[1]
    assert run("enable", "ana")[0] == 0
    assert run("password", "ana", typed="another password\n")[0] == 0
    assert run("disable", "nobody")[0] == 1
    code, token = run("token", "add", "ris", "archive.find", "jobs.read", "--days", "7")
    assert code == 0
    assert token.startswith("usmed_")
    assert "ris  archive.find jobs.read, until " in run("token", "list")[1]
    assert token.strip() not in run("token", "list")[1]
    assert run("token", "add", "pacs", "archive.fnid")[0] == 1
    assert run("token", "add", "pacs", "staff")[0] == 1
    assert "no program" in run("token", "add", "pacs", "jobs.read", "emergencies.confirm")[1]
    assert run("token", "add", "pacs", "jobs.read", "--days", "0")[0] == 1
    assert run("token", "revoke", "ris")[0] == 0
    assert run("token", "revoke", "ris")[0] == 1
