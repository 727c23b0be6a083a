"""Access tickets that are not what they say: whatever is tried, the source gives nothing, records it, and goes on.

A is a real node, the key servers are real, and the attacker has more than an attacker would: every private key, so that
each of A's checks is met alone. B and D are hospitals of which only the keys exist.
"""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc.jwk import OKPKey

from e2e import signed
from e2e.studies import NATIONAL_ISSUER, Patient, Study, national_number
from simulators.peer import Peer
from support.key_server import KeyServer
from support.phone import Phone
from support.region import Hospital, Hub, Region, eventually, on_paper, permit
from usmed.domain.canonical import base64url, base64url_decode, canonical_json
from usmed.domain.consent import Provision, ProvisionType, Purpose
from usmed.domain.consent_record import attest, consent_document
from usmed.domain.enrolment import enrol
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.quorum import assemble, sign
from usmed.domain.region import HUB
from usmed.domain.request_signature import sign_request
from usmed.domain.ticket import AccessTicket, Staff, parse_ticket, thumbprint
from usmed.domain.ticket_wish import TicketWish

STUDY = Study("of the patient", Patient(national_number(700)), instances=2)
OTHERS = Study("of somebody else", Patient(national_number(701)), instances=1)
PATIENT, VICTIM = (PatientIdentifier(NATIONAL_ISSUER, one.patient.number) for one in (STUDY, OTHERS))
STRANGER = OKPKey.generate_key("Ed25519", private=True)


@dataclass
class World:
    """A with two patients' studies: the first has permitted B, the second nobody. `ticket` is B's genuine one."""

    region: Region
    a: Hospital
    b: Peer
    d: Peer
    servers: tuple[KeyServer, ...]
    ticket: AccessTicket

    def keys(self, count: int = 2) -> dict[str, OKPKey]:
        """Return private keys of key servers, by id."""
        return {one.id: one.key for one in self.servers[:count]}

    def by_servers(self, ticket: AccessTicket | dict[str, Any], count: int = 2) -> dict[str, Any]:
        """Return a ticket as it would be if key servers signed it."""
        document = ticket.to_json() if isinstance(ticket, AccessTicket) else ticket
        return assemble(document, [sign(key, signer=id, document=document) for id, key in self.keys(count).items()])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("attacks")
    a = Hospital("a", "Spitalul A", "A", folder / "a", section={"Pull": {"Automatic": "click"}})
    b, d = Peer("b", "B", folder / "b"), Peer("d", "D", folder / "d")
    servers = tuple(KeyServer(f"keys-{number}", folder / f"keys-{number}") for number in (1, 2, 3))
    region = Region(folder, [a], Hub(folder / "hub"), servers, threshold=2)
    try:
        region.start([b.member(), d.member()])
        for file in (*STUDY.files(), *OTHERS.files()):
            a.store(file)
        done = a.attest(on_paper(permit(NATIONAL_ISSUER, PATIENT.value, recipients=["b"])))
        assert done["Attested"]["Done"]
        yield World(region, a, b, d, servers, _granted(servers[0], b))
    finally:
        for one in (b, d):
            one.stop()
        region.stop()


def _granted(server: KeyServer, hospital: Peer) -> AccessTicket:
    """Let a real key server build and sign a ticket."""
    answer = _ask(server, hospital.id, hospital.key, "/v1/tickets", _wish(hospital.id))
    assert answer.status_code == 200, answer.text
    return parse_ticket(answer.json()["ticket"])


def _wish(recipient: str, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "jti": secrets.token_urlsafe(18), "recipient": recipient, "staff": Staff("ionescu", "radiologist"),
        "patient": frozenset({PATIENT}), "purpose": Purpose.TREAT, "issued": _now(), **changes,
    }  # fmt: skip
    return {"wish": TicketWish(**arguments).to_json(), "records": [], "enrolments": []}


