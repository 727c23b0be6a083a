"""The console of a key server over HTTP: who gets in, what a decision needs, and what nobody can slip in."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from contract.test_approvals import approvals, events, operation, proposed, signed
from contract.test_key_servers import KeyRegion, region
from simulators.authenticator import Authenticator
from usmed.domain.approval import State, short_digest
from usmed.domain.canonical import sha256_hex
from usmed.keyserver.console.app import DOOR
from usmed.keyserver.console.words import _WORDS, LANGUAGES
from usmed.platform.passkeys import origin_of
from usmed.platform.staff.access import Access
from usmed.platform.staff.pages import HEADERS

__all__ = ["region"]  # a fixture

ORIGIN = "https://keys-1:8044"


class Administrator:
    """A person with a browser and a passkey."""

    def __init__(self, region: KeyRegion, server: str = "keys-1", origin: str = ORIGIN) -> None:
        self.region = region
        self.access = Access(region.databases[server], region.clock, DOOR)
        self.passkey = Authenticator(origin)
        self.browser = Client(region.clients[server].application)
        self.csrf = ""

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.browser.get(f"/console{path}", base_url=ORIGIN, **options)

    def post(self, path: str, document: Any, **headers: str) -> TestResponse:
        given = {"Origin": ORIGIN, "X-CSRF-Token": self.csrf, **headers}
        return self.browser.post(f"/console{path}", base_url=ORIGIN, json=document, headers=given)

    def register(self, code: str = "", name: str = "Ana Șuteu") -> TestResponse:
        code = code or self.access.make_code("test")
        options = self.post("/register/options", {"code": code, "name": name})
        if options.status_code != 200:
            return options
        return self._in(
            self.post("/register", {"code": code, "name": name, "response": self.passkey.create(options.json)})
        )

    def log_in(self, **client: Any) -> TestResponse:
        options = self.post("/login/options", {}).json
        return self._in(self.post("/login", {"response": self.passkey.get(options, **client)}))

    def decide(self, digest: str, decision: str) -> TestResponse:
        options = self.post(f"/approvals/{digest}/options", {"decision": decision})
        if options.status_code != 200:
            return options
        response = self.passkey.get(options.json)
        return self.post(f"/approvals/{digest}", {"decision": decision, "response": response})

    def _in(self, answer: TestResponse) -> TestResponse:
        if answer.status_code == 200:
            self.csrf = re.search(r'data-csrf="([0-9a-f]{64})"', self.get("/").text)[1]  # type: ignore[index]
        return answer


@pytest.fixture
def ana(region: KeyRegion) -> Administrator:
    person = Administrator(region)
    assert person.register().status_code == 200
    return person


# ---- Getting in ----


def test_without_a_session_there_is_only_the_door(region: KeyRegion) -> None:
    person = Administrator(region)
    for path in ("/", "/approvals", "/approvals/" + "0" * 64, "/log"):
        answer = person.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/console/login"), path
    for path in ("/login", "/register", "/static/staff.css", "/static/staff.js"):
        assert person.get(path).status_code == 200
    for path in ("/logout", "/approvals/" + "0" * 64, "/approvals/" + "0" * 64 + "/options"):
        answer = person.post(path, {})
        assert (answer.status_code, answer.json["error"]) == (403, "no-session"), path
    assert person.get("/nowhere").status_code == 404
    assert person.get("/static/../app.py").status_code == 404


def test_a_code_registers_one_passkey_within_a_quarter_of_an_hour(region: KeyRegion) -> None:
    person, other = Administrator(region), Administrator(region)
    code = person.access.make_code("test")
    assert re.fullmatch(r"([0-9A-Z]{4}-){3}[0-9A-Z]{4}", code)
    assert person.register("0000-0000-0000-0000").json["error"] == "bad-code"
    assert person.register(code.lower()).status_code == 200
    assert person.get("/").status_code == 200
    assert other.register(code).json["error"] == "bad-code"
    # A second one voids the first, and it ends.
    first, second = person.access.make_code("test"), person.access.make_code("test")
    assert other.register(first).json["error"] == "bad-code"
    region.clock.advance(15 * 60)
    assert other.register(second).json["error"] == "bad-code"
    assert len(person.access.passkeys()) == 1


def test_a_code_is_used_up_by_one_of_two_at_once(region: KeyRegion) -> None:
    first, second = Administrator(region), Administrator(region)
    second.passkey.id = b"credential-0002!"
    code = first.access.make_code("test")
    options = [one.post("/register/options", {"code": code, "name": "X"}).json for one in (first, second)]
    answers = [
        one.post("/register", {"code": code, "name": "X", "response": one.passkey.create(given)})
        for one, given in zip((first, second), options, strict=True)
    ]
    assert [one.status_code for one in answers] == [200, 403]


def test_a_session_is_short_and_ends_when_asked(ana: Administrator) -> None:
    cookie = ana.log_in().headers["Set-Cookie"]
    assert cookie.startswith("__Host-usmed-console=")
    assert {one.strip() for one in cookie.split(";")[1:]} >= {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"}
    ana.region.clock.advance(20 * 60 - 1)
    assert ana.get("/").status_code == 200
    ana.region.clock.advance(1)
    assert ana.get("/").status_code == 302
    assert ana.log_in().status_code == 200
    token = ana.browser.get_cookie("__Host-usmed-console", domain="keys-1")
    assert token is not None
    assert ana.post("/logout", {}).status_code == 302
    ana.browser.set_cookie("__Host-usmed-console", token.value, domain="keys-1")
    assert ana.get("/").status_code == 302


def test_what_is_in_the_database_lets_nobody_in(ana: Administrator) -> None:
    code = ana.access.make_code("test")
    token = ana.browser.get_cookie("__Host-usmed-console", domain="keys-1")
    assert token is not None
    with ana.region.databases["keys-1"].read() as connection:
        held = [str(row) for name in ("console_code", "console_session")
                for row in connection.exec_driver_sql(f"SELECT * FROM {name}").all()]  # fmt: skip
    assert len(held) == 2
    assert not [row for row in held if code in row or token.value in row]


def test_a_removed_passkey_is_out_at_once(ana: Administrator) -> None:
    (passkey,) = ana.access.passkeys()
    assert ana.access.remove(passkey.id, "test")
    assert not ana.access.remove(passkey.id, "test")
    assert ana.get("/").status_code == 302
    assert ana.log_in().status_code == 400


def unverified(person: Administrator) -> TestResponse:
    person.passkey.flags = 0x01
    return person.log_in()


def another_key(person: Administrator) -> TestResponse:
    person.passkey = Authenticator(ORIGIN)
    return person.log_in()


def another_id(person: Administrator) -> TestResponse:
    person.passkey.id = b"credential-0009!"
    return person.log_in()


def late(person: Administrator) -> TestResponse:
    options = person.post("/login/options", {}).json
    person.region.clock.advance(3 * 60)
    return person.post("/login", {"response": person.passkey.get(options)})


def twice(person: Administrator) -> TestResponse:
    response = {"response": person.passkey.get(person.post("/login/options", {}).json)}
    assert person.post("/login", response).status_code == 200
    return person.post("/login", response)


def for_another_purpose(person: Administrator) -> TestResponse:
    code = person.access.make_code("test")
    options = person.post("/register/options", {"code": code, "name": "X"}).json["publicKey"]
    given = {"publicKey": {"challenge": options["challenge"], "rpId": options["rp"]["id"]}}
    return person.post("/login", {"response": person.passkey.get(given)})


def own_challenge(person: Administrator) -> TestResponse:
    given = {"publicKey": {"challenge": "A" * 75, "rpId": "keys-1"}}
    return person.post("/login", {"response": person.passkey.get(given)})


WRONG: dict[str, Callable[[Administrator], TestResponse]] = {
    "another site": lambda one: one.log_in(origin="https://keys-1.example"),
    "the same name, another port": lambda one: one.log_in(origin="https://keys-1:8443"),
    "a registration's type": lambda one: one.log_in(type="webauthn.create"),
    "no user verification": unverified,
    "another key": another_key,
    "another credential": another_id,
    "too late": late,
    "twice": twice,
    "the challenge of a registration": for_another_purpose,
    "a challenge of one's own": own_challenge,
    "nothing": lambda one: one.post("/login", {"response": None}),
    "half of it": lambda one: one.post("/login", {"response": {"response": {"clientDataJSON": "e30"}}}),
    "a list": lambda one: one.post("/login", []),
    "a member more": lambda one: one.post("/login", {"response": {}, "more": 1}),
}


def test_what_does_not_log_in(region: KeyRegion) -> None:
    for number, (name, attempt) in enumerate(WRONG.items()):
        person = Administrator(region)
        person.passkey.id = f"credential-of-{number}".encode()
        assert person.register().status_code == 200
        person.post("/logout", {})
        answer = attempt(person)
        assert answer.status_code == 400, name
        assert "Set-Cookie" not in answer.headers
        assert "Traceback" not in answer.text
        assert events(region, "administration")[-1]["outcome"] == "denied", name


# ---- Deciding ----


def test_an_approval_needs_a_fresh_signature_over_the_operation(ana: Administrator) -> None:
    region, one = ana.region, operation(ana.region)
    assert [signed(region, number) for number in range(1, 5)] == ["signed"] * 3 + ["over-rate"]
    proposed(region, one)
    page = ana.get(f"/approvals/{one.digest}").text
    for shown in ("iasi", "Accident feroviar la Pașcani", one.nonce, one.digest, *short_digest(one.digest).split("-")):
        assert shown in page
    assert ana.decide(one.digest, "approve").status_code == 200
    assert signed(region, 4) == "signed"
    event = events(region, "approval")[-1]
    assert event["agent"].startswith("Ana Șuteu (passkey ")
    assert event["detail"]["what"] == "approved"
    assert event["detail"]["particulars"]["further"] == 2
    assert ana.decide(one.digest, "refuse").json["error"] == "decided"
    with region.databases["keys-1"].read() as connection:
        proof = connection.exec_driver_sql("SELECT proof FROM approval").scalar_one()
    assert "clientDataJSON" in proof
    assert event["detail"]["proof_sha256"] == sha256_hex(proof.encode())
    assert region.audits["keys-1"].verify().unbroken


def test_a_refusal_is_final(ana: Administrator) -> None:
    one = operation(ana.region)
    proposed(ana.region, one)
    assert ana.decide(one.digest, "refuse").status_code == 200
    assert ana.decide(one.digest, "approve").json["error"] == "decided"
    assert proposed(ana.region, one)[1]["state"] == "refused"
    assert "refused" in ana.get("/approvals").text


def test_a_signature_decides_nothing_else(ana: Administrator) -> None:
    region, one, other = ana.region, operation(ana.region), operation(ana.region, nonce="nonce-of-operation-2")
    for each in (one, other):
        proposed(region, each)
    options = ana.post(f"/approvals/{one.digest}/options", {"decision": "refuse"}).json
    for_one = ana.passkey.get(options)
    logged_in = ana.passkey.get(ana.post("/login/options", {}).json)
    for digest, decision, response in (
        (other.digest, "refuse", for_one),
        (one.digest, "approve", for_one),
        (one.digest, "approve", logged_in),
        (one.digest, "approve", None),
        (one.digest, "expire", for_one),
        (one.digest, None, for_one),
    ):
        assert ana.post(f"/approvals/{digest}", {"decision": decision, "response": response}).status_code == 400
    ana.passkey.flags = 0x01
    assert ana.decide(one.digest, "approve").status_code == 400
    ana.passkey.flags = 0x05
    # Nor does another person's passkey, nor the right one on another server.
    mine, ana.passkey = ana.passkey, Authenticator(ORIGIN)
    assert ana.decide(one.digest, "approve").status_code == 400
    ana.passkey = mine
    assert approvals(region).counts()[State.PENDING] == 2
    unknown = ana.post(f"/approvals/{'0' * 64}/options", {"decision": "approve"})
    assert (unknown.status_code, unknown.json["error"]) == (404, "unknown")


def test_another_site_cannot_post_in_the_administrators_name(ana: Administrator) -> None:
    one = operation(ana.region)
    proposed(ana.region, one)
    path = f"/approvals/{one.digest}/options"
    assert ana.post(path, {"decision": "approve"}, Origin="https://evil.example").status_code == 403
    assert ana.post(path, {"decision": "approve"}, **{"X-CSRF-Token": "0" * 64}).status_code == 403
    assert ana.post(path, {"decision": "approve"}, **{"X-CSRF-Token": "ș"}).status_code == 403
    csrf, ana.csrf = ana.csrf, ""
    assert ana.post(path, {"decision": "approve"}).status_code == 403
    form = ana.browser.post("/console/logout", base_url=ORIGIN, data={"csrf": "x"}, headers={"Origin": ORIGIN})
    assert form.status_code == 403
    ana.csrf = csrf
    assert ana.post(path, {"decision": "approve"}).status_code == 200


# ---- Pages ----


def test_the_overview_shows_what_an_administrator_compares(ana: Administrator) -> None:
    ana.region.give(records=[ana.region.record("consent-1", to="bacau")])
    proposed(ana.region, operation(ana.region))
    page = ana.get("/").text
    assert '<span class="badge">1</span>' in page
    assert '<span class="badge">1</span>' in ana.get("/approvals").text
    assert "USMED_SMTP_HOST" in page
    own = ana.region.manifest.key_servers["keys-1"]
    for shown in (str(own.key.thumbprint()), "Regiunea Moldova", "2 of 3", "Ana Șuteu"):
        assert shown in page
    assert re.search(r'class="big">1</p><p>consents', page)
    assert "keys-1" in page


def test_the_log_is_searched(ana: Administrator) -> None:
    proposed(ana.region, operation(ana.region))
    ana.region.give(records=[ana.region.record("consent-1", to="bacau")])

    def found(query: str) -> list[str]:
        return re.findall(r"</time><b>([a-z]+)", ana.get(f"/log?{query}").text)

    everything = found("")
    assert set(everything) == {"administration", "approval", "consent"}
    assert found("event=approval") == ["approval"]
    assert found("text=pașcani") == found("text=nonce-of-operation-1") == ["approval"]
    assert found("outcome=denied") == found("text=%25") == found("text=%22event%22:%22consent%22%25") == []
    assert found("before=2") == everything[-1:]
    assert found("before=x") == found("before=99999999999999") == everything


def test_nothing_that_was_sent_is_markup(ana: Administrator) -> None:
    nasty = operation(ana.region, requester="iasi")
    nasty = type(nasty)(
        nasty.kind, "iasi", "nonce-of-operation-3",
        {**nasty.particulars, "reason": "<script>alert(1)</script>\"'&amp; acum"}, nasty.issued, nasty.expires,
    )  # fmt: skip
    assert proposed(ana.region, nasty)[0] == 200
    for path in ("/approvals", f"/approvals/{nasty.digest}", "/log", "/log?text=<script>alert(2)</script>"):
        page = ana.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


def test_every_page_forbids_what_is_not_its_own(ana: Administrator) -> None:
    for path in ("/", "/approvals", "/log", "/login", "/register", "/nowhere", "/static/staff.js"):
        answer = ana.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert policy == HEADERS["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        if path.startswith("/static"):
            continue
        assert answer.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<style|style=|\son\w+=|<script>", answer.text)
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', answer.text)


def test_two_languages(ana: Administrator) -> None:
    assert '<html lang="en">' in ana.get("/").text
    assert "Jurnal" in ana.get("/log", headers={"Accept-Language": "ro-RO,ro;q=0.9,en;q=0.5"}).text
    assert '<html lang="ro">' in ana.get("/?lang=ro").text
    assert "Aprobări" in ana.get("/approvals").text
    assert '<html lang="ro">' in ana.get("/?lang=<x>").text
    assert {len(words) for words in _WORDS.values()} == {len(LANGUAGES)}


def test_every_word_that_a_page_uses_is_there() -> None:
    from importlib.resources import files

    used: set[str] = set()
    for page in files("usmed.keyserver.console").joinpath("templates").iterdir():
        used |= set(re.findall(r'\bt\("([a-z-]+)"\)', page.read_text("utf-8")))
    assert len(used) > 40
    assert used - set(_WORDS) == set()


@pytest.mark.parametrize(
    ("address", "origin"),
    [("https://Keys-1:8044", "https://keys-1:8044"), ("https://keys.example:443", "https://keys.example"),
     ("http://localhost:80", "http://localhost"), ("https://keys.example", "https://keys.example")],
)  # fmt: skip
def test_origins_are_written_as_browsers_do(address: str, origin: str) -> None:
    assert origin_of(address) == origin


def test_bad_bodies_are_told_in_words(ana: Administrator) -> None:
    for data, kind in ((b"{", "application/json"), (b"\xff", "application/json"), (b"a=1", "text/plain")):
        answer = ana.browser.post(
            "/console/login", base_url=ORIGIN, data=data, content_type=kind, headers={"Origin": ORIGIN}
        )
        assert answer.status_code == 400
        assert "Traceback" not in answer.text
    big = ana.browser.post(
        "/console/login", base_url=ORIGIN, json={"response": "x" * 70_000}, headers={"Origin": ORIGIN}
    )
    assert big.status_code == 413
    elsewhere = ana.browser.post("/console/login", base_url=ORIGIN, json={"response": {}})
    assert elsewhere.status_code == 403
    assert ana.region.clients["keys-1"].get("/v1/tickets").status_code == 401
