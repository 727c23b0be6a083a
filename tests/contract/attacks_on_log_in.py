"""Attacks on the way in: passkeys, sessions, forms of other sites."""

import json
from typing import Any

from werkzeug.test import TestResponse

from contract.attack_region import INVITATION, SESSION, Scene, code, cookie_of, path_of
from contract.attack_table import attack
from contract.portal_patients import Patient
from simulators.authenticator import Authenticator
from usmed.domain.canonical import base64url
from usmed.hub.portal.limits import MOST_FAILURES

PHISHER, THIEF, SITE, GUESSER = "a phishing site", "a thief", "another site", "a guesser"
DEEP = base64url(b"[" * 20_000)
CHOICE = {"kind": "permit", "who": "all", "where": "all", "what": "all", "term": "year"}


def out(scene: Scene) -> Patient:
    """Return a patient who is enrolled, and out."""
    patient = scene.patient()
    patient.submit("/logout")
    return patient


# ---- passkeys ----


@attack(PHISHER, "has a passkey answer on its own name", 400, "login-failed", "Invalid origin")
def phishing_origin(scene: Scene) -> TestResponse:
    return out(scene).log_in(origin="https://portal.evil.example")


@attack(PHISHER, "uses the portal's name at another port", 400, "login-failed", "Invalid origin")
def phishing_port(scene: Scene) -> TestResponse:
    return out(scene).log_in(origin=f"{scene.origin}:8443")


@attack(PHISHER, "shows the log-in in a frame", 400, "login-failed", "frame of another site")
def framed_log_in(scene: Scene) -> TestResponse:
    return out(scene).log_in(crossOrigin=True)


@attack(PHISHER, "has a consent signed in a frame", 400, "sign-failed", "frame of another site")
def framed_signature(scene: Scene) -> TestResponse:
    patient = scene.patient()
    return patient.sign(path_of(patient.choose(who="all")), crossOrigin=True)


@attack(PHISHER, "has its own name in the authenticator's answer (rpId)", 400, "login-failed", "RP ID hash")
def other_party(scene: Scene) -> TestResponse:
    patient = out(scene)
    options = patient.post("/login/options", {}).json
    options["publicKey"]["rpId"] = "evil.example"  # type: ignore[index]
    return patient.post("/login", {"response": patient.phone.get(options)})


@attack(PHISHER, "makes a new passkey for its own name", 400, "passkey-failed", "RP ID hash")
def other_party_at_enrolment(scene: Scene) -> TestResponse:
    patient = scene.person()
    patient.get(f"/enrol/{patient.invited()}")
    patient.tell_birth_date()
    options = patient.post("/enrol/passkey/options", {}).json
    options["publicKey"]["rp"]["id"] = "evil.example"  # type: ignore[index]
    return patient.post("/enrol/passkey", {"response": patient.phone.create(options)})


@attack(THIEF, "has the phone unlocked, but neither finger nor PIN", 400, "login-failed", "user verified flag not set")
def no_user_verification(scene: Scene) -> TestResponse:
    patient = out(scene)
    patient.phone.flags = 0x01
    return patient.log_in()


@attack(THIEF, "lets a program use the passkey with nobody there", 400, "login-failed", "User Present flag not set")
def no_user_presence(scene: Scene) -> TestResponse:
    patient = out(scene)
    patient.phone.flags = 0x04
    return patient.log_in()


@attack(THIEF, "signs by another key under the passkey's id", 400, "login-failed", "Invalid signature")
def swapped_key(scene: Scene) -> TestResponse:
    patient = out(scene)
    patient.phone = Authenticator(scene.origin, patient.phone.id)
    return patient.log_in()


@attack(THIEF, "logs in by a passkey that no hospital has enrolled", 403, "passkey-unknown", "passkey-unknown")
def unknown_passkey(scene: Scene) -> TestResponse:
    return scene.person().log_in()