def _ask(server: KeyServer, sender: str, key: OKPKey, path: str, document: Any, **changes: Any) -> requests.Response:
    body = canonical_json(document)
    arguments: dict[str, Any] = {
        "sender": sender, "receiver": server.id, "method": "POST", "target": path, "body": body, "now": _now(),
        "jti": secrets.token_urlsafe(18), **changes,
    }  # fmt: skip
    return requests.post(
        f"https://{server.address}:{server.port}{path}", data=body, verify=str(server.certificate_file), timeout=30,
        headers={"Content-Type": "application/json", "Authorization": sign_request(key, **arguments)},
    )  # fmt: skip


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _request(ticket: Any, study: Study = STUDY, purpose: str = "TREAT") -> dict[str, Any]:
    named = [(NATIONAL_ISSUER, study.patient.number)]
    return {**signed.of_study(study.uid, named, purpose), "ticket": ticket}


def _payload(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[World], Any]:
    """Exchange the payload and keep the signatures over the true one."""

    def attack(world: World) -> Any:
        true = world.by_servers(world.ticket)
        return {**true, "payload": base64url(canonical_json(change(world.ticket.to_json())))}

    return attack


def _raw(change: Callable[[bytes], bytes]) -> Callable[[World], Any]:
    """Let key servers sign bytes that are not the canonical ones."""

    def attack(world: World) -> Any:
        payload = base64url(change(canonical_json(world.ticket.to_json())))
        signatures = []
        for id, key in world.keys().items():
            protected = base64url(canonical_json({"alg": "Ed25519", "kid": id}))
            raw = key.raw_value.sign(f"{protected}.{payload}".encode())
            signatures.append({"protected": protected, "signature": base64url(raw)})
        return {"payload": payload, "signatures": signatures}

    return attack


def _headers(header: Callable[[str], dict[str, Any]], make: Callable[[World, str, bytes], bytes]) -> Any:
    """Sign with another algorithm than the one that counts."""

    def attack(world: World) -> Any:
        payload = base64url(canonical_json(world.ticket.to_json()))
        signatures = []
        for id in ("keys-1", "keys-2"):
            protected = base64url(canonical_json(header(id)))
            signatures.append(
                {"protected": protected, "signature": base64url(make(world, id, f"{protected}.{payload}".encode()))}
            )
        return {"payload": payload, "signatures": signatures}

    return attack


def _hs256(world: World, id: str, data: bytes) -> bytes:
    public = world.servers[int(id[-1]) - 1].public_key
    return hmac.new(base64url_decode(public), data, hashlib.sha256).digest()


def _changed(**changes: Any) -> Callable[[World], Any]:
    """Let key servers sign another ticket, as if k of them were bought: what the source still checks by itself."""
    return lambda world: world.by_servers(replace(world.ticket, **changes))


def _as(signer: str, key: Callable[[World], OKPKey]) -> Callable[[World], Any]:
    """One true signature, and one by somebody whose signature does not count."""

    def attack(world: World) -> Any:
        document = world.ticket.to_json()
        true = sign(world.servers[0].key, signer="keys-1", document=document)
        return assemble(document, [true, sign(key(world), signer=signer, document=document)])

    return attack


def _twice(world: World) -> Any:
    one = world.by_servers(world.ticket, 1)
    return {**one, "signatures": one["signatures"] * 2}


HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
CT_ONLY = (Provision(ProvisionType.PERMIT, modalities=frozenset({"MR"})),)
DENIED = (Provision(ProvisionType.PERMIT), Provision(ProvisionType.DENY, studies=frozenset({STUDY.uid})))

