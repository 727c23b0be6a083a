"""Three key servers, of which two are needed: what they sign, what they refuse, and what they remember."""

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OKPKey
from werkzeug.test import Client, TestResponse

from contract.hub_region import Clock, consent
from support.phone import Phone
from support.signed_region import sign_region
from support.wishes import wish_of
from usmed.domain.canonical import canonical_json
from usmed.domain.consent import Purpose
from usmed.domain.consent_record import attest, consent_document, read_record
from usmed.domain.enrolment import Basis, Guardian, enrol, read_enrolment
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.quorum import assemble, read_signature
from usmed.domain.region import HUB, RegionManifest, parse_region
from usmed.domain.request_signature import ANSWER_HEADER, sign_request, verify_answer
from usmed.domain.ticket import AccessTicket, Staff, thumbprint, verify_ticket
from usmed.domain.ticket_decision import propose
from usmed.keyserver.settings import KeyServerSettings
from usmed.keyserver.store import CHAIN
from usmed.keyserver.tickets import Rates
from usmed.keyserver.wsgi import build
from usmed.platform.audit_log import AuditLog
from usmed.platform.keys import public_key_text
from usmed.platform.storage import Database, open_database

CNP = PatientIdentifier("RO-CNP", "1630615123457")
LOCAL, OTHER = PatientIdentifier("BACAU", "9"), PatientIdentifier("BACAU", "10")
SERVERS = ["keys-1", "keys-2", "keys-3"]
HOSPITALS = {"iasi": "SF-SPIRIDON", "bacau": "BACAU"}
RATES = Rates(per_hour=3, per_day=5)
DIFFERS = "differs"
STAFF = Staff("ionescu", "radiologist")
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


@dataclass
class KeyRegion:
    """The servers behind test clients, and the keys of everybody."""

    manifest: RegionManifest
    keys: dict[str, OKPKey]
    clock: Clock
    clients: dict[str, Client]
    audits: dict[str, AuditLog]
    databases: dict[str, Database]

    def send(self, sender: str, server: str, path: str, document: Any) -> TestResponse:
        """Post a signed document; check that the answer is signed."""
        body, jti = canonical_json(document), secrets.token_urlsafe(18)
        authorization = sign_request(
            self.keys[sender], sender=sender, receiver=server, method="POST", target=path, body=body,
            now=self.clock(), jti=jti,
        )  # fmt: skip
        answer = self.clients[server].post(
            path, data=body, headers={"Authorization": authorization}, content_type="application/json"
        )
        if ANSWER_HEADER in answer.headers:
            verify_answer(
                answer.headers[ANSWER_HEADER], self.manifest.key_of, sender=server, receiver=sender, jti=jti,
                status=answer.status_code, body=answer.data,
            )  # fmt: skip
        return answer

    def record(
        self, id: str, patient: PatientIdentifier = CNP, version: int = 1, by: str = "iasi", **changes: Any
    ) -> Any:
        """Return a consent on paper, attested by a hospital."""
        provision = {"period": {"start": "2026-11-01", "end": "2027-06-01"}, **changes.pop("provision", {})}
        resource = consent(patient.issuer, patient.value, provision=provision, **changes)
        return self.attested(consent_document(resource, id=id, version=version), by)

    def attested(self, document: Any, by: str) -> Any:
        """Return a record of this document."""
        proof = attest(self.keys[by], document, hospital=by, staff=["ionescu", "popa"], now=self.clock())
        return {"document": document, "proof": proof}

    def enrolment(self, *patient: PatientIdentifier, by: str = "bacau", **content: Any) -> dict[str, str]:
        """Return an enrolment by a hospital, of some passkey unless another content is given."""
        content = content or {"credentials": [Phone(b"c").credential]}
        token = enrol(self.keys[by], hospital=by, patient=patient, now=self.clock(), **content)
        return {"hospital": by, "token": token}

    def signed(self, phone: Phone, id: str, version: int = 1, patient: PatientIdentifier = CNP, **changes: Any) -> Any:
        """Return a consent, without end, that a patient has signed."""
        resource = consent(patient.issuer, patient.value, provision={"period": {"start": "2026-11-01"}}, **changes)
        return phone.record(consent_document(resource, id=id, version=version))

    def give(self, *servers: str, records: list[Any] | None = None, enrolments: list[Any] | None = None) -> list[str]:
        """Bring records to servers; return the problems of the last."""
        problems: list[str] = []
        for server in servers or SERVERS:
            document = {"records": records or [], "enrolments": enrolments or []}
            answer = self.send("iasi", server, "/v1/records", document)
            assert answer.status_code == 200, answer.text
            problems = answer.json["problems"]
        return problems

    def propose(
        self, sender: str, records: list[Any], *patient: PatientIdentifier, enrolments: Any = ()
    ) -> AccessTicket:
        """Propose the ticket that these records allow."""
        read = [
            read_record(one, keys=self.manifest.key_of, credentials=lambda _: (), relying_party=None, now=self.clock())
            for one in records
        ]
        links = [
            read_enrolment(one["token"], hospital=one["hospital"], keys=self.manifest.key_of, now=self.clock())
            for one in enrolments
        ]
        return propose(
            jti=secrets.token_urlsafe(18),
            region="moldova",
            requester=sender,
            requester_key=self.keys[sender],
            staff=STAFF,
            patient=frozenset(patient or (CNP,)),
            purpose=Purpose.TREAT,
            records=read,
            enrolments=links,
            issued=self.clock(),
        )

    def ask(
        self, sender: str, server: str, ticket: Any, records: list[Any] | None = None, enrolments: Any = ()
    ) -> tuple[int, Any]:
        """Ask a server for a certain ticket; return status and answer, with `differs` as error if it signed another."""
        document = {"wish": wish_of(ticket), "records": records or [], "enrolments": [*enrolments]}
        answer = self.send(sender, server, "/v1/tickets", document)
        if answer.status_code == 200 and answer.json["ticket"] != ticket:
            # Signed, but another one: for whoever collects signatures of this one it is a refusal.
            return 200, {**answer.json, "error": DIFFERS}
        return answer.status_code, answer.json