@attack(THIEF, "sends a log-in again that was heard on the way", 400, "login-failed", "answered before")
def replayed_log_in(scene: Scene) -> TestResponse:
    patient = out(scene)
    response = {"response": patient.phone.get(patient.post("/login/options", {}).json)}
    assert patient.post("/login", response).status_code == 200
    return patient.post("/login", response)


@attack(THIEF, "keeps an answer for later", 400, "login-failed", "took too long")
def late_log_in(scene: Scene) -> TestResponse:
    patient = out(scene)
    options = patient.post("/login/options", {}).json
    scene.region.clock.advance(3 * 60)
    return patient.post("/login", {"response": patient.phone.get(options)})


@attack(THIEF, "has a challenge of its own signed", 400, "login-failed", "another question")
def own_challenge(scene: Scene) -> TestResponse:
    patient = out(scene)
    given = {"publicKey": {"challenge": "A" * 75, "rpId": scene.host}}
    return patient.post("/login", {"response": patient.phone.get(given)})


@attack(THIEF, "answers a log-in by the challenge of an enrolment", 400, "login-failed", "another question")
def other_ceremony(scene: Scene) -> TestResponse:
    patient, fresh = out(scene), scene.person()
    fresh.get(f"/enrol/{fresh.invited()}")
    fresh.tell_birth_date()
    challenge = fresh.post("/enrol/passkey/options", {}).json["publicKey"]["challenge"]  # type: ignore[index]
    return patient.post(
        "/login", {"response": patient.phone.get({"publicKey": {"challenge": challenge, "rpId": scene.host}})}
    )


@attack(THIEF, "passes the making of a passkey off as a log-in", 400, "login-failed", "Incorrect type")
def other_type(scene: Scene) -> TestResponse:
    return out(scene).log_in(type="webauthn.create")


@attack(THIEF, "logs in by a copy of the passkey, whose counter lags behind", 400, "passkey-copied", "counter says")
def counter_back(scene: Scene) -> TestResponse:
    patient = out(scene)
    patient.phone.counter = 40
    assert patient.log_in().status_code == 200
    patient.submit("/logout")
    patient.phone.counter = 7
    return patient.log_in()


@attack(THIEF, "signs by a copy of the passkey that has no counter", 400, "passkey-copied", "counter says 0")
def counter_gone(scene: Scene) -> TestResponse:
    patient = out(scene)
    assert patient.log_in().status_code == 200
    draft = path_of(patient.choose(who="all"))
    patient.phone.counter = -1
    return patient.sign(draft)


@attack("another patient", "signs by an own passkey what somebody is asked to sign", 400, "sign-failed", "Unknown cred")
def anothers_passkey(scene: Scene) -> TestResponse:
    patient, other = scene.patient(), scene.patient()
    draft = path_of(patient.choose(who="all"))
    patient.phone = other.phone
    return patient.sign(draft)


# ---- sessions ----


@attack(THIEF, "has the session's cookie and signs by an own passkey", 400, "sign-failed", "Unknown credential")
def stolen_session(scene: Scene) -> TestResponse:
    patient = scene.patient()
    thief = scene.thief_of(cookie_of(patient))
    thief.csrf = patient.csrf
    return thief.sign(path_of(thief.choose(who="all")))


@attack(THIEF, "has the cookie, and not the token of the forms", 403, "form-of-another-session", "form-of-another")
def stolen_cookie_alone(scene: Scene) -> TestResponse:
    thief = scene.thief_of(cookie_of(scene.patient()))
    return thief.post("/sign/x/options", {})


@attack(THIEF, "uses a session after the log-out", 403, "session-over", "session-over")
def session_after_log_out(scene: Scene) -> TestResponse:
    patient = scene.patient()
    cookie, draft = cookie_of(patient), path_of(patient.choose(who="all"))
    assert patient.submit("/logout").status_code == 302
    thief = scene.thief_of(cookie)
    thief.csrf = patient.csrf
    assert thief.get("/").headers["Location"] == "/portal/login"
    return thief.post(f"{draft}/options", {})


