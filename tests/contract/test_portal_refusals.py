"""What the portal does not do: for other sites, for garbled answers, for whoever tries too often; and what it says."""

import re

import pytest
from fido2 import cbor

from contract.hub_region import CNP, Region, study
from contract.portal_patients import Patient
from usmed.domain.enrolment import Basis, Credential, Enrolment, Guardian, enrol
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub import enrolments
from usmed.hub.portal.app import HEADERS
from usmed.hub.portal.limits import MOST_FAILURES
from usmed.hub.review import Review

ANA = ("RO-CNP", CNP)
SCRIPT = "<script>alert(1)</script>\"'&amp;"


@pytest.fixture
def ana(region: Region) -> Patient:
    region.feed("iasi", study("1.2.3", ANA))
    return Patient(region, ANA).enrolled()


# ---- Log-in ----


def test_an_answer_is_in_the_persons_language(ana: Patient) -> None:
    answer = ana.post("/login", {"response": None}, **{"Accept-Language": "en"})
    assert answer.json["message"] == "We could not recognise your passkey. Nothing has changed. Try again."  # type: ignore[index]


def test_who_was_enrolled_by_a_guardian_is_out_when_that_ends(region: Region) -> None:
    until = region.clock().replace(year=2027)
    child = Patient(region, ANA)
    child.answered(guardian={"basis": "parent", "until": int(until.timestamp())})
    child.confirmed(guardian=Guardian(Basis.PARENT, until))
    assert "Acționați pentru altcineva, până la 21 noiembrie 2027" in child.read("/")
    region.clock.now = until
    assert child.get("/").headers["Location"] == "/portal/login"
    assert child.log_in().json["error"] == "passkey-over"  # type: ignore[index]


def test_a_passkey_that_would_be_two_people_is_nobodys(ana: Patient) -> None:
    # The hub takes no passkey twice on the portal, but a hospital can enrol what it likes.
    twin = Patient(ana.region, ("SUCEAVA", "9"))
    twin.phone = ana.phone
    twin.get(f"/enrol/{twin.invited('suceava')}")
    twin.tell_birth_date()
    assert twin.make_passkey().json["error"] == "passkey-taken"  # type: ignore[index]
    with ana.region.database.read() as connection:
        (held,) = enrolments.of_credential(connection, ana.phone.id)
    (credential,) = held.enrolment.credentials
    other = Patient(ana.region, ("RO-CNP", "2630615123453"))
    other.bring("suceava", credentials=[credential])
    assert ana.get("/").headers["Location"] == "/portal/login"
    assert ana.log_in().json["error"] == "passkey-over"  # type: ignore[index]


@pytest.mark.parametrize("key", [b"no key", cbor.encode({1: 2, 3: -9999}), cbor.encode({1: 2, 3: -7})])
def test_a_bad_key_under_the_id_of_a_passkey_shuts_nobody_out(ana: Patient, key: bytes) -> None:
    bad = Credential(ana.phone.id, key)
    numbers, now = [PatientIdentifier("SUCEAVA", "9")], ana.region.clock()
    token = enrol(ana.region.keys["suceava"], hospital="suceava", patient=numbers, credentials=[bad], now=now)
    body = {"records": [], "enrolments": [{"hospital": "suceava", "token": token}]}
    (problem,) = ana.region.post("suceava", "/v1/consents/records", body)["problems"]
    assert "public key" in problem
    # Not even one that was taken in.
    said = Enrolment("suceava", frozenset(numbers), (bad,), now)
    with ana.region.database.write() as connection:
        assert enrolments.save(connection, said, token)
    ana.submit("/logout")
    assert ana.log_in().status_code == 200


def test_who_fails_too_often_waits(ana: Patient) -> None:
    other = Patient(ana.region, ANA, address="203.0.113.50")
    for _ in range(MOST_FAILURES):
        assert other.post("/login", {"response": {}}).status_code == 400
    answer = other.post("/login", {"response": {}})
    assert (answer.status_code, answer.json["error"]) == (429, "too-many")  # type: ignore[index]
    assert other.get(f"/enrol/{'A' * 32}").status_code == 429
    # Others are not kept out by it, and it passes.
    ana.submit("/logout")
    assert ana.log_in().status_code == 200
    ana.region.clock.advance(10 * 60)
    assert other.post("/login/options", {}).status_code == 200


def test_strangers_behind_the_same_address_keep_nobody_from_taking_back(ana: Patient) -> None:
    consent = ana.permit(recipients="suceava")
    stranger = Patient(ana.region, ANA)
    for _ in range(MOST_FAILURES):
        assert stranger.get(f"/enrol/{'A' * 32}").status_code == 403
    assert stranger.get(f"/enrol/{'A' * 32}").status_code == 429
    assert ana.withdraw(consent).status_code == 200


