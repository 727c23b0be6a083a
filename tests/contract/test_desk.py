"""A consent on paper with its scan: written by one, read and attested by another; real tables, real key servers."""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, TextStringObject
from werkzeug.test import Client, TestResponse

from contract.hub_region import consent
from contract.key_servers import SERVERS, Servers
from support.staff import logged_in
from usmed.domain.errors import UsmedError
from usmed.domain.paper import LARGEST_SCAN_BYTES, LIFE, MOST_PAGES
from usmed.hospital.desk import Desk
from usmed.hospital.desk_pages import create_desk_pages
from usmed.hospital.desk_store import KEPT, DeskStore
from usmed.hospital.store import CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.delivery_store import DeliveryStore
from usmed.platform.storage import Database, open_database

NUMBER = ("BACAU", "9")


def pdf(*, pages: int = 1, change: Callable[[PdfWriter], None] = lambda _: None) -> bytes:
    writer = PdfWriter()
    for _ in range(pages):
        writer.add_blank_page(595, 842)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(writer)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


SCAN = pdf(pages=2)


@dataclass
class Node:
    """The desk of Bacău before its pages."""

    servers: Servers
    database: Database
    audit: AuditLog

    def __post_init__(self) -> None:
        self.deliveries = Deliveries(
            own="bacau", region=self.servers.current, store=DeliveryStore(self.database),
            post=self.post, clock=self.servers.clock,
        )  # fmt: skip
        self.desk = Desk(
            hospital="bacau", key=self.servers.keys["bacau"], region=self.servers.current,
            store=DeskStore(self.database), deliveries=self.deliveries, audit=self.audit, clock=self.servers.clock,
        )  # fmt: skip
        app = Flask(__name__, static_folder=None)
        app.register_blueprint(create_desk_pages(self.desk), url_prefix="/consents")
        app.register_error_handler(UsmedError, lambda error: ({"message": str(error)}, 400))
        self.client = Client(app)

    def post(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int) -> Any:
        """Reach key servers through their applications; the hub and hospitals take whatever they are told."""
        if member_id not in SERVERS:
            return {"problems": []}
        send = self.servers.post_as("bacau")
        return send(member_id, path, document, deadline_s=deadline_s, limit_bytes=limit_bytes)

    def send(self, who: str, method: str, path: str = "", may: Any = None, **options: Any) -> TestResponse:
        log_in = logged_in(who, may)
        return self.client.open(f"/consents{path}", method=method, environ_overrides=log_in, **options)

    def written(self, **changes: Any) -> str:
        """Let the first member of staff write a consent down; return its id."""
        answer = self.send("ionescu", "POST", json={"Resource": consent(*NUMBER, **changes)})
        assert answer.status_code == 200, answer.text
        return str(answer.json["ID"])

    def scanned(self, id: str, content: bytes = SCAN, who: str = "ionescu") -> TestResponse:
        return self.send(who, "PUT", f"/{id}/scan", data=content, content_type="application/pdf")

    def confirmed(self, id: str, digest: str, who: str = "popa") -> TestResponse:
        return self.send(who, "POST", f"/{id}/confirmation", json={"Sha256": digest})

    def scans(self) -> int:
        with self.database.read() as connection:
            return int(connection.execute(sa.text("SELECT count(*) FROM consent_scan")).scalar_one())


@pytest.fixture
def node(servers: Servers, new_database_url: Callable[[], str]) -> Iterator[Node]:
    database = open_database(new_database_url(), [CHAIN])
    audit = AuditLog(database)
    yield Node(servers, database, audit)
    audit.close()
    database.close()


def test_a_consent_with_its_scan_is_attested_by_a_second(node: Node) -> None:
    id = node.written()
    draft = node.scanned(id).json
    digest = hashlib.sha256(SCAN).hexdigest()
    assert draft["Scan"] == digest
    assert draft["Resource"]["sourceAttachment"]["title"] == "Consent on paper, 2 pages"
    read = node.send("popa", "GET", f"/{id}/scan")
    assert read.data == SCAN
    assert read.headers["Content-Type"] == "application/pdf"
    assert read.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in read.headers["Content-Security-Policy"]
    done = node.confirmed(id, draft["Sha256"])
    assert done.status_code == 200, done.text
    assert (done.json["Attested"]["Scan"], len(done.json["Attested"]["KeyServers"])) == (digest, 3)
    # Every key server holds which sheet of paper it was; the sheet itself stays here.
    with node.servers.databases["keys-1"].read() as connection:
        held = str(connection.exec_driver_sql("SELECT record FROM consent_record").scalar_one())
    assert "ni:///sha-256;" in held
    assert node.send("popa", "GET", f"/{id}/scan").data == SCAN
    assert [one["detail"]["what"] for one in node.audit.tail(100) if one["event"] == "consent"][:2]