@pytest.fixture
def region(new_database_url: Callable[[], str]) -> Iterator[KeyRegion]:
    keys = {name: OKPKey.generate_key("Ed25519", private=True) for name in (HUB, *HOSPITALS, *SERVERS)}
    administrators = [public_key_text(OKPKey.generate_key("Ed25519", private=True)) for _ in SERVERS]
    manifest = parse_region(
        {
            "version": 1, "region": "moldova", "name": "Regiunea Moldova", "issued": "2026-11-21T10:00:00Z",
            "expires": "2027-11-21T10:00:00Z",
            "national_number": {"issuer": "RO-CNP", "kind": "ro.cnp"},
            "portal": {"address": "https://portal.example"},
            "hub": {"address": "https://hub:8443", "public_key": public_key_text(keys[HUB])},
            "hospitals": [
                {"id": name, "name": name, "address": f"https://{name}:8043", "public_key": public_key_text(keys[name]),
                 "issuers": [issuer]}
                for name, issuer in HOSPITALS.items()
            ],
            "threshold": 2,
            "key_servers": [
                {"id": name, "name": name, "address": f"https://{name}:8044", "public_key": public_key_text(keys[name]),
                 "administrator": {"name": name, "public_key": administrator}}
                for name, administrator in zip(SERVERS, administrators, strict=True)
            ],
        },
        "test",
    )  # fmt: skip
    clock = Clock()
    databases = {name: open_database(new_database_url(), [CHAIN]) for name in SERVERS}
    audits = {name: AuditLog(one) for name, one in databases.items()}
    made = KeyRegion(manifest, keys, clock, {}, audits, databases)
    for name in SERVERS:
        settings = KeyServerSettings(name, keys[name], rates=RATES)
        made.clients[name] = Client(build(settings, lambda: made.manifest, databases[name], audits[name], clock))
    try:
        yield made
    finally:
        for name in SERVERS:
            audits[name].close()
            databases[name].close()


