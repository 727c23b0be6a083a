"""The scene of the patients' attackers: one hub with its portal, three key servers, the node of Bacău with its desk.

One scene serves the whole table of attacks, one after the other: what one of them breaks, the next ones see. Each has
patients and addresses of its own.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from werkzeug.test import Client, TestResponse

from contract.key_servers import Servers, running_servers
from contract.portal_patients import Patient
from contract.portal_region import PortalRegion, running_portal_region
from contract.test_enrolments import Clerk, Desk
from usmed.domain.canonical import canonical_json
from usmed.domain.errors import RefusedError
from usmed.domain.region import HUB
from usmed.hospital.store import CHAIN as HOSPITAL_CHAIN
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import open_database

SESSION, INVITATION = "__Host-usmed-portal", "__Host-usmed-invitation"
NODE = "bacau"
WEIGHTS = (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9)


def national_number(place: int) -> str:
    """Return the valid national number of the nth man born on 1963-06-15 in Iași."""
    digits = f"163061522{place:03d}"
    rest = sum(int(one) * weight for one, weight in zip(digits, WEIGHTS, strict=True)) % 11
    return digits + str(1 if rest == 10 else rest)


class Node(Desk):
    """The node of Bacău before the real hub."""

    def post(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int = 1 << 20) -> Any:
        """Send signed requests."""
        self.sent.append((member_id, path, document))
        if member_id != HUB:
            post = self.region.servers.post_as(NODE)  # type: ignore[attr-defined]
            return post(member_id, path, document, deadline_s=deadline_s, limit_bytes=limit_bytes)
        answer: Any = self.region.send(NODE, path, canonical_json(document))  # type: ignore[call-arg]
        if answer.status_code != 200:
            raise RefusedError(answer.json["error"], answer.json["message"])
        return self.tell(path, answer.json)


@dataclass
class Scene:
    """Who is there.

    Attributes:
        region: the hub, the key servers, and the keys of all members.
        node: Bacău's desk.
        logs: the audit logs by the name of whose they are.
    """

    region: PortalRegion
    node: Node
    logs: Mapping[str, AuditLog]
    people: int = 0
    others: list[Patient] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Return the portal's origin."""
        return self.region.manifest.portal

    @property
    def host(self) -> str:
        """Return the portal's name."""
        return self.origin.removeprefix("https://")

    def begin(self) -> None:
        """Let an hour pass, so that one attack's limits are not the next one's."""
        self.region.clock.advance(3601)
        self.before = {name: log.head().count for name, log in self.logs.items()}

    def refusals(self, log: str) -> list[Any]:
        """Return what was refused since then, by whose log."""
        since = [one for one in self.logs[log].tail(400) if one["sequence"] > self.before[log]]
        return [one for one in since if one["outcome"] != "success"]

    def person(self, *numbers: tuple[str, str]) -> Patient:
        """Return somebody whom nobody has seen before, with a phone and an address."""
        self.people += 1
        address = f"10.7.{self.people // 250}.{self.people % 250 + 1}"
        numbers = numbers or (("RO-CNP", national_number(self.people)),)
        return Patient(self.region, *numbers, name=f"passkey-{self.people:08d}", address=address)

    def patient(self) -> Patient:
        """Return a patient who is enrolled and logged in."""
        return self.person().enrolled()

    def bystander(self) -> Patient:
        """Return a patient whom nobody attacks, the same one each time."""
        if not self.others:
            self.others.append(self.patient())
        return self.others[0]

    def thief_of(self, cookie: str, name: str = SESSION) -> Patient:
        """Return somebody with another phone, whose browser has this cookie."""
        thief = self.person()
        thief.browser.set_cookie(name, cookie, domain=self.host)
        return thief

    def clerk(self) -> Clerk:
        """Return a clerk's browser at Bacău."""
        return Clerk(self.node)

    def asked(self, patient: Patient, hospital: str = "bacau", **changes: Any) -> str:
        """Let a hospital ask for consent; return the request's id."""
        id = str(uuid4())
        assert self.ask(patient, hospital, id=id, **changes).status_code == 200
        return id

    def ask(self, patient: Patient, hospital: str = "bacau", **changes: Any) -> TestResponse:
        """Let a hospital ask for consent; return the hub's answer."""
        number = patient.numbers[0]
        body = {
            "id": str(uuid4()), "identifier": {"issuer": number.issuer, "value": number.value}, "purpose": "TREAT",
            "department": "Radiologie", "role": "medic", **changes,
        }  # fmt: skip
        return self.region.send(hospital, "/v1/requests", canonical_json(body))

    def raw(self, person: Patient, method: str, path: str, **options: Any) -> TestResponse:
        """Send what no browser of ours would."""
        headers = {"Origin": self.origin, "X-CSRF-Token": person.csrf, **options.pop("headers", {})}
        # A browser with cookies of its own sends no others.
        browser = Client(person.browser.application, use_cookies=False) if "Cookie" in headers else person.browser
        return browser.open(
            f"/portal{path}", method=method, base_url=self.origin, headers=headers,
            environ_base={"REMOTE_ADDR": person.address}, **options,
        )  # fmt: skip


def cookie_of(person: Patient, name: str = SESSION) -> str:
    """Return a cookie of a browser."""
    found = person.browser.get_cookie(name, domain=person.origin.removeprefix("https://"))
    assert found is not None
    return found.value


def path_of(answer: TestResponse) -> str:
    """Return where a page leads on, below the portal."""
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"].removeprefix("/portal")


@contextmanager
def running_scene(new_database_url: Callable[[], str]) -> Iterator[Scene]:
    """Start everybody."""
    with (
        running_servers(new_database_url) as servers,
        running_portal_region(servers, new_database_url) as region,
    ):
        database = open_database(new_database_url(), [HOSPITAL_CHAIN])
        audit = AuditLog(database)
        node = Node(region, database, audit, region.database)  # type: ignore[arg-type]
        node.shelf.put("9")
        logs = {HUB: region.audit, NODE: audit, **_logs(servers)}
        try:
            yield Scene(region, node, logs)
        finally:
            audit.close()
            database.close()


def _logs(servers: Servers) -> dict[str, AuditLog]:
    return dict(servers.audits)


def code() -> str:
    """Return an invitation's code that nobody made."""
    return secrets.token_urlsafe(24)