TICKETS: dict[str, Callable[[World], Any]] = {
    "none": lambda _: None,
    "k-1 signatures": lambda world: world.by_servers(world.ticket, 1),
    "the same server twice": _twice,
    "no signature": lambda world: {**world.by_servers(world.ticket), "signatures": []},
    "33 signatures": lambda world: {
        **world.by_servers(world.ticket), "signatures": world.by_servers(world.ticket)["signatures"] * 17
    },
    "a removed server": _as("keys-9", lambda _: STRANGER),
    "a stranger under a server's name": _as("keys-2", lambda _: STRANGER),
    "the requester itself": _as("b", lambda world: world.b.key),
    "the source itself": _as("a", lambda world: world.a.key),
    "the hub": _as(HUB, lambda world: world.region.hub.key),
    "a server under another's name": _as("keys-2", lambda world: world.servers[2].key),
    "an administrator instead of a server": _as("keys-2", lambda world: world.servers[1].administrator),
    "expired": _changed(issued=_now() - HOUR, expires=_now() - 2 * MINUTE),
    "not yet valid": _changed(issued=_now() + 30 * MINUTE, expires=_now() + 45 * MINUTE),
    "longer than a ticket lives": _changed(expires=_now() + 3 * HOUR),
    "of another region": _changed(region="another"),
    "of another patient": _changed(patient=frozenset({VICTIM})),
    "of another hospital": _changed(requester="d"),
    "bound to another key": _changed(key_thumbprint=thumbprint(STRANGER)),
    "for another purpose": _changed(purpose=Purpose.HRESCH),
    "an emergency without a second person": lambda world: world.by_servers(
        {**world.ticket.to_json(), "purpose": "ETREAT"}
    ),
    "of another kind of study": _changed(scope=CT_ONLY),
    "of a study that the patient denies": _changed(scope=DENIED),
    "that permits nothing": _changed(scope=()),
    "scope widened after signing": _payload(lambda one: {**one, "scope": [{"type": "permit"}], "exp": one["exp"] + 1}),
    "patient added after signing": _payload(
        lambda one: {**one, "patient": [*one["patient"], {"issuer": VICTIM.issuer, "value": VICTIM.value}]}
    ),
    "hospital exchanged after signing": _payload(lambda one: {**one, "sub": "d"}),
    "end moved after signing": _payload(lambda one: {**one, "exp": one["exp"] + 60}),
    "algorithm none": _headers(lambda id: {"alg": "none", "kid": id}, lambda *_: b""),
    "HS256 with the public key": _headers(lambda id: {"alg": "HS256", "kid": id}, _hs256),
    "no algorithm": _headers(lambda id: {"kid": id}, lambda *_: b"x" * 64),
    "a critical header": _headers(lambda id: {"alg": "Ed25519", "kid": id, "crit": ["b64"]}, lambda *_: b"x" * 64),
    "a signature too short": _headers(lambda id: {"alg": "Ed25519", "kid": id}, lambda *_: b"x" * 63),
    "a signature too long": _headers(lambda id: {"alg": "Ed25519", "kid": id}, lambda *_: b"x" * 65),
    "an unprotected header": lambda world: {
        **world.by_servers(world.ticket),
        "signatures": [{**one, "header": {}} for one in world.by_servers(world.ticket)["signatures"]],
    },
    "duplicate members": _raw(lambda data: data.replace(b'"sub":"b"', b'"sub":"d","sub":"b"')),
    "not canonical: spaces": _raw(lambda data: data.replace(b":", b": ", 1)),
    "not canonical: order": _raw(lambda data: json.dumps(dict(reversed(json.loads(data).items()))).encode()),
    "not UTF-8": _raw(lambda data: data.replace(b"ionescu", b"ionesc\xff")),
    "deeply nested": _raw(lambda _: b"[" * 20_000 + b"]" * 20_000),
    "too large": _raw(lambda data: data[:-1] + b',"x":"' + b"y" * 100_000 + b'"}'),
    "an unknown member": lambda world: world.by_servers({**world.ticket.to_json(), "admin": True}),
    "an unknown type": lambda world: world.by_servers({**world.ticket.to_json(), "typ": "usmed-access-ticket-2"}),
    "a compact JWS": lambda world: ".".join(
        [world.by_servers(world.ticket)["signatures"][0]["protected"], world.by_servers(world.ticket)["payload"], ""]
    ),
    "a list": lambda world: [world.by_servers(world.ticket)],
    "a number": lambda _: 7,
}  # fmt: skip


