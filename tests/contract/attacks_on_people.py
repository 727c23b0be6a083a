"""Attacks on enrolment, on what others are asked and have signed, and by members of the region on their patients."""

from copy import deepcopy
from dataclasses import replace
from datetime import date
from typing import Any

from werkzeug.test import TestResponse

from contract.attack_region import NODE, Scene, code, path_of
from contract.attack_table import attack
from contract.portal_patients import Patient
from contract.test_enrolments import CHILD_OF_A_PARENT, FORM, WISH
from support.phone import Phone
from usmed.domain.canonical import canonical_json
from usmed.domain.consent_record import consent_document
from usmed.domain.enrolment import Basis, Guardian, comparison_code, enrol
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub import consents

GUESSER, PASSER, CLERK = "a guesser", "a passer-by", "a clerk"
PATIENT, HUB_ITSELF, HOSPITAL, GUARDIAN = "another patient", "whoever runs the hub", "a hospital", "a guardian"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


# ---- the code of an invitation ----


@attack(GUESSER, "guesses a code", 403, "Cereți la ghișeu unul nou", "bad-code")
def guessed_code(scene: Scene) -> TestResponse:
    return scene.person().get(f"/enrol/{code()}")


@attack(PASSER, "uses a code that was used", 403, "Cereți la ghișeu unul nou", "bad-code")
def used_code(scene: Scene) -> TestResponse:
    patient, passer = scene.person(), scene.person()
    found = patient.invited()
    patient.get(f"/enrol/{found}")
    patient.tell_birth_date()
    assert patient.make_passkey().status_code == 200
    return passer.get(f"/enrol/{found}")


@attack(PASSER, "uses one in whose place the clerk made a new one", 403, "Cereți la ghișeu unul nou", "bad-code")
def replaced_code(scene: Scene) -> TestResponse:
    patient = scene.person()
    old = patient.invited()
    patient.invited()
    return patient.get(f"/enrol/{old}")


@attack(PASSER, "uses one of yesterday", 403, "Cereți la ghișeu unul nou", "bad-code")
def old_code(scene: Scene) -> TestResponse:
    patient = scene.person()
    old = patient.invited()
    scene.region.clock.advance(24 * 3600)
    return patient.get(f"/enrol/{old}")


@attack(PASSER, "has the code, not the birth date", 403, "Cereți la ghișeu un cod nou", "wrong-birth-date")
def guessed_birth_date(scene: Scene) -> TestResponse:
    passer = scene.person()
    passer.get(f"/enrol/{passer.invited()}")
    for day in ("1", "2", "3", "4"):
        assert passer.tell_birth_date(day).status_code == 403
    answer = passer.tell_birth_date("5")
    assert passer.tell_birth_date().status_code == 403
    return answer


@attack(PASSER, "writes a birth date into the cookie", 403, "wrong-birth-date", "wrong-birth-date")
def forged_birth_date(scene: Scene) -> TestResponse:
    passer = scene.person()
    passer.browser.set_cookie("__Host-usmed-invitation", f"{passer.invited()}.19630616", domain=scene.host)
    return passer.make_passkey()


@attack(PASSER, "makes a passkey without telling the birth date", 403, "birth-date-first", "birth-date-first")
def no_birth_date(scene: Scene) -> TestResponse:
    passer = scene.person()
    passer.get(f"/enrol/{passer.invited()}")
    return passer.make_passkey()


@attack(PASSER, "photographs the QR code, knows the birth date and is first", 403, "Cereți la ghișeu", "bad-code")
def photographed_code(scene: Scene) -> TestResponse:
    begun = scene.node.invited()
    passer, patient = scene.person(), scene.person()
    passer.get(f"/enrol/{begun.code}")
    passer.tell_birth_date()
    assert passer.make_passkey().status_code == 200
    # The passer-by waits before a number that no clerk will hear from the patient, and sees nothing else.
    for path in ("/", "/studies", "/consents", "/access"):
        assert passer.get(path).headers["Location"] == "/portal/enrol/waiting"
    return patient.get(f"/enrol/{begun.code}")


def _answered(scene: Scene) -> tuple[str, str]:
    """Let a phone answer at Bacău's desk; return the enrolment's id and what the clerk is shown."""
    begun, phone = scene.node.invited(), Phone(f"phone-{scene.people}-{scene.before[NODE]}".encode())
    scene.node.invitations.answer(begun.code, "19630615", phone.credential)
    standing = scene.node.enrolments.look(begun.enrolling.id)
    assert standing.digits == comparison_code(phone.credential)
    return begun.enrolling.id, standing.digits


