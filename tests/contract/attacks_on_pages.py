"""Attacks by what is sent: markup, headers, addresses, methods, sizes, encodings."""

import json
import re

from werkzeug.test import TestResponse

from contract.attack_region import SESSION, Scene, cookie_of
from contract.attack_table import attack
from contract.attacks_on_log_in import CHOICE
from usmed.domain.canonical import canonical_json

SENDER = "anybody"
SCRIPT = "<script>alert(1)</script>"


# ---- markup ----


@attack("a hospital", "writes script into the words of a request", 200, "&lt;script&gt;alert(1)", "")
def stored_script(scene: Scene) -> TestResponse:
    patient = scene.patient()
    id = scene.asked(patient, department=SCRIPT, role=SCRIPT)
    assert "<script>alert" not in patient.read(f"/requests/{id}/no")
    answer = patient.get(f"/requests/{id}")
    assert "<script>alert" not in answer.text + patient.read("/")
    return answer


@attack("a hospital", "names a kind of study like a script", 200, "problems", "")
def script_in_a_study(scene: Scene) -> TestResponse:
    patient = scene.patient()
    number = patient.numbers[0]
    study = {
        "study_instance_uid": f"1.2.{scene.people}", "accession_number": SCRIPT[:16], "study_date": "20260102",
        "patient": {"identifiers": [{"issuer": number.issuer, "value": number.value}], "birth_date": "19630615",
                    "sex": "M"},
        "modalities": ["<B>X", "\u202eTC"],
    }  # fmt: skip
    answer = scene.region.send("iasi", "/v1/studies/feed", canonical_json({"upsert": [study]}))
    page = patient.read("/studies")
    assert "<B>X" not in page
    assert "\u202e" not in page
    return answer


@attack("a link", "has script in its address", 404, "Această pagină nu există", "")
def script_in_an_address(scene: Scene) -> TestResponse:
    patient = scene.patient()
    for path in (f"/access?before={SCRIPT}&lang={SCRIPT}", f"/consents/new?kind={SCRIPT}", f"/login?out={SCRIPT}"):
        assert SCRIPT not in patient.get(path).text
    answer = patient.get(f"/consents/{SCRIPT}")
    assert SCRIPT not in answer.text
    return answer


# ---- headers and addresses ----


@attack("a link", "writes headers of its own (CR LF)", 403, "Cereți la ghișeu unul nou", "bad-code")
def header_in_a_code(scene: Scene) -> TestResponse:
    patient = scene.patient()
    for path in ("/?lang=ro%0d%0aSet-Cookie:%20a=b", "/login?out=%0d%0aX-A:%20b"):
        answer = patient.get(path)
        assert not re.search(r"a=b|X-A", str(answer.headers))
    answer = scene.person().get("/enrol/abc%0d%0aSet-Cookie:%20a=b")
    assert "a=b" not in str(answer.headers)
    return answer


@attack("a link", "names another site to go on to", 302, "", "")
def open_redirect(scene: Scene) -> TestResponse:
    person = scene.person()
    for path in ("//evil.example", "/login?next=//evil.example", "/?next=https://evil.example", "/%2f%2fevil.example"):
        assert "evil" not in person.get(path).headers.get("Location", "")
    answer = scene.raw(person, "GET", "/", headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})
    assert answer.headers["Location"] == "/portal/login"
    return answer


@attack(SENDER, "asks for files beside the pages' own", 404, "Această pagină nu există", "")
def path_traversal(scene: Scene) -> TestResponse:
    person = scene.person()
    for path in ("..%2fapp.py", "%2e%2e/app.py", "....//app.py", "portal.css%00.py", "/etc/passwd", "%5c..%5capp.py"):
        answer = person.get(f"/static/{path}")
        assert answer.status_code == 404, path
        assert "import" not in answer.text
    return person.get("/static/..%2f..%2fwsgi.py")


@attack(SENDER, "acts by another method than the one that is checked", 404, "Această pagină nu există", "")
def other_method(scene: Scene) -> TestResponse:
    patient = scene.patient()
    consent = patient.permit(recipients="bacau")
    for method in ("PUT", "DELETE", "PATCH", "TRACE"):
        assert scene.raw(patient, method, "/consents/new", data=CHOICE).status_code == 405, method
    headers = {"X-HTTP-Method-Override": "POST", "X-HTTP-Method": "POST", "Origin": "https://evil.example"}
    path = f"/consents/{consent}/withdraw?_method=POST&csrf={patient.csrf}"
    answer = scene.raw(patient, "GET", path, headers=headers)
    assert "poate vedea" in patient.read("/")
    answer.status_code = 404 if answer.status_code == 405 else answer.status_code
    return answer


@attack("another site", "shows a page of the portal in a frame, or as its own resource", 200, "Intr", "")
def framed_page(scene: Scene) -> TestResponse:
    answer = scene.person().get("/login", headers={"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site"})
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "(self)" in answer.headers["Permissions-Policy"]
    assert "Access-Control-Allow-Origin" not in answer.headers
    return answer