def test_two_of_three_sign_and_the_source_believes_it(region: KeyRegion) -> None:
    given = [region.record("consent-1", to="bacau")]
    assert region.give(records=given) == []
    ticket = region.propose("bacau", given)
    signatures = []
    for server in SERVERS[1:]:
        status, answer = region.ask("bacau", server, ticket.to_json())
        assert (status, answer["problems"]) == (200, [])
        key = region.manifest.key_server_key(server)
        assert key is not None
        signatures.append(read_signature(answer["signature"], document=ticket.to_json(), key=key, signer=server))
    believed = verify_ticket(
        assemble(ticket.to_json(), signatures), region.manifest.key_server_key, threshold=2, region="moldova",
        requester="bacau", requester_key=region.keys["bacau"], now=region.clock(),
    )  # fmt: skip
    assert believed == ticket
    events = region.audits["keys-2"].tail()
    assert [one["event"] for one in events] == ["consent", "decision"]
    assert events[-1]["outcome"] == "success"
    assert region.audits["keys-2"].verify().unbroken


def test_a_server_that_lacks_the_consent_learns_it_from_the_request(region: KeyRegion) -> None:
    given = [region.record("consent-1", to="bacau")]
    ticket = region.propose("bacau", given).to_json()
    assert region.ask("bacau", "keys-1", ticket)[1]["error"] == "no-consent"
    assert region.ask("bacau", "keys-1", ticket, given)[0] == 200
    # And keeps it.
    assert region.ask("bacau", "keys-1", region.propose("bacau", given).to_json())[0] == 200


def test_who_has_no_consent_gets_no_signature(region: KeyRegion) -> None:
    given = [region.record("consent-1", to="bacau")]
    region.give(records=given)
    for_bacau = region.propose("bacau", given)
    status, answer = region.ask("iasi", "keys-1", replace(for_bacau, requester="iasi").to_json())
    assert (status, answer["error"]) == (403, "no-consent")
    assert region.audits["keys-1"].tail()[-1]["outcome"] == "denied"
    # To send to Bacau it may ask, but what it gets is bound to its own key: nobody can receive by it.
    status, answer = region.ask("iasi", "keys-1", for_bacau.to_json())
    assert (status, answer["error"]) == (200, DIFFERS)
    assert answer["ticket"] == replace(for_bacau, key_thumbprint=thumbprint(region.keys["iasi"])).to_json()
    with pytest.raises(PeerDataError):
        region.propose("iasi", [{"document": {}, "proof": {}}])


def test_a_withdrawal_is_final_on_the_server_that_knows_it(region: KeyRegion) -> None:
    given = [region.record("consent-1", to="bacau")]
    region.give(records=given)
    withdrawal = region.record("consent-1", version=2, to="bacau", status="inactive")
    assert region.give("keys-1", "keys-2", records=[withdrawal]) == []
    # Two of three know it: no two can be found that do not.
    ticket = region.propose("bacau", given).to_json()
    answers = {server: region.ask("bacau", server, ticket, given) for server in SERVERS}
    assert [answers[server][0] for server in SERVERS] == [403, 403, 200]
    # An amendment that came in between does not save it.
    longer = {"period": {"start": "2026-11-01", "end": "2027-07-01"}}
    assert region.give("keys-3", records=[region.record("consent-1", version=2, to="bacau", provision=longer)]) == []
    assert region.give("keys-3", records=[withdrawal]) == []
    assert region.ask("bacau", "keys-3", ticket, given)[0] == 403
    # The requester's old copy does not undo it, and neither does anything newer.
    assert region.give("keys-1", records=given) == []
    assert region.ask("bacau", "keys-1", ticket, given)[0] == 403
    assert "withdrawn, which is final" in region.give("keys-1", records=[region.record("consent-1", version=3)])[0]


def test_a_server_that_knows_a_denial_refuses_and_tells_what_it_knows(region: KeyRegion) -> None:
    given = [region.record("consent-1", to="bacau")]
    region.give(records=given)
    denial = region.record("consent-2", type="deny", provision={"code": [{"coding": [{
        "system": "http://dicom.nema.org/resources/ontology/DCM", "code": "MR"}]}]})  # fmt: skip
    region.give("keys-2", records=[denial])
    ticket = region.propose("bacau", given).to_json()
    assert region.ask("bacau", "keys-1", ticket)[0] == 200
    status, answer = region.ask("bacau", "keys-2", ticket)
    assert (status, answer["error"]) == (200, DIFFERS)
    named = {"identifiers": [{"issuer": CNP.issuer, "value": CNP.value}]}
    held = region.send("bacau", "keys-2", "/v1/records/for", named).json
    assert held["records"] == [*given, denial]
    again = region.propose("bacau", held["records"])
    for server in SERVERS:
        assert region.ask("bacau", server, again.to_json(), held["records"])[0] == 200