REASONS = {
    "none": "the request carries no access ticket",
    "k-1 signatures": "1 of the 2 signatures",
    "the same server twice": "'keys-1' has signed twice, which counts once",
    "no signature": "a signed document has 1 to 32 signatures",
    "33 signatures": "a signed document has 1 to 32 signatures",
    "a removed server": "'keys-9' is nobody whose signature counts",
    "a stranger under a server's name": "the signature of 'keys-2' does not verify",
    "the requester itself": "'b' is nobody whose signature counts",
    "the source itself": "'a' is nobody whose signature counts",
    "the hub": "'hub' is nobody whose signature counts",
    "a server under another's name": "the signature of 'keys-2' does not verify",
    "an administrator instead of a server": "the signature of 'keys-2' does not verify",
    "expired": "the access ticket has expired",
    "not yet valid": "the access ticket is not valid yet: check both clocks",
    "longer than a ticket lives": "ticket: lives from iat to exp, at most 3600 s",
    "of another region": "the access ticket is of another region",
    "of another patient": "the access ticket is another patient's",
    "of another hospital": "the access ticket was issued to another hospital",
    "bound to another key": "the access ticket is bound to another key than the one that signed the",
    "for another purpose": "the access ticket is for HRESCH, the request for TREAT",
    "an emergency without a second person": "ticket: an emergency needs a second member of staff, not the same one",
    "of another kind of study": "no consent permits it",
    "of a study that the patient denies": "denied by the patient",
    "that permits nothing": "no consent permits it",
    "scope widened after signing": "the signature of 'keys-1' does not verify",
    "patient added after signing": "the signature of 'keys-1' does not verify",
    "hospital exchanged after signing": "the signature of 'keys-1' does not verify",
    "end moved after signing": "the signature of 'keys-1' does not verify",
    "algorithm none": "a signature has not 64 bytes",
    "HS256 with the public key": "a signature has not 64 bytes",
    "no algorithm": "a signature's header is not exactly alg Ed25519 and kid",
    "a critical header": "a signature's header is not exactly alg Ed25519 and kid",
    "a signature too short": "a signature has not 64 bytes",
    "a signature too long": "a signature has not 64 bytes",
    "an unprotected header": "a signature has exactly the members protected and signature",
    "duplicate members": "not JSON: an object names a member twice",
    "not canonical: spaces": "the signed document is not in canonical form",
    "not canonical: order": "the signed document is not in canonical form",
    "not UTF-8": "JSON is not UTF-8",
    "deeply nested": "JSON is nested deeper than 32",
    "too large": "the signed document is no text or over the limit of 65536 bytes",
    "an unknown member": "ticket: has exactly the members aud, cnf, consents, exp, iat, jti, pat",
    "an unknown type": "ticket: typ is another one",
    "a compact JWS": "a signed document has exactly the members payload and signatures",
    "a list": "a signed document has exactly the members payload and signatures",
    "a number": "a signed document has exactly the members payload and signatures",
}
"""Why A refuses each, as it stands in its audit log: by just the check that is meant."""


def test_the_genuine_ticket_opens_the_study(world: World) -> None:
    """Else none of the others would say anything."""
    ticket = world.by_servers(world.ticket)
    assert signed.send(world.b, world.a, signed.MANIFEST, _request(ticket)).status_code == 200
    found = signed.send(world.b, world.a, signed.LOOKUP, _lookup(ticket)).json()["answers"]
    assert [one["study_instance_uid"] for one in found] == [STUDY.uid]


@pytest.mark.parametrize("name", TICKETS)
def test_a_ticket_that_is_not_what_it_says(world: World, name: str) -> None:
    ticket = TICKETS[name](world)
    before = _denied(world)
    answer = signed.send(world.b, world.a, signed.MANIFEST, _request(ticket))
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown"), answer.text
    # A lookup gets what is said about nobody.
    found = signed.send(world.b, world.a, signed.LOOKUP, _lookup(ticket))
    assert (found.status_code, found.json()) == (200, {"answers": []})
    assert eventually(lambda: _denied(world) >= before + 2, 5, "both are in the audit log")
    assert REASONS[name] in _reasons(world)[-1]
    test_the_genuine_ticket_opens_the_study(world)


def _lookup(ticket: Any) -> dict[str, Any]:
    return {**signed.lookup([(NATIONAL_ISSUER, PATIENT.value)]), "ticket": ticket}


def _reasons(world: World) -> list[str]:
    return [one["reason"] for one in world.a.audit() if one.get("outcome") == "denied" and "reason" in one]


def _denied(world: World) -> int:
    return sum(one.get("outcome") == "denied" and one.get("agent") == "b" for one in world.a.audit())