@attack(CLERK, "confirms though the phone shows another number", 200, "Comparați din nou", "other-digits", NODE)
def other_digits(scene: Scene) -> TestResponse:
    id, digits = _answered(scene)
    other = "000 000" if digits != "000 000" else "111 111"
    answer = scene.clerk().post(f"enrolments/{id}/confirmation", digits=other)
    assert scene.node.enrolments.look(id).enrolling.state == "answered"
    return answer


@attack(CLERK, "confirms by the number of another enrolment", 200, "Comparați din nou", "other-digits", NODE)
def digits_of_another(scene: Scene) -> TestResponse:
    _, digits = _answered(scene)
    scene.node.shelf.put("10")
    id = scene.node.invited(replace(WISH, patient_id="10", numbers=frozenset({PatientIdentifier("BACAU", "10")})))
    scene.node.invitations.answer(id.code, "19630615", Phone(b"other" + id.code.encode()).credential)
    scene.node.enrolments.look(id.enrolling.id)
    return scene.clerk().post(f"enrolments/{id.enrolling.id}/confirmation", digits=digits)


@attack(HUB_ITSELF, "tells the desk another passkey than the phone's", 200, "Comparați din nou", "other-digits", NODE)
def exchanged_passkey(scene: Scene) -> TestResponse:
    phone, begun = Phone(b"of-the-patient"), scene.node.invited()
    forged = Phone(b"of-the-hub").credential
    answer = {"id": forged.id.hex(), "public_key": forged.public_key.hex()}
    scene.node.invitations.answer(begun.code, "19630615", phone.credential)
    honest = scene.node.tell
    scene.node.tell = lambda path, told: {"state": "answered", "credential": answer} if "state" in path else told
    try:
        scene.node.enrolments.look(begun.enrolling.id)
        # The patient reads this from the phone.
        digits = comparison_code(phone.credential)
        return scene.clerk().post(f"enrolments/{begun.enrolling.id}/confirmation", digits=digits)
    finally:
        scene.node.tell = honest


@attack("another site", "sends the clerk's forms", 200, "nu este din această sesiune", "stale-form", NODE)
def desk_form_of_another_site(scene: Scene) -> TestResponse:
    return scene.clerk().post("enrolments", csrf="0" * 64, **FORM)


@attack(CLERK, "enrols a parent until after the child is grown up", 200, "majoratului", "majority", NODE)
def parent_of_the_grown(scene: Scene) -> TestResponse:
    if not scene.node.shelf.studies_of_patient("77"):
        scene.node.shelf.put("77", "Popescu^Mara", birth_date="20170412", sex="F")
    form = {"PatientID": "77", "number": "BACAU\\77", "basis": "parent", "until": "2035-04-12", "seen": "yes"}
    answer = scene.clerk().post("enrolments", **form)
    assert CHILD_OF_A_PARENT.until == date(2035, 4, 11)
    return answer


@attack(PATIENT, "answers with the passkey that somebody has already", 403, "passkey-taken", "passkey-taken")
def taken_passkey(scene: Scene) -> TestResponse:
    patient, other = scene.patient(), scene.person()
    other.phone = patient.phone
    other.get(f"/enrol/{other.invited()}")
    other.tell_birth_date()
    return other.make_passkey()


# ---- what is another's ----


@attack(PATIENT, "opens somebody's consent", 404, "Această pagină nu există", "not-there")
def anothers_consent(scene: Scene) -> TestResponse:
    consent, other = scene.patient().permit(recipients="bacau"), scene.patient()
    answer = other.get(f"/consents/{consent}")
    assert answer.text == other.get(f"/consents/{UNKNOWN}").text
    return answer


@attack(PATIENT, "takes somebody's consent back", 404, "Această pagină nu există", "not-there")
def anothers_withdrawal(scene: Scene) -> TestResponse:
    patient, other = scene.patient(), scene.patient()
    answer = other.submit(f"/consents/{patient.permit(recipients='bacau')}/withdraw")
    assert "poate vedea" in patient.read("/")
    return answer


@attack(PATIENT, "answers what somebody was asked", 404, "Ce ați hotărât", "request-over")
def anothers_request(scene: Scene) -> TestResponse:
    patient, other = scene.patient(), scene.patient()
    id = scene.asked(patient)
    assert other.get(f"/requests/{id}").status_code == 404
    answer = other.submit(f"/requests/{id}/yes")
    assert patient.get(f"/requests/{id}").status_code == 200
    return answer


@attack(PATIENT, "signs what somebody was about to sign", 404, "draft-over", "draft-over")
def anothers_draft(scene: Scene) -> TestResponse:
    patient, other = scene.patient(), scene.patient()
    return other.sign(path_of(patient.choose(who="all")))


