"""What a node is told of patients' will, by hospitals and the hub: believed for its proofs, and kept to take away."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from joserfc.jwk import OKPKey
from werkzeug.test import Client

from contract.hub_region import Clock, consent
from contract.key_servers import region_document
from contract.test_key_servers import CNP, HOSPITALS, LOCAL, SERVERS, KeyRegion
from support.phone import Phone
from usmed.domain.consent_record import attest, consent_document
from usmed.domain.enrolment import Basis, Guardian, enrol
from usmed.domain.identifiers import Naming, PatientIdentifier
from usmed.domain.region import HUB, parse_region
from usmed.hospital.changes import Changes
from usmed.hospital.federation import FederationApplication
from usmed.hospital.release import Release
from usmed.hospital.store import CHAIN, ToldStore
from usmed.platform.audit_log import AuditLog
from usmed.platform.nonces import NonceStore
from usmed.platform.signed_http import Identity, SignedGuard
from usmed.platform.storage import open_database

NODE = "iasi"


@dataclass
class Node(KeyRegion):
    """The node of Iasi behind its guard, and the keys of everybody."""

    changes: Changes | None = None
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def tell(self, sender: str, *records: Any, enrolments: Collection[Any] = ()) -> list[str]:
        """Tell the node; return its problems."""
        body = {"records": [*records], "enrolments": [*enrolments]}
        answer = self.send(sender, NODE, "/federation/v1/records", body)
        assert answer.status_code == 200, answer.text
        return list(answer.json["problems"])

    def denied(self, patient: PatientIdentifier = CNP) -> list[str]:
        """Return the ids of the denials that the node knows of a patient."""
        assert self.changes is not None
        return sorted(one.id for one in self.changes.denials([patient]))


@pytest.fixture
def node(new_database_url: Callable[[], str]) -> Iterator[Node]:
    names = (HUB, *HOSPITALS, *SERVERS, *(f"{one}-admin" for one in SERVERS))
    keys = {name: OKPKey.generate_key("Ed25519", private=True) for name in names}
    database, clock = open_database(new_database_url(), [CHAIN]), Clock()
    audit = AuditLog(database)
    made = Node(parse_region(region_document(keys), "test"), keys, clock, {}, {NODE: audit}, {NODE: database})
    made.changes = Changes(
        region=lambda: made.manifest, store=ToldStore(database), audit=audit, clock=clock, changed=lambda patient: None
    )
    release = Release(
        hospital=NODE, naming=Naming(HOSPITALS[NODE], made.manifest.national_number), audit=audit, clock=clock,
        is_guest=lambda _: False, archive=None, permissions=None,  # type: ignore[arg-type] # nothing is released here
    )  # fmt: skip

    def refused(remote: str, sender: str, reason: str) -> None:
        made.refusals.append((sender, reason))

    identity, limit = Identity(NODE, keys[NODE]), 1 << 20
    guard = SignedGuard(
        FederationApplication(release, made.changes, identity, limit, refused),
        identity=identity, region=lambda: made.manifest, clock=clock, nonces=NonceStore(database), limit_bytes=limit,
        open_paths=frozenset(), refused=refused,
    )  # fmt: skip
    made.clients[NODE] = Client(guard)
    try:
        yield made
    finally:
        audit.close()
        database.close()


def test_the_hub_tells_what_a_patient_denied_with_a_passkey(node: Node) -> None:
    phone = Phone()
    denial = node.signed(phone, "denial-1", type="deny")
    assert "not enrolled for this patient" in node.tell(HUB, denial)[0]
    assert node.denied() == []
    enrolled = node.enrolment(CNP, credentials=[phone.credential])
    assert node.tell(HUB, denial, enrolments=[enrolled]) == []
    assert node.denied() == ["denial-1"]
    (event,) = [one for one in node.audits[NODE].tail() if one["event"] == "consent"]
    assert (event["agent"], event["detail"]["by"]) == (HUB, phone.id.hex())
    # Nothing is kept of the enrolment: it comes with each record that needs it.
    back = node.signed(phone, "denial-1", 2, type="deny", status="inactive")
    assert "not enrolled for this patient" in node.tell(HUB, back)[0]
    assert node.tell(HUB, back, enrolments=[enrolled]) == []
    assert node.denied() == []


def test_the_hubs_own_word_is_believed_nothing(node: Node) -> None:
    own, staff, now = Phone(b"the hub's"), ["ionescu", "popa"], node.clock()
    document = consent_document(consent(CNP.issuer, CNP.value, type="deny"), id="denial-1", version=1)
    for hospital in (HUB, "bacau"):
        proof = attest(node.keys[HUB], document, hospital=hospital, staff=staff, now=now)
        assert len(node.tell(HUB, {"document": document, "proof": proof})) == 1
        forged = enrol(node.keys[HUB], hospital=hospital, patient=[CNP], credentials=[own.credential], now=now)
        told = node.tell(HUB, own.record(document), enrolments=[{"hospital": hospital, "token": forged}])
        assert "not enrolled for this patient" in told[0]
    assert node.denied() == []


def test_a_passkey_counts_by_all_the_enrolments_that_come_with_it(node: Node) -> None:
    phone, mother = Phone(), Phone(b"mother")
    denial = node.signed(phone, "denial-1", patient=LOCAL, type="deny")
    enrolled, joined = node.enrolment(CNP, credentials=[phone.credential]), node.enrolment(CNP, LOCAL)
    assert node.tell("bacau", denial, enrolments=[joined])
    revoked = node.enrolment(CNP, by="iasi", revoked=[phone.id])
    assert "was revoked" in node.tell("bacau", denial, enrolments=[enrolled, joined, revoked])[0]
    assert node.tell("bacau", denial, enrolments=[enrolled, joined]) == []
    guardian = Guardian(Basis.GUARDIAN, node.clock() + timedelta(days=1))
    for_a_child = [node.enrolment(CNP, credentials=[mother.credential], guardian=guardian)]
    assert node.tell(HUB, node.signed(mother, "denial-2", type="deny"), enrolments=for_a_child) == []
    node.clock.advance(24 * 3600)
    again = node.signed(mother, "denial-3", type="deny")
    assert "is over" in node.tell(HUB, again, enrolments=for_a_child)[0]
    assert (node.denied(), node.denied(LOCAL)) == (["denial-2"], ["denial-1"])


def test_no_hospital_closes_anothers_patients_by_a_passkey(node: Node) -> None:
    thief = Phone(b"thief")
    number = PatientIdentifier(HOSPITALS[NODE], "7")
    denial = node.signed(thief, "denial-1", patient=number, type="deny")
    for enrolments in (
        [node.enrolment(number, by="bacau", credentials=[thief.credential])],
        [node.enrolment(LOCAL, credentials=[thief.credential])],
        [node.enrolment(LOCAL, credentials=[thief.credential]), node.enrolment(LOCAL, number)],
    ):
        assert "not enrolled for this patient" in node.tell("bacau", denial, enrolments=enrolments)[0]
    assert node.denied(number) == []


def test_the_portal_is_the_manifests(node: Node) -> None:
    phone = Phone()
    denial = node.signed(phone, "denial-1", type="deny")
    enrolled = [node.enrolment(CNP, credentials=[phone.credential])]
    manifest = node.manifest
    node.manifest = replace(manifest, portal="https://other.example")
    assert "another site" in node.tell(HUB, denial, enrolments=enrolled)[0]
    node.manifest = replace(manifest, portal="")
    assert "the region has no portal" in node.tell(HUB, denial, enrolments=enrolled)[0]
    node.manifest = manifest
    assert node.tell(HUB, denial, enrolments=enrolled) == []


@pytest.mark.parametrize(
    "enrolment",
    [None, 7, "x", [], {}, {"hospital": "bacau"}, {"hospital": ["bacau"], "token": "a.b.c"},
     *({"hospital": "bacau", "token": token} for token in (["a"], {}, "a.b.c"))],
)  # fmt: skip
def test_an_enrolment_that_is_none_proves_nothing_and_breaks_nothing(node: Node, enrolment: Any) -> None:
    denial = node.signed(Phone(), "denial-1", type="deny")
    on_paper = node.record("denial-2", type="deny")
    assert len(node.tell(HUB, denial, on_paper, enrolments=[enrolment])) == 1
    assert node.denied() == ["denial-2"]


def test_what_is_no_list_of_records_is_refused_and_told(node: Node) -> None:
    path = "/federation/v1/records"
    for body in ([], {}, {"records": []}, {"records": {}, "enrolments": []}, {"records": [1] * 101, "enrolments": []}):
        assert node.send(HUB, NODE, path, body).status_code == 400, body
    assert [sender for sender, _ in node.refusals] == [HUB] * 5
