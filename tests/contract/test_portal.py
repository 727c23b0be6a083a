"""The portal over HTTP: a patient enrols, sees, permits, forbids and takes back; nobody else does."""

import json
import re

import pytest

from contract.hub_region import CNP, PORTAL, Region, study
from contract.portal_patients import Patient
from usmed.domain.enrolment import comparison_code
from usmed.hub import consents

HOST = PORTAL.removeprefix("https://")
ANA, LOCAL = ("RO-CNP", CNP), ("SF-SPIRIDON", "77")


@pytest.fixture
def ana(region: Region) -> Patient:
    region.feed("iasi", study("1.2.3", ANA, LOCAL), study("1.2.4", LOCAL, ANA, modality="MR", study_date="20250310"))
    region.feed("bacau", study("1.2.5", ANA, ("BACAU", "5"), modality="US"))
    return Patient(region, ANA, LOCAL).enrolled()


def events(region: Region, kind: str) -> list[dict[str, object]]:
    return [one for one in region.audit.tail(1000) if one["event"] == kind]


# ---- Enrolment ----


def test_a_patient_enrols(region: Region) -> None:
    ana = Patient(region, ANA, LOCAL)
    code = ana.invited()
    assert ana.get(f"/enrol/{code}").headers["Location"] == "/portal/enrol"
    assert "Iasi" in ana.read("/enrol")
    assert ana.tell_birth_date("15", "iunie", "1963").headers["Location"] == "/portal/enrol/passkey"
    ana.read("/enrol/passkey")
    assert ana.make_passkey().json == {"next": "/portal/enrol/waiting"}
    # Until the clerk has confirmed there is only the number to compare.
    page = ana.read("/enrol/waiting")
    for part in comparison_code(ana.credential()).split():
        assert f"<span>{part}</span>" in page
    for path in ("/", "/consents", "/access", "/studies", "/consents/new"):
        assert ana.get(path).headers["Location"] == "/portal/enrol/waiting"
    ana.confirmed()
    assert ana.get("/enrol/waiting").headers["Location"] == "/portal/enrol/done"
    assert "Gata" in ana.read("/enrol/done")
    assert "Ce am hotărât" in ana.read("/")
    # The code is used up, and stood in no audit record.
    assert ana.get(f"/enrol/{code}").status_code == 403
    assert code not in json.dumps(region.audit.tail(1000))


def test_a_wrong_birth_date_is_asked_again_and_what_was_typed_stays(region: Region) -> None:
    ana = Patient(region, ANA)
    ana.get(f"/enrol/{ana.invited()}")
    unclear = ana.tell_birth_date("15", "", "63")
    assert unclear.status_code == 400
    assert 'value="63"' in unclear.text
    for left in (4, 3, 2, 1):
        wrong = ana.tell_birth_date("16", "06", "1963")
        assert (wrong.status_code, f"de {left} ori" in wrong.text) == (403, True)
        assert 'value="16"' in wrong.text
        assert ana.get("/enrol/passkey").headers["Location"] == "/portal/enrol/birth-date"
    assert "Cereți la ghișeu un cod nou" in ana.tell_birth_date("16", "06", "1963").text
    assert ana.tell_birth_date().status_code == 403


def test_without_the_birth_date_no_passkey_is_taken(region: Region) -> None:
    ana = Patient(region, ANA)
    ana.get(f"/enrol/{ana.invited()}")
    assert ana.make_passkey().json["error"] == "birth-date-first"
    made = ana.phone.create({"publicKey": {"rp": {"id": "portal"}, "challenge": "AAAA"}})
    assert ana.post("/enrol/passkey", {"response": made}).status_code == 403
    # Nor with one that somebody wrote into the cookie.
    code = ana.invited()
    ana.browser.set_cookie("__Host-usmed-invitation", f"{code}.19630616", domain=HOST)
    assert ana.make_passkey().status_code == 403


def test_a_code_that_is_not_good_says_what_to_do(region: Region) -> None:
    ana = Patient(region, ANA)
    for code in ("x", "A" * 32, "%00", "ș" * 30):
        answer = ana.get(f"/enrol/{code}")
        assert (answer.status_code, "Cereți la ghișeu unul nou" in answer.text) == (403, True), code