def test_identifiers_are_joined_only_by_who_may(region: KeyRegion) -> None:
    given, link = [region.record("consent-1", to="iasi")], [region.enrolment(CNP, LOCAL)]
    region.give(records=given)
    ticket = region.propose("iasi", given, CNP, LOCAL, enrolments=link).to_json()
    # Not joined, it is a ticket for the number that the consent names.
    alone = region.ask("iasi", "keys-1", ticket)[1]["ticket"]
    assert alone["patient"] == [{"issuer": CNP.issuer, "value": CNP.value}]
    assert region.ask("iasi", "keys-1", ticket, enrolments=link)[0] == 200
    # iasi does not give out Bacau's numbers; the hub gives out none.
    for wrong in (region.enrolment(CNP, OTHER, by="iasi"), {"hospital": "iasi", "token": link[0]["token"]}, {}, "x"):
        assert len(region.give("keys-2", enrolments=[wrong])) == 1
    hub = {**link[0], "hospital": HUB}
    assert len(region.give("keys-2", enrolments=[hub])) == 1


def test_no_hospital_makes_one_patient_of_many(region: KeyRegion) -> None:
    """Else one emergency, or one patient of a rate, would be many."""
    second = PatientIdentifier(CNP.issuer, "2800101221145")
    both = region.enrolment(CNP, LOCAL, second)
    assert region.give("keys-1", enrolments=[both]) == ["enrolment: one person has one national number"]
    assert region.give("keys-1", enrolments=[region.enrolment(CNP, LOCAL)]) == []
    chained = region.enrolment(second, LOCAL)
    assert region.give("keys-1", enrolments=[chained]) == ["enrolment: one person has one national number"]
    many = [PatientIdentifier(LOCAL.issuer, f"many-{number}") for number in range(60)]
    assert region.give("keys-1", enrolments=[region.enrolment(LOCAL, *many[:30])]) == []
    more = region.enrolment(LOCAL, *many[30:])
    assert region.give("keys-1", enrolments=[more]) == ["enrolment: one person has at most 50 numbers"]


# ---- What patients sign ----


REFUSED = (
    "consent: the passkey is not enrolled for this patient, or was revoked, or the time of who acts for the patient is"
    " over: a hospital can enrol one"
)


def test_what_a_patient_signs_is_believed_where_the_passkey_is_enrolled(region: KeyRegion) -> None:
    phone = Phone()
    given = [region.signed(phone, "consent-1", to="bacau")]
    enrolled = region.enrolment(CNP, credentials=[phone.credential])
    assert region.give("keys-1", records=given) == [REFUSED]
    assert region.give("keys-1", records=given, enrolments=[enrolled]) == []
    stranger = region.signed(Phone(b"stranger"), "consent-2", to="bacau")
    assert region.give("keys-1", records=[stranger]) == [REFUSED]
    forged = region.signed(Phone(phone.id), "consent-2", to="bacau")
    assert region.give("keys-1", records=[forged]) == ["consent: the passkey's signature does not verify"]
    assert ticket_for_bacau(region, "keys-1") == 200
    # The patient takes it back alone; the audit log says by which passkey.
    assert region.give("keys-1", records=[region.signed(phone, "consent-1", 2, to="bacau", status="inactive")]) == []
    assert ticket_for_bacau(region, "keys-1") == 403
    (withdrawn,) = [one for one in region.audits["keys-1"].tail() if one["detail"].get("what") == "withdrawn"]
    assert (withdrawn["detail"]["proof"], withdrawn["detail"]["by"]) == ("passkey", phone.id.hex())


def ticket_for_bacau(region: KeyRegion, server: str) -> int:
    """Ask for a ticket by what the server itself holds; return the status."""
    like = region.propose("bacau", [region.record("consent-9", to="bacau")]).to_json()
    return region.ask("bacau", server, like)[0]