def test_a_ticket_is_of_use_to_nobody_else(world: World) -> None:
    """Replayed by another node; and a request replayed as it was."""
    ticket = world.by_servers(world.ticket)
    assert signed.send(world.d, world.a, signed.MANIFEST, _request(ticket)).status_code == 404
    once = {"jti": secrets.token_urlsafe(18)}
    assert signed.send(world.b, world.a, signed.MANIFEST, _request(ticket), signed=once).status_code == 200
    again = signed.send(world.b, world.a, signed.MANIFEST, _request(ticket), signed=once)
    assert again.status_code == 401
    assert signed.send(world.b, world.a, signed.MANIFEST, _request(ticket), late=5 * MINUTE).status_code == 401


def test_a_ticket_opens_no_other_patients_study(world: World) -> None:
    ticket = world.by_servers(world.ticket)
    for document in (
        _request(ticket, OTHERS),
        {**_request(ticket), "study_instance_uid": OTHERS.uid},
        {**_request(ticket), "study_instance_uid": OTHERS.uid, "identifiers": []},
        _request(ticket, STUDY, "ETREAT"),
    ):
        assert signed.send(world.b, world.a, signed.MANIFEST, document).status_code == 404
    sop = OTHERS.sop_uid(1, 1)
    instances = {**_request(ticket), "instances": [[0, sop]]}
    assert signed.send(world.b, world.a, signed.INSTANCES, instances).status_code == 404


def test_what_key_servers_do_not_sign(world: World) -> None:
    """Proofs that are none: of the hub, of one person who counts as two, of a stranger, of a moment that has passed."""
    server, now = world.servers[0], _now()
    resource = on_paper(permit(NATIONAL_ISSUER, VICTIM.value, recipients=["b"]))
    document = consent_document(resource, id="forged-by-somebody", version=1)

    def brought(key: OKPKey, hospital: str, staff: list[str], moment: datetime = now) -> list[str]:
        proof = attest(key, document, hospital=hospital, staff=staff, now=moment)
        body = {"records": [{"document": document, "proof": proof}], "enrolments": []}
        return list(_ask(server, "b", world.b.key, "/v1/records", body).json()["problems"])

    hub = world.region.hub.key
    two = ["ionescu", "popa"]
    assert brought(hub, HUB, two)
    assert brought(hub, "a", two)
    assert brought(STRANGER, "b", two)
    assert brought(world.b.key, "b", ["ionescu", " IONESCU "])
    assert brought(world.b.key, "b", two, now + HOUR)
    passkeys = [Phone(b"c").credential]
    token = enrol(hub, hospital=HUB, patient=[VICTIM], credentials=passkeys, now=now)
    for hospital in (HUB, "a"):
        swapped = {"records": [], "enrolments": [{"hospital": hospital, "token": token}]}
        assert _ask(server, "b", world.b.key, "/v1/records", swapped).json()["problems"]
    wishes = {
        "nobody's consent": _wish("b", patient=frozenset({VICTIM})),
        "for research": _wish("b", purpose=Purpose.HRESCH),
        "for longer": _wish("b", life=2 * HOUR),
        "of yesterday": _wish("b", issued=now - timedelta(days=1)),
        "for a hospital that is none": _wish("nowhere"),
        "for whom it is not permitted": _wish("d"),
    }
    for name, wish in wishes.items():
        assert _ask(server, "b", world.b.key, "/v1/tickets", wish).status_code == 403, name
    for sender, key in ((HUB, hub), ("keys-2", world.servers[1].key)):
        assert _ask(server, sender, key, "/v1/tickets", _wish("b")).status_code == 403
    assert _ask(server, "b", STRANGER, "/v1/tickets", _wish("b")).status_code == 401
    assert _ask(server, "b", world.b.key, "/v1/tickets", _wish("b"), now=now - 5 * MINUTE).status_code == 401
    assert _ask(server, "b", world.b.key, "/v1/tickets", _wish("b"), receiver="keys-2").status_code == 401
    denied = [one for one in server.audit() if one.get("outcome") == "denied"]
    assert len(denied) >= len(wishes) + 4
    assert _granted(server, world.b).requester == "b"