@attack(THIEF, "gives the browser a session's name before the log-in", 403, "session-over", "session-over")
def session_fixation(scene: Scene) -> TestResponse:
    patient, cookie = out(scene), "A" * 43
    patient.browser.set_cookie(SESSION, cookie, domain=scene.host)
    assert patient.log_in().status_code == 200
    assert cookie_of(patient) != cookie
    return scene.thief_of(cookie).post("/consents/new", {})


@attack(THIEF, "uses the session from before a log-in", 403, "session-over", "session-over")
def session_before_log_in(scene: Scene) -> TestResponse:
    patient = scene.patient()
    cookie = cookie_of(patient)
    assert patient.log_in().status_code == 200
    return scene.thief_of(cookie).post("/consents/new", {})


@attack(THIEF, "comes with a session of yesterday", 403, "plecat(ă)", "session-over")
def old_session(scene: Scene) -> TestResponse:
    patient = scene.patient()
    scene.region.clock.advance(24 * 3600)
    return patient.choose(who="all")


@attack("a sibling of the portal's name", "tosses a cookie of its own session in", 403, "plecat(ă)", "session-over")
def tossed_cookie(scene: Scene) -> TestResponse:
    patient, other = scene.patient(), scene.patient()
    alone = {"Cookie": f"{SESSION}={cookie_of(patient)}", "X-CSRF-Token": patient.csrf}
    assert scene.raw(scene.person(), "POST", "/consents/new", data=CHOICE, headers=alone).status_code == 302
    both = f"{SESSION}={cookie_of(patient)}; {SESSION}={cookie_of(other)}"
    headers = {"Cookie": both, "X-CSRF-Token": patient.csrf}
    return scene.raw(scene.person(), "POST", "/consents/new", data=CHOICE, headers=headers)


@attack(GUESSER, "invents sessions", 403, "session-over", "session-over")
def invented_session(scene: Scene) -> TestResponse:
    for token in ("x", "A" * 43, "'; DROP TABLE portal_session; --"):
        assert scene.thief_of(token).get("/").headers["Location"] == "/portal/login"
    return scene.thief_of("B" * 43).post("/consents/new", {})


@attack("a lost phone", "goes on after a hospital has revoked its passkey", 403, "passkey-over", "passkey-over")
def revoked_passkey(scene: Scene) -> TestResponse:
    patient = scene.patient()
    draft = path_of(patient.choose(who="all"))
    patient.bring("iasi", revoked=[patient.phone.id])
    assert patient.sign(draft).json["error"] == "session-over"  # type: ignore[index]
    return patient.log_in()


# ---- forms of other sites ----


def _posted(scene: Scene, patient: Patient, *, csrf: str = "", **headers: str) -> TestResponse:
    return patient.browser.post(
        "/portal/consents/new", base_url=scene.origin, data={**CHOICE, "csrf": csrf or patient.csrf}, headers=headers,
        environ_base={"REMOTE_ADDR": patient.address},
    )  # fmt: skip


@attack(SITE, "sends a form in the patient's name (CSRF)", 403, "altă pagină", "another-site")
def form_of_another_site(scene: Scene) -> TestResponse:
    return _posted(scene, scene.patient(), Origin="https://evil.example")


@attack(SITE, "sends it without saying from where", 403, "altă pagină", "another-site")
def form_without_origin(scene: Scene) -> TestResponse:
    return _posted(scene, scene.patient())


@attack(SITE, "sends it from a sandbox (origin null)", 403, "altă pagină", "another-site")
def form_of_null(scene: Scene) -> TestResponse:
    return _posted(scene, scene.patient(), Origin="null")


@attack(SITE, "sends it from a name below the portal's", 403, "altă pagină", "another-site")
def form_of_a_sibling(scene: Scene) -> TestResponse:
    return _posted(scene, scene.patient(), Origin=f"https://evil.{scene.host}")


