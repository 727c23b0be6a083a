"""A region in memory: its hub behind werkzeug's test client, and hospitals that sign for themselves."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from joserfc.jwk import OKPKey
from werkzeug.test import Client, TestResponse

from support.signed_region import new_key, sign_region
from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.consent_record import attest, consent_document
from usmed.domain.errors import TransportError
from usmed.domain.region import HUB, RegionManifest
from usmed.domain.region_chain import follow
from usmed.domain.request_signature import ANSWER_HEADER, sign_request, verify_answer
from usmed.hub.contacts import Contacts
from usmed.hub.settings import HubSettings
from usmed.hub.tables import CHAIN
from usmed.hub.telling import Herald
from usmed.hub.wsgi import wire
from usmed.platform.audit_log import AuditLog
from usmed.platform.keys import public_key_text
from usmed.platform.region_file import RegionFile
from usmed.platform.region_store import RegionStore
from usmed.platform.storage import Database, open_database

CNP = "1630615123457"
"""A valid national number: a man born on 1963-06-15."""
LIMIT_BYTES = 1 << 20
REMOTE_ADDRESS = "192.0.2.7"
PORTAL = "https://portal.example"
HOSPITALS = {"iasi": ["SF-SPIRIDON", "SF-MARIA"], "bacau": ["BACAU"], "suceava": ["SUCEAVA"]}


ADMINISTRATORS = {"keys-1": new_key()}
"""Whose signature a region manifest of these tests needs."""


def key_server() -> dict[str, Any]:
    """Return what a region manifest says of its one key server, and its end."""
    server = {
        "id": "keys-1",
        "name": "Chei",
        "address": "https://keys-1:8044",
        "public_key": public_key_text(new_key()),
        "administrator": {"name": "Administrator", "public_key": public_key_text(ADMINISTRATORS["keys-1"])},
    }
    return {"expires": "2099-01-01T00:00:00Z", "threshold": 1, "key_servers": [server]}


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Tell the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


@dataclass
class Region:
    """A running hub, and the keys of everybody."""

    manifest: RegionManifest
    keys: dict[str, OKPKey]
    clock: Clock
    database: Database
    audit: AuditLog
    client: Client
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    contacts: Contacts = field(init=False)
    herald: Herald = field(init=False)

    def authorization(self, signer: str, path: str, body: bytes, **changes: Any) -> str:
        """Sign a request; `changes` are other arguments of `sign_request`."""
        arguments: dict[str, Any] = {
            "sender": signer,
            "receiver": HUB,
            "method": "POST",
            "target": path,
            "body": body,
            "now": self.clock(),
            "jti": secrets.token_urlsafe(18),
            **changes,
        }
        return sign_request(arguments.pop("key", self.keys[signer]), **arguments)

    def raw(self, path: str, body: bytes, headers: dict[str, str]) -> TestResponse:
        """Post these bytes with these headers."""
        return self.client.post(
            path,
            data=body,
            headers=headers,
            content_type="application/json",
            environ_base={"REMOTE_ADDR": REMOTE_ADDRESS},
        )

    def send(self, sender: str, path: str, body: bytes, **changes: Any) -> TestResponse:
        """Post these bytes, signed; check that the answer is signed for the sender."""
        jti = secrets.token_urlsafe(18)
        headers = {"Authorization": self.authorization(sender, path, body, jti=jti, **changes)}
        answer = self.raw(path, body, headers)
        if answer.status_code not in (401, 413):
            verify_answer(
                answer.headers[ANSWER_HEADER],
                self.manifest.key_of,
                sender=HUB,
                receiver=sender,
                jti=jti,
                status=answer.status_code,
                body=answer.data,
            )
        return answer

    def post(self, sender: str, path: str, document: Any) -> Any:
        """Post a JSON document, signed; return the JSON of an answer that has to be 200."""
        answer = self.send(sender, path, canonical_json(document))
        assert answer.status_code == 200, answer.text
        return answer.json

    def feed(self, hospital: str, *records: dict[str, Any]) -> None:
        """Announce studies; none may be a problem."""
        answer = self.post(hospital, "/v1/studies/feed", {"upsert": list(records)})
        assert answer == {"accepted": len(records), "problems": []}

    def resolve(self, hospital: str, issuer: str, value: str) -> Any:
        """Ask who a number is."""
        question = {"identifier": {"issuer": issuer, "value": value}, "purpose": "TREAT"}
        return self.post(hospital, "/v1/resolve", question)

    def permit(self, issuer: str, value: str, **changes: Any) -> str:
        """Let two members of staff attest a consent, and bring it; return its id."""
        document = consent_document(consent(issuer, value, **changes), id=f"consent-{len(self.said)}", version=1)
        self._bring(document)
        return str(document["id"])

    def withdraw(self, consent_id: str) -> None:
        """Let them attest that it is taken back, and bring that."""
        resource = {**self.said[consent_id]["resource"], "status": "inactive"}
        self._bring(consent_document(resource, id=consent_id, version=2))

    def _bring(self, document: dict[str, Any]) -> None:
        self.said[document["id"]] = document
        record = attested(self.manifest, self.keys, document, self.clock())
        body = {"records": [record], "enrolments": []}
        answer = self.post(record["proof"]["hospital"], "/v1/consents/records", body)
        assert answer == {"problems": []}


def attested(
    region: RegionManifest, keys: Mapping[str, OKPKey], document: dict[str, Any], now: datetime
) -> dict[str, Any]:
    """Return the record of a consent that the hospital attests that assigns its number; Iași a national one."""
    issuer = document["resource"]["patient"]["identifier"]["system"].rpartition(":")[2]
    hospital = region.issuer_owner(issuer) or "iasi"
    proof = attest(keys[hospital], document, hospital=hospital, staff=["ionescu", "popa"], now=now)
    return {"document": document, "proof": proof}


def _nobody(member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int) -> Any:
    raise TransportError(f"{member_id} is not asked")


@contextmanager
def running_region(database_url: str, **gateways: Any) -> Iterator[Region]:
    """Start a hub with three hospitals.

    Args:
        gateways: `mail` and `sms` of its settings; without them nobody is told of anything.
    """
    keys = {name: OKPKey.generate_key("Ed25519", private=True) for name in (HUB, *HOSPITALS)}
    document = {
        "version": 1,
        "region": "moldova",
        "name": "Regiunea Moldova",
        "issued": "2026-11-21T10:00:00Z",
        "national_number": {"issuer": "RO-CNP", "kind": "ro.cnp"},
        "portal": {"address": PORTAL},
        "hub": {"address": "https://hub:8443", "public_key": public_key_text(keys[HUB])},
        "hospitals": [
            {
                "id": name,
                "name": name.title(),
                "address": f"https://{name}:8043",
                "public_key": public_key_text(keys[name]),
                "issuers": issuers,
            }
            for name, issuers in HOSPITALS.items()
        ],
        **key_server(),
    }
    signed = parse_json(sign_region(document, ADMINISTRATORS), limit_bytes=1 << 20)
    manifest = follow(signed, "test", None).manifest
    clock = Clock()
    database = open_database(database_url, [CHAIN])
    audit = AuditLog(database)
    file = RegionFile(manifest, signed)
    settings = HubSettings(database_url, file, keys[HUB], LIMIT_BYTES, **gateways)
    regions = RegionStore(database, audit, clock, agent=HUB, file=file)
    wired = wire(settings, database, audit, clock, regions, _nobody)
    region = Region(manifest, keys, clock, database, audit, Client(wired.application))
    region.contacts, region.herald = wired.contacts, wired.herald
    try:
        yield region
    finally:
        audit.close()
        database.close()


def study(uid: str, *identifiers: tuple[str, str], **changes: str) -> dict[str, Any]:
    """Return a study record of a man born on 1963-06-15, in its canonical form but for the order of identifiers."""
    return {
        "study_instance_uid": uid,
        "patient": {
            "identifiers": [{"issuer": issuer, "value": value} for issuer, value in identifiers],
            "name": changes.get("name", ""),
            "birth_date": changes.get("birth_date", "19630615"),
            "sex": changes.get("sex", "M"),
        },
        "accession_number": changes.get("accession_number", ""),
        "study_date": changes.get("study_date", "20260102"),
        "modalities": [changes.get("modality", "CT")],
    }


def consent(issuer: str, value: str, *, to: str = "", type: str = "permit", **changes: Any) -> dict[str, Any]:
    """Return a FHIR Consent for treatment as it can be given on paper: to one hospital, or to all."""
    role = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]}
    provision: dict[str, Any] = {
        "type": type,
        "period": {"end": "2027-10-31"},
        "purpose": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT"}],
        **changes.pop("provision", {}),
    }
    if to:
        hospital = {"identifier": {"system": "urn:usmed:hospital", "value": to}}
        provision["actor"] = [{"role": role, "reference": hospital}]
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"identifier": {"system": f"urn:usmed:issuer:{issuer}", "value": value}},
        "dateTime": "2026-11-01",
        "provision": provision,
        **changes,
    }