def test_a_source_believes_no_denial_about_numbers_of_its_own_that_others_attest(world: World) -> None:
    """Else one hospital could close another's patients to everybody."""
    resource = permit("A", "local-1", kind="deny")
    document = consent_document(resource, id="denied-by-somebody", version=1)
    proof = attest(world.b.key, document, hospital="b", staff=["ionescu", "popa"], now=_now())
    told = {"records": [{"document": document, "proof": proof}], "enrolments": []}
    answer = signed.send(world.b, world.a, "/federation/v1/records", told)
    assert answer.json() == {"problems": ["b does not assign numbers of A"]}


def test_the_hub_cannot_hold_a_withdrawal_back(world: World) -> None:
    """It goes to key servers and hospitals past the hub; a ticket that was signed before is heeded by nobody."""
    entry = world.a.attest(on_paper(permit(NATIONAL_ISSUER, VICTIM.value, recipients=["b"])))
    answer = _ask(world.servers[0], "b", world.b.key, "/v1/tickets", _wish("b", patient=frozenset({VICTIM})))
    ticket = world.by_servers(parse_ticket(answer.json()["ticket"]))
    assert signed.send(world.b, world.a, signed.MANIFEST, _request(ticket, OTHERS)).status_code == 200
    world.region.hub.stop()
    try:
        world.a.withdraw(entry["Attested"]["ID"])
        assert signed.send(world.b, world.a, signed.MANIFEST, _request(ticket, OTHERS)).status_code == 404
        for server in world.servers:
            refused = _ask(server, "b", world.b.key, "/v1/tickets", _wish("b", patient=frozenset({VICTIM})))
            assert refused.status_code == 403
    finally:
        world.region.hub.start()


def test_a_ticket_ends_with_the_consent_that_it_rests_on(world: World) -> None:
    """Between the ticket and its use the consent ends: long before a ticket would."""
    end = _now() + timedelta(seconds=4)
    period = {"start": "2026-01-01", "end": end.isoformat()}
    patient = {"patient": frozenset({VICTIM})}
    world.a.attest(on_paper(permit(NATIONAL_ISSUER, VICTIM.value, recipients=["b"], period=period)))
    answer = _ask(world.servers[0], "b", world.b.key, "/v1/tickets", _wish("b", **patient))
    granted = parse_ticket(answer.json()["ticket"])
    assert granted.expires == end
    ticket = world.by_servers(granted)
    assert signed.send(world.b, world.a, signed.MANIFEST, _request(ticket, OTHERS)).status_code == 200
    time.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()))
    assert signed.send(world.b, world.a, signed.MANIFEST, _request(ticket, OTHERS)).status_code == 404
    assert _reasons(world)[-1] == "the access ticket has expired"
    assert _ask(world.servers[0], "b", world.b.key, "/v1/tickets", _wish("b", **patient)).status_code == 403


def test_the_region_manifest_neither_goes_back_nor_is_changed_by_a_minority(world: World) -> None:
    """The next version is taken up while the node runs; what does not follow is not."""
    region, file = world.region, Path(world.region.file)
    first = file.read_bytes()
    extra = [world.b.member(), world.d.member()]
    # k-1 administrators, of a version without D.
    region.write_manifest(extra[:1], version=2)
    one = json.loads(file.read_bytes())
    file.write_text(json.dumps({**one, "signatures": one["signatures"][:1]}), "utf-8")
    time.sleep(4)
    test_the_genuine_ticket_opens_the_study(world)
    assert _served(world.d, world.a)
    # All of them.
    region.write_manifest(extra[:1], version=2)
    eventually(lambda: not _served(world.d, world.a), 20, "D has left the region")
    # Back to where D belonged to it.
    file.write_bytes(first)
    time.sleep(4)
    assert not _served(world.d, world.a)
    test_the_genuine_ticket_opens_the_study(world)


def _served(sender: Peer, receiver: Hospital) -> bool:
    """Tell whether a member is known: then it is told that there is no such study, else nothing."""
    return signed.send(sender, receiver, signed.MANIFEST, _request(None)).status_code == 404