def test_the_portal_of_the_manifest_in_force_is_where_patients_sign(region: KeyRegion) -> None:
    phone, elsewhere = Phone(), Phone(b"elsewhere", "other.example")
    enrolled = region.enrolment(CNP, credentials=[phone.credential, elsewhere.credential])
    assert region.give("keys-1", records=[region.signed(phone, "consent-1")], enrolments=[enrolled]) == []
    at_another = region.signed(elsewhere, "consent-2")
    assert "another site" in region.give("keys-1", records=[at_another])[0]
    region.manifest = replace(region.manifest, portal="https://other.example")
    assert region.give("keys-1", records=[at_another]) == []
    assert "another site" in region.give("keys-1", records=[region.signed(phone, "consent-3")])[0]
    region.manifest = replace(region.manifest, portal="")
    assert "the region has no portal" in region.give("keys-1", records=[region.signed(phone, "consent-3")])[0]


def test_a_revoked_passkey_signs_nothing_more_and_what_it_signed_stays(region: KeyRegion) -> None:
    lost, new = Phone(b"lost"), Phone(b"new")
    before = region.signed(lost, "consent-1", to="bacau")
    region.give("keys-1", records=[before], enrolments=[region.enrolment(CNP, LOCAL, credentials=[lost.credential])])
    # Another hospital may say so, under another number that is known to be the same person's.
    revoked = region.enrolment(CNP, by="iasi", revoked=[lost.id])
    assert region.give("keys-1", enrolments=[revoked]) == []
    assert ticket_for_bacau(region, "keys-1") == 200
    for after in (
        region.signed(lost, "consent-2", to="iasi"),
        region.signed(lost, "consent-1", 2, to="iasi"),
        region.signed(lost, "consent-3", type="deny"),
        region.signed(lost, "consent-1", 2, to="bacau", status="inactive"),
        region.signed(lost, "consent-4", patient=LOCAL),
    ):
        assert region.give("keys-1", records=[after]) == [REFUSED]
    # It does not come back, by no hospital.
    again = [region.enrolment(CNP, by=by, credentials=[lost.credential]) for by in ("iasi", "bacau")]
    assert region.give("keys-1", records=[region.signed(lost, "consent-2")], enrolments=again) == [REFUSED]
    # The new phone changes what the lost one said.
    withdrawal = region.signed(new, "consent-1", 2, to="bacau", status="inactive")
    enrolled = region.enrolment(CNP, credentials=[new.credential])
    assert region.give("keys-1", records=[withdrawal], enrolments=[enrolled]) == []
    assert ticket_for_bacau(region, "keys-1") == 403
    events = [one["detail"] for one in region.audits["keys-1"].tail() if one["event"] == "identity"]
    assert [(one["passkeys"], one["revoked"], one["by"]) for one in events][:2] == [(1, 0, "bacau"), (0, 1, "iasi")]


def test_a_server_that_hears_of_a_signature_and_the_revocation_at_once_takes_both(region: KeyRegion) -> None:
    """Else one that was cut off would never hold what the patient had signed with the phone that is lost now."""
    lost, new = Phone(b"lost"), Phone(b"new")
    enrolments = [
        region.enrolment(CNP, credentials=[new.credential], revoked=[lost.id]),
        region.enrolment(CNP, credentials=[lost.credential]),
    ]
    records = [region.signed(new, "consent-2", to="iasi"), region.signed(lost, "consent-1", to="bacau")]
    assert region.give("keys-1", records=records, enrolments=enrolments) == []
    assert ticket_for_bacau(region, "keys-1") == 200
    assert region.give("keys-1", records=[region.signed(lost, "consent-3")]) == [REFUSED]


def test_who_acts_for_a_child_signs_until_the_day(region: KeyRegion) -> None:
    mother = Phone(b"mother")
    until = region.clock() + timedelta(days=30)
    enrolled = region.enrolment(CNP, credentials=[mother.credential], guardian=Guardian(Basis.PARENT, until))
    given = region.signed(mother, "consent-1", to="bacau")
    region.clock.advance(30 * 24 * 3600 - 1)
    assert region.give("keys-1", records=[given], enrolments=[enrolled]) == []
    region.clock.advance(1)
    # On every server, however it hears of it.
    assert region.give("keys-2", records=[given], enrolments=[enrolled]) == [REFUSED]
    withdrawal = region.signed(mother, "consent-1", 2, to="bacau", status="inactive")
    assert region.give("keys-1", records=[withdrawal]) == [REFUSED]
    assert ticket_for_bacau(region, "keys-1") == 200
    (event,) = [one["detail"] for one in region.audits["keys-1"].tail() if one["event"] == "identity"]
    assert event["guardian"] == "parent"