def test_what_is_refused_again_and_again_fills_no_disk(ana: Patient) -> None:
    stranger = Patient(ana.region, ANA, address="203.0.113.51")

    def written() -> int:
        return sum(one["event"] == "refused" for one in ana.region.audit.tail(10_000))

    # A page of the invitation without one, and one that another site shows as a picture: nobody has tried anything.
    for _ in range(30):
        assert stranger.get("/enrol").status_code == 404
        assert stranger.get(f"/enrol/{'A' * 32}", headers={"Sec-Fetch-Dest": "image"}).status_code == 404
    assert written() == 0
    for _ in range(MOST_FAILURES + 30):
        stranger.get(f"/enrol/{'A' * 32}")
    # Each failure, which the index of invitations writes down as well; and once that there were too many.
    assert written() <= 2 * MOST_FAILURES + 1


# ---- Other sites, other sessions ----


def test_what_is_in_the_database_lets_nobody_in(ana: Patient) -> None:
    token = ana.browser.get_cookie("__Host-usmed-portal", domain=ana.region.manifest.portal.removeprefix("https://"))
    assert token is not None
    with ana.region.database.read() as connection:
        held = [str(row) for row in connection.exec_driver_sql("SELECT * FROM portal_session").all()]
    assert len(held) == 1
    assert token.value not in held[0]


# ---- What is sent ----


def test_what_was_chosen_stays_when_something_is_missing(ana: Patient) -> None:
    answer = ana.choose(who="some", recipients=[], sources=["iasi"], where="some", term="date", until="2026-11-20")
    assert answer.status_code == 400
    kept = ("Alegeți cel puțin un spital", "Această zi a trecut deja", '"2026-11-20"', '<details class="card" open>')
    for said in kept:
        assert said in answer.text, said
    assert re.search(r'name="sources" value="iasi" checked', answer.text)


def test_nothing_that_was_sent_is_markup(ana: Patient) -> None:
    region, id = ana.region, "11111111-1111-4111-8111-111111111111"
    body = {"id": id, "identifier": {"issuer": "RO-CNP", "value": CNP}, "purpose": "TREAT",
            "department": SCRIPT, "role": SCRIPT[:32]}  # fmt: skip
    region.post("bacau", "/v1/requests", body)
    access = {"sequence": 1, "at": int(region.clock().timestamp()), "patient": {"issuer": "RO-CNP", "value": CNP},
              "recipient": "bacau", "role": SCRIPT, "purpose": "TREAT", "study_instance_uid": "1.2.3",
              "consents": [SCRIPT]}  # fmt: skip
    region.post("iasi", "/v1/accesses", {"accesses": [access]})
    pages = [ana.read(path) for path in ("/", f"/requests/{id}", "/access", "/consents/new?kind=deny")]
    pages.append(ana.choose(until=SCRIPT, term="date", study_from=SCRIPT, kind="deny", recipients=SCRIPT).text)
    pages.append(ana.get(f"/consents/{SCRIPT}").text)
    pages.append(ana.get(f"/access?before={SCRIPT}&lang={SCRIPT}").text)
    pages.append(ana.submit("/consents/new", kind=SCRIPT).text)
    fresh = Patient(region, ("SUCEAVA", "9"), name="another-passkey!")
    fresh.get(f"/enrol/{fresh.invited('suceava')}")
    pages.append(fresh.tell_birth_date("<script>alert", "2", "3").text)
    assert "&lt;script&gt;" in pages[0]
    for page in pages:
        assert "<script>alert" not in page


