"""The pages for consents on paper: one clerk writes with a scan, another attests; as browsers without a script do."""

import io
import re
from collections.abc import Iterator
from datetime import date
from importlib.resources import files
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage
from werkzeug.test import Client, TestResponse, encode_multipart

from contract.key_servers import Servers
from contract.test_desk import SCAN, WRONG, Node
from support.shelf import Shelf
from support.staff import logged_in
from usmed.domain.fhir_consent import consent_from_fhir
from usmed.domain.identifiers import Naming
from usmed.hospital.enrolment_pages import Services, create_enrolment_pages
from usmed.hospital.enrolments import Enrolments
from usmed.hospital.frame import Frame
from usmed.hospital.paper_pages import LONGEST, add_paper_pages
from usmed.hospital.patient_record import PatientRecords
from usmed.hospital.store import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import open_database

NAMES = {"iasi": "Sf. Spiridon", "bacau": "Bacău"}
FORM = {
    "PatientID": "9", "number": "BACAU\\9", "kind": "permit", "who": "some", "recipients": ["iasi"], "what": "some",
    "kinds": ["kind-ct"],
}  # fmt: skip


class Pages:
    """The node's pages and its clerks."""

    def __init__(self, node: Node) -> None:
        self.node, region = node, node.servers.current
        shelf, naming = Shelf(), Naming("BACAU", region().national_number)
        shelf.put("9", "Popescu^Ana", birth_date="19630615", sex="F")
        shelf.put("8", "Ionescu^Dan")
        enrolments = Enrolments(
            hospital="bacau", key=node.servers.keys["bacau"], region=region,
            records=PatientRecords(shelf, naming, lambda: region().spoken_for("bacau")),  # type: ignore[arg-type]
            database=node.database, deliveries=node.deliveries, client=node,  # type: ignore[arg-type]
            audit=node.audit, clock=node.servers.clock,
        )  # fmt: skip
        services = Services(
            enrolments, node.deliveries, shelf,  # type: ignore[arg-type]
            Frame(lambda: "Spital", node.audit, node.servers.clock),
        )  # fmt: skip
        pages = create_enrolment_pages(services)
        add_paper_pages(pages, services, node.desk, lambda: NAMES)
        self.app = Flask(__name__, root_path=str(files("usmed.hospital")), static_folder=None)
        self.app.register_blueprint(pages, url_prefix="/desk")
        self.browser = Client(self.app)

    @property
    def today(self) -> date:
        return self.node.servers.clock().date()

    def get(self, path: str, who: str = "ionescu", language: str = "ro") -> TestResponse:
        log_in = logged_in(who)
        return self.browser.get(f"/desk/{path}", environ_overrides=log_in, headers={"Accept-Language": language})

    def post(self, path: str, user: str = "ionescu", /, **form: Any) -> TestResponse:
        token = re.search(r'name="csrf" value="(\w+)"', self.get("paper/new?PatientID=9", user).text)
        assert token is not None
        given = {"csrf": token[1], **form}
        log_in = logged_in(user)
        # As the desk's script sends it: Orthanc keeps multipart/form-data for itself.
        boundary, body = encode_multipart(given)
        return self.browser.post(
            f"/desk/{path}", data=body, content_type=f'multipart/x-usmed-form; boundary="{boundary}"',
            environ_overrides=log_in, headers={"Accept-Language": "ro"},
        )  # fmt: skip

    def write(self, content: bytes = SCAN, **changes: Any) -> TestResponse:
        form: dict[str, Any] = {**FORM, "until": (self.today + LONGEST).isoformat(), **changes}
        given = {name: value for name, value in form.items() if value is not None}
        return self.post("paper/new", scan=FileStorage(io.BytesIO(content), "popescu.pdf"), **given)

    def written(self, **changes: Any) -> str:
        answer = self.write(**changes)
        assert answer.status_code == 303, re.findall(r'role="alert">([^<]*)', answer.text)
        return str(answer.headers["Location"]).rpartition("/")[2]

    def digest(self, id: str) -> str:
        found = re.search(r'name="sha256" value="(\w+)"', self.get(f"paper/{id}", "popa").text)
        assert found is not None
        return found[1]


@pytest.fixture
def pages(on_sqlite: Servers, tmp_path: Any) -> Iterator[Pages]:
    database = open_database(f"sqlite:///{tmp_path / uuid4().hex}.db", [CHAIN])
    audit = AuditLog(database)
    yield Pages(Node(on_sqlite, database, audit))
    audit.close()
    database.close()


def test_two_members_of_staff_record_a_consent_with_its_scan(pages: Pages) -> None:
    id = pages.written()
    mine = pages.get(f"paper/{id}").text
    assert "Un alt angajat trebuie" in mine
    assert "/confirmation" not in mine
    assert pages.get("paper", "popa").text.count("așteaptă a doua persoană") == 1
    theirs = pages.get(f"paper/{id}", "popa").text
    for said in ("Popescu", "Permite", "Sf. Spiridon", "tomografii (CT)", "tratament", "BACAU"):
        assert said in theirs
    scan = pages.get(f"paper/{id}/scan", "popa")
    assert scan.data == SCAN
    assert "sandbox" in scan.headers["Content-Security-Policy"]
    assert scan.headers["Content-Disposition"].startswith("attachment")
    done = pages.post(f"paper/{id}/confirmation", "popa", sha256=pages.digest(id), read="yes")
    assert done.status_code == 303, done.text
    shown = pages.get(f"paper/{id}", "popa").text
    assert "atestat" in shown
    assert "3 din 3" in shown or "3 of 3" in shown or "3 " in shown
    resource = pages.node.desk.entry(id).attested.item.resource  # type: ignore[union-attr]
    consent = consent_from_fhir(resource, id=id, version=1)
    assert consent.valid_until is not None
    assert "CT" in consent.provisions[0].modalities
    # And back again, by two.
    assert pages.post(f"paper/{id}/withdrawal").status_code == 303
    assert "Pacientul ia acest acord înapoi" in pages.get(f"paper/{id}", "popa").text
    pages.post(f"paper/{id}/confirmation", "popa", sha256=pages.digest(id), read="yes")
    assert "luat înapoi" in pages.get(f"paper/{id}").text