def test_the_hub_brings_what_patients_sign_and_is_believed_nothing_else(region: KeyRegion) -> None:
    phone = Phone()

    def bring(*records: Any, enrolments: Any = ()) -> Any:
        return region.send(HUB, "keys-1", "/v1/records", {"records": [*records], "enrolments": [*enrolments]}).json

    enrolled = region.enrolment(CNP, credentials=[phone.credential])
    given = region.signed(phone, "consent-1", to="bacau")
    assert bring(given, enrolments=[enrolled]) == {"problems": []}
    events = {one["event"]: one["agent"] for one in region.audits["keys-1"].tail()}
    assert events == {"identity": HUB, "consent": HUB}
    # What a hospital attests it may pass on, too.
    assert bring(region.record("consent-2", to="bacau")) == {"problems": []}
    # A consent that it attests itself, in its own name or in a hospital's.
    document = consent_document(consent(CNP.issuer, CNP.value, to="bacau"), id="consent-3", version=1)
    staff = ["ionescu", "popa"]
    for hospital in (HUB, "iasi"):
        proof = attest(region.keys[HUB], document, hospital=hospital, staff=staff, now=region.clock())
        assert len(bring({"document": document, "proof": proof})["problems"]) == 1
    # A passkey that it enrols itself; an enrolment that it shifts to another hospital; another document.
    own = Phone(b"the hub's")
    for hospital in (HUB, "iasi"):
        key, now = region.keys[HUB], region.clock()
        forged = enrol(key, hospital=hospital, patient=[CNP], credentials=[own.credential], now=now)
        told = bring(region.signed(own, "consent-4"), enrolments=[{"hospital": hospital, "token": forged}])
        assert (len(told["problems"]), told["problems"][1]) == (2, REFUSED)
    assert len(bring(enrolments=[{**enrolled, "hospital": "iasi"}])["problems"]) == 1
    widened = {**given, "document": {**given["document"], "version": 2}}
    assert bring(widened) == {"problems": ["consent: the passkey signed another document"]}
    # And it gets nothing.
    wish = wish_of(region.propose("bacau", [region.record("consent-2", to="bacau")]).to_json())
    named = {"identifiers": [{"issuer": CNP.issuer, "value": CNP.value}]}
    for path, body in (("/v1/records/for", named), ("/v1/tickets", {"wish": wish, "records": [], "enrolments": []})):
        assert region.send(HUB, "keys-1", path, body).status_code == 403
    assert region.send("keys-2", "keys-1", "/v1/records", {"records": [], "enrolments": []}).status_code == 403


def test_no_hospital_enrols_or_revokes_under_anothers_numbers(region: KeyRegion) -> None:
    phone, thief = Phone(), Phone(b"thief")
    region.give("keys-1", enrolments=[region.enrolment(LOCAL, credentials=[phone.credential])])
    for content in ({"credentials": [thief.credential]}, {"revoked": [phone.id]}):
        wrong = region.enrolment(LOCAL, by="iasi", **content)
        assert region.give("keys-1", enrolments=[wrong]) == ["enrolment: iasi does not assign numbers of BACAU"]
    assert region.give("keys-1", records=[region.signed(phone, "consent-1", patient=LOCAL)]) == []
    assert region.give("keys-1", records=[region.signed(thief, "consent-2", patient=LOCAL)]) == [REFUSED]


def test_a_hospital_attests_nothing_about_anothers_patients(region: KeyRegion) -> None:
    foreign = region.record("consent-1", LOCAL, by="iasi", to="iasi")
    assert region.give("keys-1", records=[foreign]) == ["consent: iasi does not assign numbers of BACAU"]
    own = region.record("consent-1", LOCAL, by="bacau", to="iasi")
    assert region.give("keys-1", records=[own]) == []
    # To take it back is open to all: it only takes away.
    withdrawal = region.record("consent-1", LOCAL, version=2, by="iasi", to="iasi", status="inactive")
    assert region.give("keys-1", records=[withdrawal]) == []