@attack("a second tab", "says no after the first one has said yes", 404, "Ce ați hotărât", "request-over")
def no_after_yes(scene: Scene) -> TestResponse:
    patient = scene.patient()
    id = scene.asked(patient)
    assert patient.sign(path_of(patient.submit(f"/requests/{id}/yes"))).status_code == 200
    return patient.submit(f"/requests/{id}/no")


@attack("a second tab", "signs once more what was signed", 404, "draft-over", "draft-over")
def signed_twice(scene: Scene) -> TestResponse:
    patient = scene.patient()
    draft = path_of(patient.choose(who="all"))
    options = patient.post(f"{draft}/options", {}).json
    assert patient.post(draft, {"response": patient.phone.get(options)}).status_code == 200
    return patient.post(draft, {"response": patient.phone.get(options)})


# ---- guardians ----


def _guardian(scene: Scene, years: int = 1) -> Patient:
    until = scene.region.clock().replace(microsecond=0).replace(year=scene.region.clock().year + years)
    child = scene.person()
    child.answered(guardian={"basis": "guardian", "until": int(until.timestamp())})
    child.confirmed(guardian=Guardian(Basis.GUARDIAN, until)).read("/enrol/done")
    return child


@attack(GUARDIAN, "logs in on the day on which the time ends", 403, "passkey-over", "passkey-over")
def guardian_over(scene: Scene) -> TestResponse:
    child = _guardian(scene)
    scene.region.clock.now = scene.region.clock().replace(year=scene.region.clock().year + 1)
    return child.log_in()


@attack(GUARDIAN, "signs what was opened before that", 403, "session-over", "session-over")
def guardian_over_meanwhile(scene: Scene) -> TestResponse:
    child = scene.person()
    until = scene.region.clock().replace(microsecond=0)
    until = until.replace(year=until.year + 1)
    child.answered(guardian={"basis": "parent", "until": int(until.timestamp())})
    child.confirmed(guardian=Guardian(Basis.PARENT, until))
    scene.region.clock.now = until
    scene.region.clock.advance(-60)
    assert child.log_in().status_code == 200
    draft = path_of(child.choose(who="all"))
    scene.region.clock.now = until
    return child.sign(draft)


@attack(GUARDIAN, "acts for another child", 404, "Această pagină nu există", "not-there")
def guardian_of_another(scene: Scene) -> TestResponse:
    consent, other = _guardian(scene).permit(recipients="iasi"), _guardian(scene)
    return other.submit(f"/consents/{consent}/withdraw")


@attack(GUARDIAN, "goes on after the basis was taken back", 403, "passkey-over", "passkey-over")
def guardian_revoked(scene: Scene) -> TestResponse:
    child = _guardian(scene)
    child.bring("iasi", revoked=[child.phone.id])
    return child.log_in()


# ---- documents altered after the signature ----


def _signed(scene: Scene) -> tuple[Patient, Any]:
    """Return a patient, and the record of a consent for one hospital, of a year, as the phone signed it."""
    patient = scene.patient()
    id = patient.permit(recipients="iasi")
    with scene.region.database.read() as connection:
        held = consents.current(connection, id)
    assert held is not None
    delivery = scene.region.deliveries.latest(id)
    assert delivery is not None
    return patient, deepcopy(delivery.item.record)


def _given(scene: Scene, record: Any) -> TestResponse:
    """Bring a record to a key server, as the hub does; a problem is as good as a refusal."""
    return scene.region.servers.send("hub", "keys-1", "/v1/records", {"records": [record], "enrolments": []})


@attack(HUB_ITSELF, "names another recipient in what was signed", 200, "another document", "another document", "keys-1")
def other_recipient(scene: Scene) -> TestResponse:
    _, record = _signed(scene)
    actor = record["document"]["resource"]["provision"]["actor"][0]
    actor["reference"]["identifier"]["value"] = "suceava"
    record["document"]["id"] = f"forged-{scene.people}"
    return _given(scene, record)


@attack(HUB_ITSELF, "lets it hold for longer", 200, "signed another document", "signed another document", "keys-1")
def longer_time(scene: Scene) -> TestResponse:
    _, record = _signed(scene)
    record["document"]["resource"]["provision"]["period"]["end"] = "2099-01-01T00:00:00Z"
    record["document"]["version"] = 2
    return _given(scene, record)


@attack(HUB_ITSELF, "puts it under another patient's number", 200, "not enrolled", "not enrolled", "keys-1")
def other_patient(scene: Scene) -> TestResponse:
    _, record = _signed(scene)
    record["document"]["resource"]["patient"]["identifier"]["value"] = str(scene.patient().numbers[0].value)
    record["document"]["id"] = f"moved-{scene.people:04d}"
    return _given(scene, record)


