"""Kill -9 in the middle of each flow, of the hub and of its PostgreSQL; then everybody goes on as people and nodes do.

Nothing that was acknowledged is lost, nothing is there twice, and the flow comes to its end.
"""

import http.client
import random
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from joserfc.jwk import OKPKey

from support.key_server import UNLIMITED, KeyServer
from support.portal_phone import PageAnswer, PageError, PortalPhone, national_number
from support.postgresql import Postgresql, new_database
from support.process import eventually
from support.region import NATIONAL_ISSUER, Hub, Region
from usmed.domain.enrolment import enrol
from usmed.domain.errors import RefusedError, TransportError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.invitation import code_digest
from usmed.domain.region import HUB
from usmed.hub.portal.words import say
from usmed.platform.audit_log import AuditLog
from usmed.platform.keys import public_key_text
from usmed.platform.region_file import load_region
from usmed.platform.signed_http import Identity, SignedClient
from usmed.platform.storage import open_database

KILLS = 4
"""Of each flow on each engine."""
LONGEST_PAUSE_S = 0.03
"""Between the moment at which a request is sent and the kill: about as long as it takes."""
PATIENCE_S = 60.0


@dataclass
class World:
    """A hub and a key server as processes, a hospital, and who kills."""

    hub: Hub
    server: KeyServer
    key: OKPKey
    client: SignedClient
    kill: Callable[[], None]
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    people: int = 0
    calls: int = 0
    kill_at: int | None = None
    killing: threading.Thread | None = None
    phones: list[PortalPhone] = field(default_factory=list)

    def run(self, flow: "Callable[[World], None]", kill_at: int | None = None) -> None:
        """Go through a flow; the kill comes while its so many-th request is under way."""
        self.calls, self.kill_at, self.killing = 0, kill_at, None
        try:
            flow(self)
        finally:
            if self.killing is not None:
                self.killing.join()
            while self.phones:
                self.phones.pop().hang_up()

    def act[T](self, what: Callable[[], T]) -> T:
        """Do it once; where the kill is due, it comes while this is under way."""
        self.calls += 1
        if self.calls == self.kill_at:
            pause_s = self.chance.uniform(0, LONGEST_PAUSE_S)
            self.killing = threading.Thread(target=lambda: (time.sleep(pause_s), self.kill()))
            self.killing.start()
        return what()

    def persist[T](self, what: Callable[[], T]) -> T:
        """Do it until there is an answer."""
        end = time.monotonic() + PATIENCE_S
        first = True
        while True:
            try:
                # Only the first time counts as a step of the flow.
                return self.act(what) if first else what()
            except (OSError, http.client.HTTPException, TransportError):
                assert time.monotonic() < end
            except PageError as error:
                if error.status < 500:
                    raise
                assert time.monotonic() < end, error.text
            except RefusedError as error:
                if error.code != "unavailable":
                    raise
                assert time.monotonic() < end, str(error)
            first = False
            time.sleep(0.05)

    def post(self, path: str, document: Any) -> Any:
        """Ask the hub as the hospital, until it answers."""
        return self.persist(lambda: self.client.post(HUB, path, document, deadline_s=20))

    def rows(self, query: str, where: str = "hub") -> list[Any]:
        """Look into a database, once it is there again."""
        if self.killing is not None:
            self.killing.join()
        database = open_database(
            self.hub.database_url if where == "hub" else self.server.environment["USMED_DATABASE_URL"], []
        )
        try:
            with database.read() as connection:
                return list(connection.execute(sa.text(query)))
        finally:
            database.close()

    def delivered(self, consent: str, version: int) -> None:
        """Wait until the key server has it."""
        query = f"SELECT id FROM consent_record WHERE id = '{consent}' AND version = {version}"
        eventually(lambda: self.rows(query, "server"), PATIENCE_S, f"{consent} version {version}")