def test_more_patients_than_usual_need_administrators(region: KeyRegion) -> None:
    patients = [PatientIdentifier("BACAU", str(number)) for number in range(1, 8)]
    given = {one: region.record(f"consent-{one.value}", one, by="bacau", to="iasi") for one in patients}

    def ask(one: PatientIdentifier) -> str:
        status, answer = region.ask("iasi", "keys-1", region.propose("iasi", [given[one]], one).to_json(), [given[one]])
        return "signed" if status == 200 else str(answer["error"])

    assert [ask(one) for one in patients[:4]] == ["signed", "signed", "signed", "over-rate"]
    # Who was asked for already may be asked for again.
    assert ask(patients[0]) == "signed"
    region.clock.advance(3600)
    assert [ask(one) for one in patients[3:6]] == ["signed", "signed", "over-rate"]
    region.clock.advance(24 * 3600)
    assert ask(patients[6]) == "signed"


def test_under_an_expired_manifest_nothing_is_signed(region: KeyRegion) -> None:
    given = [region.record("consent-1", to="bacau")]
    ticket = region.propose("bacau", given).to_json()
    region.manifest = replace(region.manifest, expires=region.clock() + timedelta(seconds=1))
    assert region.ask("bacau", "keys-1", ticket, given)[0] == 200
    region.clock.advance(1)
    status, answer = region.ask("bacau", "keys-1", ticket, given)
    assert (status, answer["error"]) == (403, "region-expired")
    assert "version 1, expired at 2026-11-21 10:00 UTC" in answer["message"]
    assert region.audits["keys-1"].tail()[-1]["reason"].startswith("region-expired: ")
    # What it is told, it takes in all the same: a withdrawal must not wait for administrators.
    assert region.give(records=[region.record("consent-1", version=2, to="bacau", status="inactive")]) == []


def test_bad_requests_are_refused_and_change_nothing(region: KeyRegion) -> None:
    given = [region.record("consent-1", to="bacau")]
    good = region.propose("bacau", given).to_json()
    wish = wish_of(good)
    for ticket in (None, [], {}, {**wish, "more": 1}, {**wish, "life": 0}, {**wish, "jti": "short"}):
        assert region.ask("bacau", "keys-1", ticket, given)[0] == 400
    forged = replace(region.propose("bacau", given), requester="iasi").to_json()
    assert region.ask("bacau", "keys-1", forged, given)[1]["error"] == "no-consent"
    for path, document in (
        ("/v1/records", {"records": {}, "enrolments": []}),
        ("/v1/records", {"records": []}),
        ("/v1/records", {"records": [1] * 101, "enrolments": []}),
        ("/v1/records/for", {"identifiers": []}),
        ("/v1/records/for", {"identifiers": [{"issuer": "A"}]}),
        ("/v1/tickets", {"wish": wish_of(good)}),
    ):
        assert region.send("bacau", "keys-1", path, document).status_code == 400, (path, document)
    assert region.send("bacau", "keys-1", "/v1/nothing", {}).status_code == 404
    assert len(region.give("keys-2", records=[None, {}, {**given[0], "proof": {"kind": "staff"}}])) == 3
    named = {"identifiers": [{"issuer": CNP.issuer, "value": CNP.value}]}
    assert region.send("bacau", "keys-2", "/v1/records/for", named).json == {"records": [], "enrolments": []}
    assert region.clients["keys-1"].get("/health").status_code == 200
    assert region.clients["keys-1"].post("/v1/tickets", data=b"{}").status_code == 401
    assert region.audits["keys-1"].verify().unbroken


# ---- As a process ----


