"""The registrars' pages over HTTP: who gets in, what decides, and what another site or a guess cannot do."""

import re
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from contract.hub_region import CNP, PORTAL, Region, study
from contract.test_hub_review import OWN, THEIRS, find, known_as, same_person
from simulators.authenticator import Authenticator
from usmed.hub.registrar.app import DOOR
from usmed.platform.staff.access import Access
from usmed.platform.staff.pages import HEADERS

SCRIPT = "<script>alert(1)</script>\"'&amp;"
REASON = "identity card seen at Iași"


class Registrar:
    """A person with a browser and a passkey."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.access = Access(region.database, region.clock, DOOR)
        self.passkey = Authenticator(PORTAL)
        self.browser = Client(region.client.application)
        self.csrf = ""

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.browser.get(f"/registrar{path}", base_url=PORTAL, **options)

    def script(self, path: str, document: Any, **headers: str) -> TestResponse:
        given = {"Origin": PORTAL, "X-CSRF-Token": self.csrf, **headers}
        return self.browser.post(f"/registrar{path}", base_url=PORTAL, json=document, headers=given)

    def post(self, path: str, origin: str = PORTAL, **form: Any) -> TestResponse:
        given = {"csrf": self.csrf, "reason": REASON, **form}
        return self.browser.post(f"/registrar{path}", base_url=PORTAL, data=given, headers={"Origin": origin})

    def register(self, code: str) -> TestResponse:
        options = self.script("/register/options", {"code": code})
        if options.status_code != 200:
            return options
        return self._in(self.script("/register", {"code": code, "response": self.passkey.create(options.json)}))

    def log_in(self) -> TestResponse:
        options = self.script("/login/options", {}).json
        return self._in(self.script("/login", {"response": self.passkey.get(options)}))

    def _in(self, answer: TestResponse) -> TestResponse:
        if answer.status_code == 200:
            self.csrf = re.search(r'data-csrf="([0-9a-f]{64})"', self.get("/").text)[1]  # type: ignore[index]
        return answer


@pytest.fixture
def maria(region: Region) -> Registrar:
    person = Registrar(region)
    assert person.register(person.access.make_code("test", "Maria Ionescu")).status_code == 200
    return person


def pair(region: Region, maria: Registrar) -> str:
    same_person(region)
    found = re.search(r'href="/registrar(/pair/\d+/\d+)"', maria.get("/").text)
    assert found
    return found[1]


def test_without_a_session_there_is_only_the_door(region: Region) -> None:
    person = Registrar(region)
    for path in ("/", "/pair/1/2", "/person/1", "/find", "/history", "/history/1"):
        answer = person.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/registrar/login"), path
    for path in ("/login", "/register", "/static/staff.css", "/static/staff.js", "/static/registrar.css"):
        assert person.get(path).status_code == 200
    for path in ("/pair/1/2", "/person/1", "/history/1", "/logout"):
        assert person.post(path).status_code == 403, path
    assert person.get("/static/app.py").status_code == 404


def test_a_code_is_for_one_person_and_one_passkey(region: Region) -> None:
    first, second = Registrar(region), Registrar(region)
    second.passkey.id = b"credential-0002!"
    void = first.access.make_code("test", "Maria Ionescu")
    mine, theirs = first.access.make_code("test", "Maria Ionescu"), first.access.make_code("test", "Ion Pop")
    assert first.register(void).json["error"] == "bad-code"  # type: ignore[index]
    assert first.register(mine).status_code == 200
    assert second.register(mine).json["error"] == "bad-code"  # type: ignore[index]
    assert second.register(theirs).status_code == 200
    assert [one.name for one in first.access.passkeys()] == ["Maria Ionescu", "Ion Pop"]
    assert "Ion Pop" in second.get("/").text
    region.clock.advance(20 * 60)
    assert first.get("/").status_code == 302
    assert first.log_in().status_code == 200
    assert first.access.remove(first.access.passkeys()[0].id, "test")
    assert first.get("/").status_code == 302


def test_a_patients_passkey_is_no_registrars(region: Region) -> None:
    assert Registrar(region).log_in().status_code == 400


def test_a_pair_is_seen_linked_and_undone(region: Region, maria: Registrar) -> None:
    path = pair(region, maria)
    page = maria.get(f"{path}?lang=en").text
    for text in ("Ştefănescu Ion", "ION STEFANESCU", "1963-06-05", "1963-05-06", "≠ differs", "= the same", "96"):
        assert text in page, text
    answer = maria.post(path, decision="link")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/registrar/history/1?kept=1")
    assert known_as(region, OWN) == {"iasi", "bacau"}
    assert "Maria Ionescu (passkey " in maria.get("/history/1").text
    # Once more is no second decision.
    assert maria.post(path, decision="link").status_code == 403
    assert "one person" in maria.get(path).text
    assert maria.post("/history/1").status_code == 303
    assert known_as(region, OWN) == {"iasi"}
    assert maria.post("/history/1").status_code == 403
    history = maria.get("/history").text
    assert history.count("<li>") == 2
    assert region.audit.verify().unbroken
    told = str(region.audit.tail(1000))
    assert "tef" not in told
    assert REASON not in told


def test_who_is_different_leaves_the_queue(region: Region, maria: Registrar) -> None:
    path = pair(region, maria)
    assert maria.post(path, decision="different").status_code == 303
    assert "/pair/" not in maria.get("/").text
    assert "different" in maria.get(f"{path}?lang=en").text or "two persons" in maria.get(path).text
    assert known_as(region, OWN) == {"iasi"}


def test_charts_of_one_person_are_parted_and_a_number_goes_along(region: Region, maria: Registrar) -> None:
    region.feed("iasi", study("1.1", OWN, ("RO-CNP", CNP)))
    region.feed("bacau", study("2.1", THEIRS, ("RO-CNP", CNP)))
    region.permit(*OWN)
    region.permit(*THEIRS)
    page = maria.get(f"/find?issuer=RO-CNP&value={CNP}").text
    chart = re.search(r"/registrar(/person/(\d+))", page)
    assert chart
    shown = maria.get(chart[1]).text
    assert f'name="takes" value="RO-CNP:{CNP}"' in shown
    assert maria.post(chart[1]).status_code == 400, "nothing ticked"
    assert maria.post(chart[1], chart=["1", "2"]).status_code == 403, "none would stay"
    assert maria.post(chart[1], chart="2", takes="BACAU:77").status_code == 400
    assert maria.post(chart[1], chart="2", takes=f"RO-CNP:{CNP}").status_code == 303
    assert known_as(region, OWN) == {"iasi"}
    assert known_as(region, ("RO-CNP", CNP)) == {"bacau"}
    assert known_as(region, THEIRS) == {"bacau"}


def test_crossed_copies_are_on_the_page(region: Region, maria: Registrar) -> None:
    path = pair(region, maria)
    maria.post(path, decision="link")
    access = {
        "sequence": 1, "at": int(region.clock().timestamp()), "patient": {"issuer": OWN[0], "value": OWN[1]},
        "recipient": "bacau", "role": "", "purpose": "TREAT", "study_instance_uid": "1.1", "consents": [],
    }  # fmt: skip
    region.post("iasi", "/v1/accesses", {"accesses": [access]})
    maria.post("/history/1")
    for page in ("/history/1", "/history/2"):
        assert "Call these hospitals" in maria.get(f"{page}?lang=en").text


@pytest.mark.parametrize(
    "form", [{"decision": "link", "reason": ""}, {"decision": "link", "reason": "x" * 501}, {"decision": "merge"}, {}]
)
def test_a_decision_needs_a_reason_and_a_choice(region: Region, maria: Registrar, form: dict[str, str]) -> None:
    path = pair(region, maria)
    assert maria.post(path, **form).status_code == 400
    assert known_as(region, OWN) == {"iasi"}


def test_another_site_decides_nothing(region: Region, maria: Registrar) -> None:
    path = pair(region, maria)
    assert maria.post(path, origin="https://evil.example", decision="link").status_code == 403
    assert maria.post(path, decision="link", csrf="0" * 64).status_code == 403
    (last,) = region.audit.tail(1)
    assert (last["outcome"], last["agent"]) == ("denied", "Maria Ionescu")
    assert known_as(region, OWN) == {"iasi"}


def test_what_hospitals_write_is_shown_as_text(region: Region, maria: Registrar) -> None:
    name = SCRIPT.replace("\\", "")
    region.feed("iasi", study("1.1", OWN, name=f"{name}^Ion"))
    region.feed("bacau", study("2.1", THEIRS, name=f"{name}^Ion"))
    find(region)
    for path in ("/", "/pair/1/2", "/person/1", "/find?issuer=BACAU&value=9", f"/find?issuer={name}&value={name}"):
        answer = maria.get(path)
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        for header, value in HEADERS.items():
            assert answer.headers[header] == value
        assert not re.search(r"<style|style=|\son\w+=|<script>", answer.text)
    assert maria.get("/pair/1/1").status_code == 400
    assert maria.get("/pair?one=1&other=2").headers["Location"] == "/registrar/pair/1/2"
    for query in ("", "?one=1", "?one=1&other=x", f"?one=1&other={'9' * 40}"):
        assert maria.get(f"/pair{query}").status_code == 400, query
    for path in ("/pair/1/99", f"/pair/1/{10**40}", f"/history/{10**40}", "/person/99", "/history/99", "/nothing"):
        assert maria.get(path).status_code == 404, path


def test_whose_chart_was_looked_at_is_written_down(region: Region, maria: Registrar) -> None:
    path = pair(region, maria)
    maria.get(path)
    maria.get("/find?issuer=BACAU&value=9")
    looked = [one for one in region.audit.tail(1000) if one["event"] == "lookup"]
    assert [(one["agent"], one["patient"]) for one in looked] == [
        ("Maria Ionescu", "SF-SPIRIDON:7"), ("Maria Ionescu", "BACAU:9"), ("Maria Ionescu", "BACAU:9"),
    ]  # fmt: skip