class Person:
    """A patient of the hospital."""

    def __init__(self, world: World) -> None:
        world.people += 1
        self.world, self.phone = world, PortalPhone(world.hub)
        world.phones.append(self.phone)
        self.number = PatientIdentifier(NATIONAL_ISSUER, national_number(world.people))
        self.identifier = {"issuer": self.number.issuer, "value": self.number.value}

    def open(self, path: str) -> PageAnswer:
        return self.world.persist(lambda: self.phone.get(path))

    def enrol(self) -> None:
        """Be invited, answer with a passkey, be confirmed."""
        world, phone = self.world, self.phone
        code, invitation = secrets.token_urlsafe(24), str(uuid4())
        world.post("/v1/enrolments/invite", {
            "id": invitation, "code_sha256": code_digest(code), "birth_date": "19700101", "guardian": None,
            "patient": [self.identifier],
        })  # fmt: skip
        self.open(f"/enrol/{code}")
        world.persist(lambda: phone.submit("/enrol/birth-date", day="1", month="1", year="1970"))
        self.again(self.make_passkey)
        waiting = self.open("/enrol/waiting").text
        state = world.post("/v1/enrolments/state", {"id": invitation})
        assert state["state"] == "answered"
        assert state["credential"]["id"] == phone.key.id.hex()
        assert 'class="digits' in waiting or "<span>" in waiting
        token = enrol(world.key, hospital="iasi", patient=[self.number], credentials=[phone.credential], now=now())
        brought = {"records": [], "enrolments": [{"hospital": "iasi", "token": token}]}
        assert world.post("/v1/consents/records", brought) == {"problems": []}
        self.open("/enrol/done")
        assert self.open("/").text

    def make_passkey(self) -> None:
        """Press the button that makes a passkey."""
        phone = self.phone
        try:
            options = self.world.persist(lambda: phone.post("/enrol/passkey/options", {})).document()
            made = {"response": phone.key.create(options)}
            self.world.persist(lambda: phone.post("/enrol/passkey", made))
        except PageError as error:
            if "bad-code" not in error.text:
                raise
            # One was taken, and the phone was not told. The page says: log in with it.
            self.again(lambda: self.world.persist(phone.log_in))

    def again(self, what: Callable[[], object]) -> None:
        """Do what the page says: try again. A challenge does not outlive the process that gave it."""
        for _ in range(3):
            try:
                what()
                return
            except PageError as error:
                assert error.status == 400, error
        raise AssertionError("again and again")

    def consents(self) -> list[str]:
        """Return the ids of all that the hub holds of this patient."""
        query = f"SELECT DISTINCT id FROM consent WHERE value = '{self.number.value}'"
        return [one.id for one in self.world.rows(query)]

    def sign(self, path: str) -> str:
        """Sign what waits there; return the consent's id."""
        world, phone = self.world, self.phone
        self.open(path)
        options = world.persist(lambda: phone.post(f"{path}/options", {})).document()
        try:
            signed = {"response": phone.key.get(options)}
            answer = world.persist(lambda: phone.post(path, signed))
            return str(answer.document()["next"]).rpartition("/")[2]
        except PageError as error:
            # The page that was signed is no more: the signature has arrived.
            assert error.status in (400, 404), error.text
            (consent,) = self.consents()
            return consent


def now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


def enrolment(world: World) -> None:
    person = Person(world)
    person.enrol()
    held = world.rows(f"SELECT digest FROM enrolment_number WHERE value = '{person.number.value}'")
    assert len(held) == 1


def request_and_answer(world: World) -> None:
    person = Person(world)
    quietly(world, person.enrol)
    id = str(uuid4())
    asked = {"id": id, "identifier": person.identifier, "purpose": "TREAT", "department": "Radiologie", "role": "medic"}
    assert world.post("/v1/requests", asked) == {"state": "open"}
    person.open(f"/requests/{id}")
    draft = world.persist(lambda: person.phone.submit(f"/requests/{id}/yes", term="year")).leads_to
    consent = person.sign(draft)
    # With the consent or not at all.
    assert world.post("/v1/requests/state", {"ids": [id]}) == {"states": {id: "answered"}}
    assert person.consents() == [consent]
    world.delivered(consent, 1)