def test_a_phone_that_was_not_told_goes_on_by_logging_in(region: Region) -> None:
    ana = Patient(region, ANA).answered()
    credential = ana.credential()
    # The answer that the passkey was taken got lost: there is no session, and the code is used up.
    ana.browser.delete_cookie("__Host-usmed-portal", domain=HOST)
    assert ana.get("/enrol/waiting").headers["Location"] == "/portal/login"
    assert ana.log_in().json == {"next": "/portal/enrol/waiting"}
    page = ana.read("/enrol/waiting")
    for part in comparison_code(credential).split():
        assert f"<span>{part}</span>" in page
    assert ana.get("/consents").headers["Location"] == "/portal/enrol/waiting"
    ana.confirmed()
    assert ana.get("/enrol/waiting").headers["Location"] == "/portal/enrol/done"


def test_an_invitation_that_is_over_lets_no_passkey_in(region: Region) -> None:
    ana = Patient(region, ANA).answered()
    region.post("iasi", "/v1/enrolments/cancel", {"id": ana.invitation})
    assert ana.log_in().json["error"] == "passkey-unknown"


def test_the_clerk_ends_it(region: Region) -> None:
    ana = Patient(region, ANA).answered()
    region.post("iasi", "/v1/enrolments/cancel", {"id": ana.invitation})
    assert "Cereți la ghișeu un cod nou" in ana.read("/enrol/waiting")


# ---- In and out ----


def test_without_a_session_there_is_only_the_door(region: Region) -> None:
    someone = Patient(region, ANA)
    for path in ("/", "/consents", "/consents/new", "/consents/x", "/requests/x", "/sign/x", "/access", "/studies"):
        answer = someone.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/portal/login"), path
    for path in ("/login", "/help", "/static/portal.css", "/static/portal.js", "/worker.js", "/app.webmanifest"):
        assert someone.get(path).status_code == 200, path
    for path in ("/logout", "/consents/new", "/consents/x/withdraw", "/sign/x", "/sign/x/options", "/requests/x/yes"):
        assert someone.post(path, {}).status_code == 403, path
    assert someone.get("/static/../app.py").status_code == 404
    assert someone.browser.get("/", base_url=PORTAL).headers["Location"] == "/portal/"
    assert someone.browser.get("/portal", base_url=PORTAL).headers["Location"] == "/portal/"