@attack("a sibling of the portal's name", "reads the portal's cookies, or sets them", 200, "next", "")
def cookies_of_a_sibling(scene: Scene) -> TestResponse:
    patient = scene.patient()
    patient.submit("/logout")
    answer = patient.log_in()
    (cookie,) = answer.headers.getlist("Set-Cookie")
    name, *flags = (one.strip() for one in cookie.split(";"))
    # A browser takes such a name only so: no sibling can set it, and none gets it (RFC 6265bis §4.1.3.2).
    assert name.startswith("__Host-")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} == set(flags)
    language = scene.person().get("/login?lang=en").headers["Set-Cookie"]
    assert language.startswith("__Host-")
    assert {"Secure", "HttpOnly", "Path=/"} <= {one.strip() for one in language.split(";")}
    return answer


# ---- sizes and encodings ----


@attack(SENDER, "uploads more than any page sends", 413, "prea mare", "413")
def oversize_upload(scene: Scene) -> TestResponse:
    patient = scene.patient()
    big = {"response": "x" * 70_000}
    assert patient.post("/login", big).status_code == 413
    return scene.raw(patient, "POST", "/consents/new", data={"who": "x" * 70_000})


@attack(SENDER, "sends a form of 10,000 fields", 400, "Ce doriți?", "")
def many_fields(scene: Scene) -> TestResponse:
    patient = scene.patient()
    body = "&".join([f"csrf={patient.csrf}", *(f"{place:x}=" for place in range(10_000))])
    assert len(body) < 65536
    return scene.raw(
        patient, "POST", "/consents/new", data=body, content_type="application/x-www-form-urlencoded"
    )


@attack(SENDER, "sends one field 10,000 times", 400, "Ce doriți?", "")
def one_field_many_times(scene: Scene) -> TestResponse:
    patient = scene.patient()
    body = "&".join([f"csrf={patient.csrf}", *(["who=1"] * 10_000)])
    return scene.raw(
        patient, "POST", "/consents/new", data=body, content_type="application/x-www-form-urlencoded"
    )


@attack(SENDER, "sends a form of 2,000 parts", 413, "prea mare", "413")
def many_parts(scene: Scene) -> TestResponse:
    patient = scene.patient()
    part = '--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    body = part * 1_100 + "--b--\r\n"
    return scene.raw(
        patient, "POST", "/consents/new", data=body.encode(), content_type="multipart/form-data; boundary=b"
    )


@attack(SENDER, "brings a cookie of 60,000 bytes", 302, "", "")
def huge_cookie(scene: Scene) -> TestResponse:
    return scene.raw(scene.person(), "GET", "/", headers={"Cookie": f"{SESSION}={'A' * 60_000}"})


@attack(SENDER, "brings 5,000 cookies", 302, "", "")
def many_cookies(scene: Scene) -> TestResponse:
    cookies = "; ".join(f"a{place}=b" for place in range(5_000))
    return scene.raw(scene.person(), "GET", "/", headers={"Cookie": cookies})


@attack(SENDER, "nests JSON 5,000 deep", 400, "bad-request", "nest")
def deep_json(scene: Scene) -> TestResponse:
    body = '{"response":' + "[" * 5_000 + "]" * 5_000 + "}"
    return scene.raw(scene.person(), "POST", "/login", data=body, content_type="application/json")


@attack(SENDER, "gives one member twice", 400, "bad-request", "twice")
def member_twice(scene: Scene) -> TestResponse:
    body = '{"response":{},"response":{}}'
    return scene.raw(scene.person(), "POST", "/login", data=body, content_type="application/json")


@attack(SENDER, "sends bytes that are no text", 400, "bad-request", "UTF-8")
def no_text(scene: Scene) -> TestResponse:
    return scene.raw(scene.person(), "POST", "/login", data=b"\xff\xfe", content_type="application/json")


@attack(SENDER, "writes NUL and characters that turn lines around into a field", 400, "Mai lipsește ceva", "")
def nul_in_a_field(scene: Scene) -> TestResponse:
    patient = scene.patient()
    fields = {**CHOICE, "who": "some", "recipients": "ia\0si", "until": "\u202e\0", "term": "date"}
    answer = patient.submit("/consents/new", **fields)
    # What was typed is still there, as it was.
    assert 'value="\u202e\0"' in answer.text
    return answer


@attack(SENDER, "writes NUL into an address", 404, "Această pagină nu există", "request-over")
def nul_in_an_address(scene: Scene) -> TestResponse:
    patient = scene.patient()
    assert patient.get("/requests/%00").status_code == 404
    assert patient.get("/sign/%00").status_code == 404
    assert patient.get("/access?before=%00").status_code == 200
    return patient.get("/consents/%00")


@attack(SENDER, "sends a form where JSON belongs", 400, "Nu s-a schimbat nimic", "must be application/json")
def form_for_json(scene: Scene) -> TestResponse:
    patient = scene.patient()
    body = json.dumps({"response": {}})
    return scene.raw(patient, "POST", "/login", data={"response": body, "csrf": patient.csrf})


@attack(SENDER, "sends JSON where a form belongs", 403, "form-of-another-session", "form-of-another-session")
def json_for_a_form(scene: Scene) -> TestResponse:
    patient = scene.patient()
    patient.csrf = ""
    assert cookie_of(patient)
    return patient.post("/consents/new", CHOICE)