@attack(HOSPITAL, "brings the hub a consent altered after the signature", 200, "another document", "another document")
def altered_at_the_hub(scene: Scene) -> TestResponse:
    _, record = _signed(scene)
    record["document"] = consent_document(
        {**record["document"]["resource"], "dateTime": "2026-11-02T00:00:00Z"},
        id=f"altered-{scene.people}", version=1,
    )  # fmt: skip
    body = canonical_json({"records": [record], "enrolments": []})
    return scene.region.send("bacau", "/v1/consents/records", body)


# ---- hospitals ----


def _invite(scene: Scene, hospital: str, *numbers: tuple[str, str]) -> TestResponse:
    body = {
        "id": f"{scene.people:08d}-0000-4000-8000-{scene.before['hub']:012d}", "code_sha256": "ab" * 32,
        "birth_date": "19630615", "guardian": None,
        "patient": [{"issuer": issuer, "value": value} for issuer, value in numbers],
    }  # fmt: skip
    return scene.region.send(hospital, "/v1/enrolments/invite", canonical_json(body))


@attack(HOSPITAL, "invites for another hospital's number", 400, "bad-request", "400 POST /v1/enrolments/invite")
def foreign_invitation(scene: Scene) -> TestResponse:
    return _invite(scene, "bacau", ("SF-SPIRIDON", "7"))


@attack(HOSPITAL, "enrols its passkey under another hospital's number", 200, "does not assign", "does not assign")
def foreign_enrolment(scene: Scene) -> TestResponse:
    token = enrol(
        scene.region.keys["bacau"], hospital="bacau", patient=[PatientIdentifier("SF-SPIRIDON", "7")],
        credentials=[Phone(b"own").credential], now=scene.region.clock(),
    )  # fmt: skip
    body = canonical_json({"records": [], "enrolments": [{"hospital": "bacau", "token": token}]})
    return scene.region.send("bacau", "/v1/consents/records", body)


@attack(HOSPITAL, "asks how another hospital's invitation stands", 403, "unknown-invitation", "unknown-invitation")
def anothers_invitation(scene: Scene) -> TestResponse:
    patient = scene.person()
    patient.invited("iasi")
    return scene.region.send("bacau", "/v1/enrolments/state", canonical_json({"id": patient.invitation}))


@attack(HOSPITAL, "wears a patient down with requests", 403, "too-many", "too-many")
def many_requests(scene: Scene) -> TestResponse:
    patient = scene.patient()
    for place in range(5):
        assert scene.ask(patient, department=f"Secția {place}").status_code == 200
    return scene.ask(patient, department="Secția 6")


def _names(name: str, tries: str, text: str) -> None:
    def act(scene: Scene) -> TestResponse:
        return scene.ask(scene.patient(), department=text)

    act.__name__ = name
    attack(HOSPITAL, tries, 400, "bad-request", "400 POST /v1/requests")(act)


_names("name_turned_around", "turns a name around that patients read (bidi)", "Radiologie \u202egolorac")
_names("name_isolated", "turns a part of it around", "Radiologie \u2067abc\u2069")
_names("name_with_nothing", "hides characters in it (zero width)", "Radio\u200blogie")
_names("name_with_nul", "ends it in the middle (NUL)", "Radiologie\0medic")
_names("name_of_two_lines", "writes lines of its own", "Radiologie\nSpitalul Iași vă întreabă")
_names("name_of_nothing", "gives a name that nobody sees", "\u3164\u3164")
_names("name_of_marks", "piles marks over the lines around it", "R" + "\u0301" * 40)


@attack(HOSPITAL, "tells a patient of a release at another hospital", 200, '"taken":0', "whom bacau has no number of")
def foreign_access(scene: Scene) -> TestResponse:
    number = scene.patient().numbers[0]
    access = {
        "sequence": 1, "at": int(scene.region.clock().timestamp()), "recipient": "iasi", "role": "medic",
        "patient": {"issuer": number.issuer, "value": number.value}, "purpose": "TREAT", "study_instance_uid": "1.2.3",
        "consents": [],
    }  # fmt: skip
    return scene.region.send("bacau", "/v1/accesses", canonical_json({"accesses": [access]}))


@attack("a stranger", "asks in a hospital's name without its key", 401, "", "signature does not verify")
def stranger(scene: Scene) -> TestResponse:
    body = canonical_json({"id": UNKNOWN})
    authorization = scene.region.authorization(
        "bacau", "/v1/enrolments/state", body, key=scene.region.keys["iasi"]
    )
    return scene.region.raw("/v1/enrolments/state", body, {"Authorization": authorization})