@dataclass
class Installed:
    """A key server as its administrator sets it up: files and settings."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *arguments: Any, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "usmed", *map(str, arguments)],
            env={**self.environment, **changes}, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture
def installed(tmp_path: Path, database_url: str) -> Installed:
    (tmp_path / "passphrase").write_text("corect cal baterie capsă\n", "utf-8")
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(PLUGINS), "LC_ALL": "C.UTF-8", "USMED_DATABASE_URL": database_url,
        "USMED_PASSPHRASE_FILE": str(tmp_path / "passphrase"), "USMED_KEYSERVER_ID": "keys-1",
        "USMED_PRIVATE_KEY_FILE": str(tmp_path / "key.pem"), "USMED_REGION_FILE": str(tmp_path / "region.json"),
        "USMED_TLS_CERTIFICATE_FILE": str(tmp_path / "tls.pem"),
        "USMED_TLS_PRIVATE_KEY_FILE": str(tmp_path / "tls.pem.key"), "USMED_LISTEN_ADDRESS": "127.0.0.1",
    }  # fmt: skip
    one = Installed(tmp_path, environment)
    made = one("keyserver", "key", "--out", tmp_path / "key.pem")
    assert made.returncode == 0, made.stderr
    others = [public_key_text(OKPKey.generate_key("Ed25519", private=True)) for _ in range(2)]
    administrator = OKPKey.generate_key("Ed25519", private=True)
    manifest = {
        "version": 1, "region": "moldova", "name": "Moldova", "issued": "2026-11-21T10:00:00Z",
        "expires": "2096-11-21T10:00:00Z", "threshold": 1,
        "hub": {"address": "https://localhost:8443", "public_key": others[0]},
        "hospitals": [
            {"id": "iasi", "name": "Iași", "address": "https://iasi:8043", "public_key": others[1], "issuers": ["A"]}
        ],
        "key_servers": [
            {"id": "keys-1", "name": "Chei 1", "address": "https://localhost:8044", "public_key": made.stdout.strip(),
             "administrator": {"name": "A. Unu", "public_key": public_key_text(administrator)}}
        ],
    }  # fmt: skip
    (tmp_path / "region.json").write_bytes(sign_region(manifest, {"keys-1": administrator}))
    assert one("keys", "certificate", "--host", "localhost", "--out", tmp_path / "tls.pem").returncode == 0
    return one


def test_the_key_is_nowhere_in_the_clear(installed: Installed) -> None:
    key = (installed.folder / "key.pem").read_text("ascii")
    assert key.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert (installed.folder / "key.pem").stat().st_mode & 0o077 == 0
    again = installed("keyserver", "key", "--out", installed.folder / "key.pem")
    assert again.returncode == 2
    assert "exists already" in again.stderr
    (installed.folder / "passphrase").write_text("prea scurt")
    short = installed("keyserver", "key", "--out", installed.folder / "other.pem")
    assert "must have 12 characters or more" in short.stderr
    assert not (installed.folder / "other.pem").exists()


def test_wrong_settings_are_told_all_at_once_and_nothing_starts(installed: Installed) -> None:
    refused = installed(
        "keyserver", "serve", USMED_KEYSERVER_ID="keys-9", USMED_PATIENTS_PER_HOUR="many", USMED_MAXIMUM_BODY_BYTES="1"
    )
    assert refused.returncode == 2
    for fault in ("there is no key server 'keys-9'", "USMED_PATIENTS_PER_HOUR must", "USMED_MAXIMUM_BODY_BYTES must"):
        assert fault in refused.stderr
    (installed.folder / "passphrase").write_text("another passphrase")
    assert "cannot be opened with this passphrase" in installed("keyserver", "serve").stderr
    nobody = installed("keyserver", "serve", USMED_PASSPHRASE_FILE="")
    assert "there is no terminal to ask at" in nobody.stderr
    assert "Traceback" not in refused.stderr + nobody.stderr


def test_it_serves_over_tls_and_stops_on_sigterm(installed: Installed) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**installed.environment, "USMED_KEYSERVER_PORT": str(port)}
    context = ssl.create_default_context(cafile=str(installed.folder / "tls.pem"))
    command = [sys.executable, "-m", "usmed", "keyserver", "serve"]
    process = subprocess.Popen(command, cwd=installed.folder, env=environment)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"https://localhost:{port}/health", context=context, timeout=5) as answer:
                    assert json.load(answer)["status"] == "ok"
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    events = [json.loads(one) for one in installed("audit", "tail").stdout.splitlines()]
    assert [one["detail"]["what"] for one in events] == ["region manifest", "started", "stopped"]
    assert "unbroken" in installed("audit", "verify").stdout


def test_what_is_not_taken_is_in_the_audit_log(region: KeyRegion) -> None:
    record = region.record("consent-1", to="bacau")
    record["document"]["version"] = 7
    problems = region.give(records=[record])
    assert len(problems) == 1
    refused = region.audits["keys-1"].tail()[-1]
    assert (refused["event"], refused["outcome"], refused["reason"]) == ("refused", "denied", problems[0])
    assert refused["detail"] == {"what": "records", "problems": 1}