def test_the_second_has_to_have_read_it_and_refuses_with_a_reason(pages: Pages) -> None:
    id = pages.written()
    unread = pages.post(f"paper/{id}/confirmation", "popa", sha256=pages.digest(id))
    assert "Citiți întâi scanarea" in unread.text
    assert "Spuneți de ce" in pages.post(f"paper/{id}/refusal", "popa", reason=" ").text
    assert pages.post(f"paper/{id}/refusal", "popa", reason="lipsește semnătura").status_code == 303
    shown = pages.get(f"paper/{id}").text
    assert "refuzat" in shown
    assert "lipsește semnătura" in shown
    assert f"paper/{id}/scan" not in shown


def test_one_person_is_not_two_and_strangers_forms_do_nothing(pages: Pages) -> None:
    id = pages.written()
    digest = pages.digest(id)
    for act in ("confirmation", "refusal"):
        answer = pages.post(f"paper/{id}/{act}", sha256=digest, read="yes", reason="x")
        assert "un alt angajat decât cel care a scris" in answer.text
    assert "Numai cine l-a scris" in pages.post(f"paper/{id}/cancellation", "popa").text
    forged = pages.post(f"paper/{id}/confirmation", "popa", csrf="0" * 64, sha256=digest, read="yes")
    assert forged.status_code == 200
    assert pages.node.desk.entry(id).draft is not None
    reasons = [one["reason"] for one in pages.node.audit.tail(100) if one["event"] == "refused"]
    assert [one for one in reasons if one.startswith("stale-form")]
    assert pages.post(f"paper/{id}/cancellation").status_code == 303
    assert "anulat" in pages.get(f"paper/{id}").text


WRONG_FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "no kind": ({"kind": None}, "permite sau interzice"),
    "no hospital": ({"recipients": []}, "Alegeți spitale"),
    "a hospital of nowhere": ({"recipients": ["nowhere"]}, "Alegeți spitale"),
    "no studies": ({"kinds": []}, "feluri de investigații"),
    "a number of nobody": ({"number": "BACAU\\8"}, "Alegeți numărul"),
    "no end": ({"until": ""}, "până când"),
    "an end that is none": ({"until": "31.12.2026"}, "până când"),
    "too long": ({"until": "2099-01-01"}, "se încheie într-un an"),
    "the past": ({"until": "2020-01-01"}, "se încheie într-un an"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG_FORMS.values(), ids=WRONG_FORMS)
def test_a_form_with_a_fault_is_shown_again_as_it_was(pages: Pages, changes: dict[str, Any], said: str) -> None:
    answer = pages.write(**changes)
    assert answer.status_code == 200
    assert said in answer.text
    assert pages.node.desk.drafts() == []
    if "recipients" not in changes:
        assert re.search(r'name="recipients" value="iasi" checked', answer.text)


def test_a_file_that_is_no_scan_is_refused_with_advice_and_nothing_typed_is_lost(pages: Pages) -> None:
    advice = {"a picture": "nu este PDF", "a password": "cere o parolă", "a program": "mai mult decât să arate pagini",
              "too large": "peste 10 MB", "nothing": "Lipsește fișierul", "noise": "nu se deschide"}  # fmt: skip
    for name, said in advice.items():
        answer = pages.write(WRONG[name][0], kind="deny", until="")
        assert said in answer.text, name
        assert "alegeți fișierul din nou" in answer.text
        for kept in ('value="deny" required checked', 'value="iasi" checked', 'value="kind-ct" checked'):
            assert kept in answer.text, (name, kept)
    assert pages.node.desk.drafts() == []
    assert pages.node.scans() == 0
    assert [one for one in pages.node.audit.tail(100) if one["event"] == "refused"]


@pytest.mark.parametrize("kind", ["deny", "emergency"])
def test_what_the_paper_forbids_may_have_no_end(pages: Pages, kind: str) -> None:
    id = pages.written(kind=kind, until="", who="all", what="all", recipients=None, kinds=None)
    shown = pages.get(f"paper/{id}", "popa").text
    assert "Interzice" in shown
    assert "fără sfârșit" in shown
    assert ("urgențe" in shown) is (kind == "emergency")


def test_english_and_nobody_without_a_log_in(pages: Pages) -> None:
    assert "What does the paper say?" in pages.get("paper/new?PatientID=9", language="en").text
    for path in ("paper", "paper/new?PatientID=9"):
        answer = pages.browser.get(f"/desk/{path}", environ_overrides={"REMOTE_USER": "ionescu"})
        assert "What does" not in answer.text
        assert "Popescu" not in answer.text