def test_in_and_out(ana: Patient) -> None:
    ana.submit("/logout")
    assert ana.get("/").status_code == 302
    answer = ana.log_in()
    assert answer.json == {"next": "/portal/"}
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-usmed-portal=")
    assert {one.strip() for one in cookie.split(";")[1:]} >= {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"}
    out = ana.submit("/logout")
    assert out.headers["Clear-Site-Data"] == '"cache", "storage"'
    assert ana.get("/").status_code == 302


def test_a_session_ends_when_nobody_does_anything(ana: Patient) -> None:
    for _ in range(4):
        ana.region.clock.advance(15 * 60)
        assert ana.get("/").status_code == 200
    # A page that looks by itself whether something has changed is nobody.
    for _ in range(4):
        ana.region.clock.advance(299)
        assert ana.get("/", headers={"X-Poll": "1"}).status_code == 200
    ana.region.clock.advance(299)
    assert ana.get("/").status_code == 302


def test_a_session_ends_after_eight_hours(ana: Patient) -> None:
    for _ in range(31):
        ana.region.clock.advance(15 * 60)
        assert ana.get("/").status_code == 200
    ana.region.clock.advance(15 * 60)
    assert ana.get("/").status_code == 302


def test_a_new_log_in_makes_a_new_session(ana: Patient) -> None:
    def token() -> str:
        cookie = ana.browser.get_cookie("__Host-usmed-portal", domain=HOST)
        assert cookie is not None
        return cookie.value

    before = token()
    assert ana.log_in().status_code == 200
    assert token() != before
    # The earlier one is over.
    ana.browser.set_cookie("__Host-usmed-portal", before, domain=HOST)
    assert ana.get("/").status_code == 302


def test_a_lost_phone_is_out_at_once(ana: Patient) -> None:
    ana.bring("iasi", revoked=[ana.phone.id])
    assert ana.get("/").headers["Location"] == "/portal/login"
    answer = ana.log_in()
    assert (answer.status_code, answer.json["error"]) == (403, "passkey-over")


# ---- What one sees ----


def test_studies_are_those_of_the_person(ana: Patient) -> None:
    page = ana.read("/studies")
    for said in ("Tomografie", "Rezonanță magnetică", "Ecografie", "2 ianuarie 2026", "10 martie 2025", "Bacau"):
        assert said in page
    other = Patient(ana.region, ("SUCEAVA", "9"), name="another-passkey!").enrolled("suceava")
    assert "nicio investigație" in other.read("/studies")


def test_a_permission_is_given_shown_and_taken_back(ana: Patient) -> None:
    region = ana.region
    assert region.resolve("bacau", *ANA)["holders"] == []
    consent = ana.permit(recipients="bacau")
    assert region.resolve("bacau", *ANA)["holders"] == [{"hospital": "iasi", "studies": 2}]
    with region.database.read() as connection:
        held = consents.current(connection, consent)
    assert held is not None
    assert held.patient.issuer == "RO-CNP"
    for path in ("/", "/consents", f"/consents/{consent}"):
        assert "Bacau poate vedea imaginile mele medicale" in ana.read(path)
    assert "sfârșitul zilei de 21 noiembrie 2027" in ana.read(f"/consents/{consent}")
    signed = ana.withdraw(consent)
    assert signed.json == {"next": f"/portal/consents/{consent}"}
    assert region.resolve("bacau", *ANA)["holders"] == []
    page = ana.read(f"/consents/{consent}")
    assert "Retragerea acordului" in page
    assert "Se retrage: <s>Bacau poate vedea" in page
    assert "0 din 1 servere de chei știu" in page
    assert region.audit.verify().unbroken


def test_what_is_signed_is_what_was_shown(ana: Patient) -> None:
    where = ana.choose(recipients="bacau").headers["Location"].removeprefix("/portal")
    page = ana.read(where)
    assert "Bacau poate vedea imaginile mele medicale" in page
    shown = json.loads(re.search(r"<pre[^>]*>(.*?)</pre>", page, re.S)[1].replace("&#34;", '"'))  # type: ignore[index]
    assert ana.sign(where).status_code == 200
    with ana.region.database.read() as connection:
        held = consents.current(connection, shown["id"])
    assert held is not None
    assert held.resource == shown["resource"]
    # A second time there is nothing to sign.
    again = ana.sign(where)
    assert (again.status_code, again.json["error"]) == (404, "draft-over")


def test_what_contradicts_is_said_before_the_signature(ana: Patient) -> None:
    denial = ana.permit(kind="deny", recipients="bacau", term="none")
    where = ana.choose(recipients="bacau").headers["Location"].removeprefix("/portal")
    page = ana.read(where)
    assert "o interdicție mai veche rămâne mai tare" in page
    assert f"/portal/consents/{denial}" in page
    assert ana.sign(where).status_code == 200
    assert "limitat de o interdicție" in ana.read("/")
    assert ana.region.resolve("bacau", *ANA)["holders"] == []


# ---- What a hospital asks ----


def asked(region: Region, hospital: str = "bacau", number: tuple[str, str] = ANA, **changes: str) -> str:
    id = changes.pop("id", "11111111-1111-4111-8111-111111111111")
    body = {
        "id": id, "identifier": {"issuer": number[0], "value": number[1]}, "purpose": "TREAT",
        "department": "Radiologie", "role": "medic", **changes,
    }  # fmt: skip
    assert region.post(hospital, "/v1/requests", body) == {"state": "open"}
    return id


def test_a_request_is_answered_with_yes(ana: Patient) -> None:
    id = asked(ana.region)
    assert "Bacau vrea să vă vadă imaginile" in ana.read("/")
    assert "Radiologie" in ana.read(f"/requests/{id}")
    chosen = ana.submit(f"/requests/{id}/yes", term="year")
    assert ana.sign(chosen.headers["Location"]).status_code == 200
    assert ana.region.resolve("bacau", *ANA)["holders"] == [{"hospital": "iasi", "studies": 2}]
    assert ana.region.post("bacau", "/v1/requests/state", {"ids": [id]}) == {"states": {id: "answered"}}
    assert "vrea să vă vadă" not in ana.read("/")


def test_a_request_is_answered_with_no(ana: Patient) -> None:
    id = asked(ana.region)
    ana.read(f"/requests/{id}/no")
    assert ana.submit(f"/requests/{id}/no", deny="no").headers["Location"] == "/portal/"
    assert ana.region.post("bacau", "/v1/requests/state", {"ids": [id]}) == {"states": {id: "answered"}}
    assert ana.get(f"/requests/{id}").status_code == 404
    id = asked(ana.region, id="22222222-2222-4222-8222-222222222222")
    chosen = ana.submit(f"/requests/{id}/no", deny="yes")
    assert ana.sign(chosen.headers["Location"]).status_code == 200
    assert "Bacau nu poate vedea imaginile mele medicale" in ana.read("/")


def test_a_patient_reads_that_emergency_access_was_opened_though_nothing_was_given(ana: Patient) -> None:
    opened = {
        "sequence": 7, "at": int(ana.region.clock().timestamp()), "patient": {"issuer": "RO-CNP", "value": CNP},
        "recipient": "suceava", "role": "", "purpose": "ETREAT", "study_instance_uid": "", "consents": [],
    }  # fmt: skip
    assert ana.region.post("suceava", "/v1/accesses", {"accesses": [opened]}) == {"taken": 1, "problems": []}
    for path in ("/", "/access"):
        page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", ana.read(path)))
        assert "Suceava a deschis accesul de urgență la imaginile dumneavoastră" in page
        assert "a primit:" not in page


# ---- Others ----


@pytest.fixture
def ion(ana: Patient) -> Patient:
    return Patient(ana.region, ("SUCEAVA", "9"), name="another-passkey!", address="203.0.113.9").enrolled("suceava")


def test_nobody_sees_or_does_what_is_anothers(ana: Patient, ion: Patient) -> None:
    consent, request = ana.permit(recipients="bacau"), asked(ana.region)
    draft = ana.choose(recipients="suceava").headers["Location"].removeprefix("/portal")
    unknown = "00000000-0000-4000-8000-000000000000"
    for theirs, none in (
        (f"/consents/{consent}", f"/consents/{unknown}"),
        (f"/requests/{request}", f"/requests/{unknown}"),
        (f"/requests/{request}/no", f"/requests/{unknown}/no"),
        (draft, f"/sign/{unknown}"),
    ):
        one, other = ion.get(theirs), ion.get(none)
        assert one.status_code == other.status_code == 404, theirs
        assert one.text == other.text
    for path, body in ((f"{draft}/options", {}), (draft, {"response": {}})):
        assert ion.post(path, body).status_code == 404
    for path in (f"/consents/{consent}/withdraw", f"/requests/{request}/yes", f"/requests/{request}/no"):
        assert ion.submit(path).status_code == 404
    for path in ("/", "/consents", "/access"):
        page = ion.read(path)
        assert consent not in page
        assert "Bacau" not in page
    assert ana.get(f"/consents/{consent}").status_code == 200
    assert ana.get(draft).status_code == 200


def test_anothers_passkey_signs_nothing(ana: Patient, ion: Patient) -> None:
    draft = ana.choose(recipients="bacau").headers["Location"]
    mine, ana.phone = ana.phone, ion.phone
    refused = ana.sign(draft)
    assert (refused.status_code, refused.json["error"]) == (400, "sign-failed")
    ana.phone = mine
    ana.phone.flags = 0x01
    assert ana.sign(draft).status_code == 400
    ana.phone.flags = 0x05
    assert ana.sign(draft, origin=f"{PORTAL}.evil").status_code == 400
    assert ana.sign(draft, type="webauthn.create").status_code == 400
    # Nothing that was chosen is lost.
    assert ana.sign(draft).status_code == 200
    assert events(ana.region, "refused")[-1]["outcome"] == "denied"


def test_a_consent_on_paper_is_shown_as_one(ana: Patient) -> None:
    signed, on_paper = ana.permit(recipients="suceava"), ana.region.permit(*ANA)
    assert ana.read("/consents").count("pe hârtie") == 1
    page = ana.read(f"/consents/{on_paper}")
    assert "Dată pe hârtie și înregistrată de Iasi" in page
    assert "1 noiembrie 2027" in page
    assert "pe hârtie" not in ana.read(f"/consents/{signed}")