@pytest.mark.parametrize("language", ["ro", "en"])
def test_every_page_forbids_what_is_not_its_own(ana: Patient, language: str) -> None:
    consent = ana.permit(recipients="bacau")
    draft = ana.choose(recipients="suceava").headers["Location"].removeprefix("/portal")
    paths = ("/", "/consents", f"/consents/{consent}", "/consents/new", "/consents/new?kind=permit", draft, "/access",
             "/studies", "/help", "/nowhere", "/static/portal.js", "/worker.js")  # fmt: skip
    for path in paths:
        answer = ana.get(path, headers={"Accept-Language": language})
        policy = answer.headers["Content-Security-Policy"]
        assert policy == HEADERS["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        if path.startswith("/static"):
            continue
        assert answer.headers["Cache-Control"] == "no-store"
        if path == "/worker.js":
            continue
        assert f'<html lang="{language}">' in answer.text
        assert not re.search(r"<style|style=|\son\w+=|<script>", answer.text)
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', answer.text)
        assert answer.text.count("<h1") == 1, path
        for field in re.findall(r"<input (?!type=\"hidden\")[^>]*>", answer.text):
            assert re.search(re.escape(field) + r".*?</label>", answer.text, re.S), field


def test_the_first_page_is_light(ana: Patient) -> None:
    weight = sum(
        len(ana.get(path).data)
        for path in ("/", "/static/portal.css", "/static/portal.js", "/static/icon.svg", "/app.webmanifest")
    )
    assert weight < 150_000


def test_a_language_is_remembered(ana: Patient) -> None:
    assert '<html lang="ro">' in ana.get("/").text
    assert '<html lang="en">' in ana.get("/?lang=en").text
    assert '<html lang="en">' in ana.get("/consents").text
    assert '<html lang="en">' in ana.get("/consents?lang=xx").text
    assert '<html lang="ro">' in ana.get("/consents?lang=ro").text


# ---- One person, not two ----

OTHER = ("RO-CNP", "2630615123459")
LOCAL = ("SF-SPIRIDON", "77")


def test_one_study_under_a_wrong_number_shows_nothing_of_another_patient(region: Region) -> None:
    ana = Patient(region, ANA, LOCAL).enrolled()
    region.feed("iasi", study("1.2.8", OTHER, LOCAL, sex="F", modality="MR", study_date="20250310"))
    region.feed("bacau", study("1.2.9", OTHER, ("BACAU", "9"), sex="F", modality="US", study_date="20240310"))
    body = {"id": "11111111-1111-4111-8111-111111111111", "purpose": "TREAT", "department": "Radiologie",
            "identifier": {"issuer": OTHER[0], "value": OTHER[1]}, "role": "medic"}  # fmt: skip
    region.post("bacau", "/v1/requests", body)
    consent = region.permit(*OTHER)
    for path in ("/", "/studies", "/consents", "/access"):
        page = ana.read(path)
        for theirs in ("10 martie 2025", "10 martie 2024", consent, "11111111-1111"):
            assert theirs not in page, (path, theirs)
    assert ana.get("/requests/11111111-1111-4111-8111-111111111111").status_code == 404
    noted = [one for one in region.audit.tail(1000) if "left out" in one["detail"].get("what", "")]
    assert len(noted) == 1
    assert noted[0]["detail"]["charts"] == "2"


def test_a_chart_of_another_birth_date_is_left_out(region: Region) -> None:
    ana = Patient(region, ANA, LOCAL).enrolled()
    region.feed("iasi", study("1.2.8", LOCAL, birth_date="19900101", study_date="20250310"))
    assert "10 martie 2025" not in ana.read("/studies")


def test_who_signs_for_several_people_sees_for_whom(region: Region) -> None:
    until = region.clock().replace(year=2027)
    child = Patient(region, ANA)
    child.get(f"/enrol/{child.invited(guardian={'basis': 'parent', 'until': int(until.timestamp())})}")
    child.tell_birth_date()
    user = child.post("/enrol/passkey/options", {}).json["publicKey"]["user"]  # type: ignore[index]
    mark = f"pentru un copil, născut 15.06.1963, număr …{CNP[-4:]}"
    assert user["name"].startswith(mark)
    assert user["displayName"].startswith(mark)
    child.make_passkey()
    child.confirmed(guardian=Guardian(Basis.PARENT, until))
    own = Patient(region, LOCAL, name="another-passkey!").enrolled()
    region.feed("iasi", study("1.2.3", ANA))
    for person, said in ((child, mark), (own, "număr …77")):
        draft = person.choose(who="all").headers["Location"].removeprefix("/portal")
        assert said in person.read("/")
        assert f"<b>{said}</b></span></p>" in person.read(draft)
    # Nobody learns part of a number who has not told the birth date.
    other = Patient(region, ("SUCEAVA", "12345678"), name="third-passkey!!!")
    code = other.invited("suceava")
    host = region.manifest.portal.removeprefix("https://")
    other.browser.set_cookie("__Host-usmed-invitation", f"{code}.19630616", domain=host)
    refused = other.post("/enrol/passkey/options", {})
    assert (refused.status_code, "5678" in refused.text) == (403, False)


def test_what_a_registrar_has_joined_shows_nothing_of_another_patient(region: Region) -> None:
    ana = Patient(region, ANA, LOCAL).enrolled()
    region.feed("iasi", study("1.2.8", LOCAL, study_date="20250310"))
    region.feed("bacau", study("1.2.9", ("BACAU", "9"), birth_date="", study_date="20240310"))
    review = Review(region.database, lambda: region.manifest, region.clock)
    one, other = (
        review.named(PatientIdentifier(*number))[0].chart.id for number in (LOCAL, ("BACAU", "9"))
    )
    review.link(one, other, by="Maria Ionescu", reason="the wrong card")
    page = ana.read("/studies")
    assert "10 martie 2025" in page
    assert "10 martie 2024" not in page