def signing_and_withdrawal(world: World) -> None:
    person = Person(world)
    quietly(world, person.enrol)
    form = {"kind": "permit", "who": "all", "where": "all", "what": "all", "term": "year"}
    consent = person.sign(world.persist(lambda: person.phone.submit("/consents/new", **form)).leads_to)
    assert person.consents() == [consent]
    withdrawal = world.persist(lambda: person.phone.submit(f"/consents/{consent}/withdraw")).leads_to
    assert person.sign(withdrawal) == consent
    assert [one.status for one in world.rows(f"SELECT status FROM consent WHERE id = '{consent}' AND current")] == [
        "inactive"
    ]
    world.delivered(consent, 1)
    world.delivered(consent, 2)
    # The hospital does not run here, so it cannot know yet; the page says that, and goes on to.
    assert say("ro", "take-away-under-way") in person.open(f"/consents/{consent}").text


def accesses(world: World) -> None:
    person = Person(world)
    quietly(world, person.enrol)
    quietly(world, lambda: feed_of(world, person, 1))
    for number in range(3):
        sent = {
            "sequence": 10 * world.people + number, "at": int(time.time()), "patient": person.identifier,
            "recipient": "iasi", "role": "medic", "purpose": "TREAT", "consents": ["consent-1"],
            "study_instance_uid": f"1.2.{world.people}.{number}",
        }  # fmt: skip
        assert world.post("/v1/accesses", {"accesses": [sent]}) == {"taken": 1, "problems": []}
    person.open("/access")
    found = world.rows(f"SELECT id FROM patient_access WHERE value = '{person.number.value}'")
    assert len(found) == 3


def feed_of(world: World, person: Person, number: int) -> str:
    uid = f"1.2.{world.people}.{number}"
    study = {
        "study_instance_uid": uid, "accession_number": "", "study_date": "20260102", "modalities": ["CT"],
        "patient": {"identifiers": [person.identifier], "name": "Popescu^Ion", "birth_date": "19700101", "sex": "M"},
    }  # fmt: skip
    assert world.post("/v1/studies/feed", {"upsert": [study], "delete": []}) == {"accepted": 1, "problems": []}
    return uid


def feed(world: World) -> None:
    person = Person(world)
    told = [feed_of(world, person, number) for number in range(4)]
    held = world.rows("SELECT study_instance_uid FROM study")
    assert sorted(one.study_instance_uid for one in held if one.study_instance_uid in told) == sorted(told)


def quietly(world: World, what: Callable[[], object]) -> None:
    """Do what is only the way to a flow: nobody is killed."""
    kept, world.kill_at = world.kill_at, None
    before = world.calls
    what()
    world.calls, world.kill_at = before, kept


FLOWS = [enrolment, request_and_answer, signing_and_withdrawal, accesses, feed]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("killed")
    key, server = OKPKey.generate_key("Ed25519", private=True), KeyServer("keys-1", folder / "k", settings=UNLIMITED)
    postgresql = Postgresql() if request.param == "postgresql" else None
    if postgresql:
        postgresql.start()
    hub = Hub(folder / "hub", database_url=new_database(postgresql.server) if postgresql else "")
    region = Region(folder, [], hub, [server])
    hospital = {
        "id": "iasi", "name": "Iași", "address": "https://127.0.0.1:20001", "public_key": public_key_text(key),
        "issuers": ["IASI"],
    }  # fmt: skip
    region.write_manifest([hospital])
    server.start(region.file)
    hub.start(region.file)
    manifest = load_region(region.file)

    def kill_hub() -> None:
        hub.stop(signal.SIGKILL)
        hub.start()

    def kill_postgresql() -> None:
        assert postgresql is not None
        postgresql.kill()
        postgresql.start()

    client = SignedClient(Identity("iasi", key), lambda: manifest, now)
    world = World(hub, server, key, client, kill_postgresql if postgresql else kill_hub)
    yield world
    client.close()
    hub.stop()
    server.stop()
    audit = open_database(hub.database_url, [])
    log = AuditLog(audit)
    unbroken = log.verify().unbroken
    log.close()
    audit.close()
    if postgresql:
        postgresql.remove()
    assert unbroken
    assert "Traceback" not in (folder / "hub" / "hub.log").read_text()


@pytest.mark.parametrize("flow", FLOWS)
def test_a_kill_in_the_middle_loses_nothing(world: World, flow: Callable[[World], None]) -> None:
    world.run(flow)
    steps = world.calls
    for number in range(KILLS):
        # Spread over the flow, at a random moment of each part.
        world.run(flow, kill_at=1 + int((number + world.chance.random()) * steps / KILLS))
        assert world.killing is not None