@attack(SITE, "brings the token of a session of its own", 403, "intrare mai veche", "form-of-another-session")
def token_of_another(scene: Scene) -> TestResponse:
    return _posted(scene, scene.patient(), csrf=scene.patient().csrf, Origin=scene.origin)


@attack(SITE, "brings a token that is none", 403, "intrare mai veche", "form-of-another-session")
def token_of_letters(scene: Scene) -> TestResponse:
    return _posted(scene, scene.patient(), csrf="ș\u202e", Origin=scene.origin)


@attack(SITE, "logs the patient in as somebody else", 403, "another-site", "another-site")
def log_in_of_another_site(scene: Scene) -> TestResponse:
    other = out(scene)
    response = other.phone.get(other.post("/login/options", {}).json)
    return scene.person().post("/login", {"response": response}, Origin="https://evil.example")


@attack(SITE, "logs the patient out", 403, "altă pagină", "another-site")
def log_out_of_another_site(scene: Scene) -> TestResponse:
    patient = scene.patient()
    answer = scene.raw(patient, "POST", "/logout", data={}, headers={"Origin": "https://evil.example"})
    assert patient.get("/").status_code == 200
    return answer


@attack(SITE, "sends JSON as if it were text", 400, "Nu s-a schimbat nimic", "must be application/json")
def json_as_text(scene: Scene) -> TestResponse:
    patient = out(scene)
    body = json.dumps({"response": patient.phone.get(patient.post("/login/options", {}).json)})
    return scene.raw(patient, "POST", "/login", data=body, content_type="text/plain")


# ---- answers that are none ----


def _answer(name: str, tries: str, body: Any, recorded: str) -> None:
    def act(scene: Scene) -> TestResponse:
        return out(scene).post("/login", body)

    act.__name__ = name
    says = "bad-request" if "member" in recorded else "login-failed"
    attack(GUESSER, tries, 400, says, recorded)(act)


_answer("no_answer", "sends nothing for a passkey's answer", {"response": None}, "malformed")
_answer("half_an_answer", "sends half of one", {"response": {"response": {"clientDataJSON": "e30"}}}, "malformed")
_answer("numbers", "sends numbers for it", {"response": {"rawId": 1, "response": {"clientDataJSON": 2}}}, "malformed")
_answer("a_list", "sends a list", [], "exactly the members")
_answer("one_member_more", "sends more than is asked", {"response": {}, "more": 1}, "exactly the members")
_answer("deep_data", "nests the signed data deeply", {"response": {"response": {"clientDataJSON": DEEP}}}, "malformed")


# ---- again and again ----


@attack(GUESSER, "fails again and again", 429, "too-many", "too-many")
def failing_again_and_again(scene: Scene) -> TestResponse:
    guesser = scene.person()
    for _ in range(MOST_FAILURES):
        assert guesser.post("/login", {"response": {}}).status_code == 400
    return guesser.post("/login/options", {})


@attack(GUESSER, "says each time to come from another address", 429, "Prea multe", "too-many")
def forged_addresses(scene: Scene) -> TestResponse:
    guesser = scene.person()
    for place in range(MOST_FAILURES):
        headers = {"X-Forwarded-For": f"192.0.2.{place}", "Forwarded": f"for=192.0.2.{place}"}
        assert guesser.get(f"/enrol/{code()}", headers=headers).status_code == 403
    return guesser.get(f"/enrol/{code()}", headers={"X-Forwarded-For": "192.0.2.99"})


@attack(GUESSER, "takes another address of the own network (IPv6)", 429, "Prea multe", "too-many")
def neighbouring_addresses(scene: Scene) -> TestResponse:
    guesser = scene.person()
    network = f"2001:db8:{scene.people:x}:1"
    for place in range(MOST_FAILURES):
        guesser.address = f"{network}::{place + 1:x}"
        assert guesser.get(f"/enrol/{code()}").status_code == 403
    guesser.address = f"{network}:ffff::1"
    guesser.browser.delete_cookie(INVITATION, domain=scene.host)
    return guesser.get(f"/enrol/{code()}")