def test_what_the_second_did_not_read_is_not_attested(node: Node) -> None:
    id = node.written()
    before = node.send("popa", "GET").json[0]["Sha256"]
    node.scanned(id)
    answer = node.confirmed(id, before)
    assert (answer.status_code, "read it again" in answer.text) == (400, True)
    assert node.servers.current() is not None
    first = node.send("popa", "GET").json[0]["Sha256"]
    node.scanned(id, pdf(pages=1))
    assert node.confirmed(id, first).status_code == 400, "the scan was exchanged"
    assert node.scans() == 1


def test_one_person_does_not_count_as_two(node: Node) -> None:
    id = node.written()
    digest = node.scanned(id).json["Sha256"]
    for act in (
        lambda: node.confirmed(id, digest, "ionescu"),
        lambda: node.confirmed(id, digest, " IONESCU"),
        lambda: node.send("ionescu", "POST", f"/{id}/refusal", json={"Reason": "x"}),
        lambda: node.scanned(id, who="popa"),
        lambda: node.send("popa", "POST", f"/{id}/cancellation", json={}),
    ):
        assert act().status_code == 400
    refused = [one for one in node.audit.tail(100) if one["outcome"] == "denied"]
    assert [one["detail"]["what"] for one in refused].count("second-person") == 3
    assert [one["detail"]["what"] for one in refused].count("first-person") == 2
    assert node.confirmed(id, digest).status_code == 200


def test_a_role_that_may_not_do_a_thing_does_not_do_it(node: Node) -> None:
    resource = {"Resource": consent(*NUMBER)}
    refused = node.send("ionescu", "POST", json=resource, may=["paper.read", "paper.confirm"])
    assert "your role lacks the permission 'paper.write'" in refused.json["message"]
    id = node.written()
    read = {"Sha256": node.scanned(id).json["Sha256"]}
    for path, body, lacking in (
        ("confirmation", read, "paper.confirm"), ("refusal", {"Reason": "nu"}, "paper.confirm"),
        ("cancellation", {}, "paper.write"), ("withdrawal", {}, "paper.write"),
    ):  # fmt: skip
        answer = node.send("popa", "POST", f"/{id}/{path}", json=body, may=["paper.read"])
        assert f"lacks the permission {lacking!r}" in answer.json["message"]
    assert "lacks" in node.send("popa", "GET", f"/{id}/scan", may=[]).json["message"]
    assert node.confirmed(id, read["Sha256"]).status_code == 200


def test_the_second_refuses_and_says_why(node: Node) -> None:
    id = node.written()
    digest = node.scanned(id).json["Sha256"]
    assert node.send("popa", "POST", f"/{id}/refusal", json={"Reason": " "}).status_code == 400
    answer = node.send("popa", "POST", f"/{id}/refusal", json={"Reason": "the signature is missing"})
    assert answer.json["Draft"] is None
    ended = answer.json["Ended"]
    assert (ended["State"], ended["By"], ended["Reason"]) == ("refused", "popa", "the signature is missing")
    assert node.confirmed(id, digest).status_code == 400
    assert node.scanned(id).status_code == 400
    assert node.scans() == 0
    assert node.send("popa", "GET", f"/{id}/scan").status_code == 400
    assert node.send("popa", "GET").json == []
    assert "the signature is missing" in str(node.audit.tail(100))


def test_the_first_cancels(node: Node) -> None:
    id = node.written()
    node.scanned(id)
    answer = node.send("ionescu", "POST", f"/{id}/cancellation", json={})
    assert answer.json["Ended"]["State"] == "cancelled"
    assert node.scans() == 0


def test_what_nobody_confirms_expires_and_is_forgotten(node: Node) -> None:
    id = node.written()
    digest = node.scanned(id).json["Sha256"]
    node.servers.clock.advance(LIFE.total_seconds() + 1)
    assert node.confirmed(id, digest).status_code == 400
    assert node.send("popa", "GET", f"/{id}").json["Ended"]["State"] == "expired"
    assert node.scans() == 0
    node.servers.clock.advance(KEPT.total_seconds() + 1)
    other = node.written()
    node.send("ionescu", "POST", f"/{other}/cancellation", json={})
    assert node.send("popa", "GET", f"/{id}").status_code == 400


def test_the_scan_of_an_attested_consent_outlives_its_withdrawal(node: Node) -> None:
    id = node.written()
    node.confirmed(id, node.scanned(id).json["Sha256"])
    back = node.send("ionescu", "POST", f"/{id}/withdrawal", json={}).json
    node.send("ionescu", "POST", f"/{id}/cancellation", json={})
    assert node.send("popa", "GET", f"/{id}/scan").data == SCAN
    back = node.send("ionescu", "POST", f"/{id}/withdrawal", json={}).json
    assert node.scanned(id).status_code == 400, "the scan of what is attested is not exchanged"
    assert node.confirmed(id, back["Sha256"]).json["Attested"]["Status"] == "inactive"
    assert node.send("popa", "GET", f"/{id}/scan").data == SCAN


def test_nobody_names_a_scan_that_is_not_here(node: Node) -> None:
    resource = consent(*NUMBER) | {
        "sourceAttachment": {"contentType": "application/pdf", "size": 1, "url": f"ni:///sha-256;{'A' * 43}"}
    }
    answer = node.send("ionescu", "POST", json={"Resource": resource})
    assert (answer.status_code, "sourceAttachment" in answer.text) == (400, True)


def test_only_a_pdf_is_taken_as_one(node: Node) -> None:
    id = node.written()
    for kind in ("multipart/form-data", "text/plain", "application/json", None):
        answer = node.send("ionescu", "PUT", f"/{id}/scan", data=SCAN, content_type=kind)
        assert answer.status_code == 400
    assert node.scans() == 0


# ---- Files that are no scans ----


def javascript(writer: PdfWriter) -> None:
    writer.add_js("app.alert(1)")


def attached(writer: PdfWriter) -> None:
    writer.add_attachment("virus.exe", b"MZ")


def secret(writer: PdfWriter) -> None:
    writer.encrypt("parola", algorithm="RC4-128")


def launches(writer: PdfWriter) -> None:
    action = DictionaryObject({NameObject("/S"): NameObject("/Launch"), NameObject("/F"): TextStringObject("cmd.exe")})
    link = DictionaryObject({
        NameObject("/Type"): NameObject("/Annot"), NameObject("/Subtype"): NameObject("/Link"), NameObject("/A"): action
    })  # fmt: skip
    writer.pages[0][NameObject("/Annots")] = ArrayObject([writer._add_object(link)])


def open_action(writer: PdfWriter) -> None:
    action = DictionaryObject({NameObject("/S"): NameObject("/JavaScript"), NameObject("/JS"): TextStringObject("x")})
    writer.root_object[NameObject("/OpenAction")] = writer._add_object(action)


WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "there is no file"),
    "a picture": (b"\xff\xd8\xff\xe0 JFIF", "is no PDF"),
    "a page of the web": (b"<script>alert(1)</script>%PDF-1.7", "is no PDF"),
    "only its first bytes": (SCAN[:60], "does not open"),
    "noise": (b"%PDF-1.7\n" + bytes(range(256)) * 50, "does not open"),
    "no pages": (pdf(pages=0), "no pages"),
    "too many pages": (pdf(pages=MOST_PAGES + 1), f"{MOST_PAGES} at most"),
    "a program": (pdf(change=javascript), "does more than show pages"),
    "a program when it opens": (pdf(change=open_action), "does more than show pages"),
    "a program to start": (pdf(change=launches), "does more than show pages"),
    "another file in it": (pdf(change=attached), "does more than show pages"),
    "a password": (pdf(change=secret), "wants a password"),
    "too large": (SCAN + b"\0" * LARGEST_SCAN_BYTES, "more than 10 MB"),
}


def test_what_is_no_scan_is_refused_with_advice_and_nothing_is_lost(node: Node) -> None:
    id = node.written()
    digest = node.scanned(id).json["Sha256"]
    for name, (content, said) in WRONG.items():
        answer = node.scanned(id, content)
        assert (answer.status_code, said in answer.text) == (400, True), (name, answer.text)
    assert node.send("popa", "GET").json[0]["Sha256"] == digest, "the scan before is still there"
    assert node.confirmed(id, digest).status_code == 200
