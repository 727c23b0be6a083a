"""Patients who answer at the same time, while all nodes poll: the hub as it runs, on PostgreSQL, and what it keeps.

Everybody is there at once: each patient has a session, a phone with a passkey of its own and a request that is open.
Within the window each comes at a moment of their own, and goes through the pages of a yes as the phone would: a new TLS
connection, the request's page, the choice, the page that is signed, the challenge, the signature, the consent's page.
Latencies count from the moment at which the request was due, so that a queue anywhere is seen.
"""

import http.client
import os
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from joserfc.jwk import OKPKey

from bench.measure import Kind, Limit, Report, Result, say
from bench.nodes import BenchError
from support.key_server import UNLIMITED, KeyServer
from support.portal_phone import PageAnswer, PageError, PortalPhone, national_number
from support.postgresql import new_database, running_postgresql
from support.process import eventually
from support.region import NATIONAL_ISSUER, Hub, Region
from usmed.domain.enrolment import enrol
from usmed.domain.errors import UsmedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import HUB
from usmed.platform.audit_log import AuditLog
from usmed.platform.keys import public_key_text
from usmed.platform.region_file import load_region
from usmed.platform.signed_http import Identity, SignedClient
from usmed.platform.storage import open_database

PATIENTS, NODES, WINDOW_S = 1000, 100, 60.0
THINK_S = 0.5
"""Between a page and the next tap."""
P95_LIMIT_MS = 300.0
ENROLMENTS_A_CALL = 50
CHANGES_EVERY_S, STATES_EVERY_S, FEED_EVERY_S, REGION_EVERY_S = 5.0, 10.0, 20.0, 30.0
"""As nodes poll: for what patients changed, their own requests, new studies, the region manifest."""


@dataclass
class Outcome:
    """What was seen; times in milliseconds.

    `pages` and `polls` hold the latency of every request; `kept` counts acknowledged consents that are in the
    registry, delivered to the key server and held by it, `answered` the requests that the hospitals see as answered;
    `doubled` what is there twice.
    """

    pages: list[float] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    by_page: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    answered: int = 0
    doubled: list[str] = field(default_factory=list)
    seconds: float = 0.0
    hub_cpu_s: float = 0.0


def patients(folder: Path, report: Report, runs: int) -> None:
    """Let the whole region answer within a minute."""
    with running_postgresql() as server:
        for number in range(runs):
            outcome = answer_all(folder / str(number), new_database(server), PATIENTS, NODES, WINDOW_S)
            _tell(report, outcome)


def _tell(report: Report, outcome: Outcome) -> None:
    for name, times in sorted(outcome.by_page.items()):
        say(f"  {name:12} median {statistics.median(times):6.0f} ms, p95 {p95(times):6.0f} ms")
    pages, polls = (len(one) / outcome.seconds for one in (outcome.pages, outcome.polls))
    each_ms = 1000 * outcome.hub_cpu_s / max(1, len(outcome.pages) + len(outcome.polls))
    note = (
        f"{len(outcome.acknowledged)} answers, {pages:.0f} pages/s, {polls:.0f} polls/s,"
        f" {each_ms:.1f} ms of processor in the hub for each; plain is the limit"
    )
    limit = Limit(Kind.RATIO_AT_MOST, 1.0)
    for name, times in (("patients, p95 of a page", outcome.pages), ("nodes, p95 of a poll", outcome.polls)):
        report.add(Result(name, "ms", [p95(times)], [P95_LIMIT_MS], limit, note))
    lost = len(outcome.acknowledged) - min(outcome.kept, outcome.answered)
    if outcome.failures or outcome.doubled or lost:
        failed = Counter(outcome.failures).most_common(3)
        raise BenchError(f"lost {lost}, doubled {outcome.doubled[:3]}, failed {failed}")


def p95(times: Sequence[float]) -> float:
    """Return what 95 of a hundred stay under."""
    return sorted(times)[int(0.95 * len(times))] if times else 0.0


def answer_all(folder: Path, database_url: str, patients: int, nodes: int, window_s: float) -> Outcome:
    """Enrol, ask, log in, and then let everybody answer within the window.

    Args:
        folder: for keys and logs.
        database_url: the hub's database, empty.
        patients, nodes: how many; hospitals ask at most 60 patients an hour.
        window_s: the patients come at moments spread evenly at random over it.
    """
    world = _World(folder, database_url, nodes)
    try:
        people = world.people(patients)
        outcome = Outcome()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(_Patient.log_in, people))
        chance = random.Random(1)
        over = threading.Event()
        polling = [threading.Thread(target=world.poll, args=(one, over, outcome)) for one in world.nodes]
        for one in polling:
            one.start()
        begun, before_s = time.monotonic() + 1, world.hub_cpu_s()
        moments = [begun + chance.uniform(0, window_s) for _ in people]
        answering = [
            threading.Thread(target=one.answer, args=(at, outcome)) for one, at in zip(people, moments, strict=True)
        ]
        for one in answering:
            one.start()
        for one in answering:
            one.join()
        outcome.seconds, outcome.hub_cpu_s = time.monotonic() - begun, world.hub_cpu_s() - before_s
        over.set()
        for one in polling:
            one.join()
        world.check(people, outcome)
        return outcome
    finally:
        world.stop()


class _World:
    def __init__(self, folder: Path, database_url: str, nodes: int) -> None:
        self.nodes = [f"hospital-{number}" for number in range(nodes)]
        self.keys = {one: OKPKey.generate_key("Ed25519", private=True) for one in self.nodes}
        self.server = KeyServer("keys-1", folder / "keys-1", settings=UNLIMITED)
        self.hub = Hub(folder / "hub", database_url=database_url)
        region = Region(folder, [], self.hub, [self.server])
        region.write_manifest([self._member(number, one) for number, one in enumerate(self.nodes)])
        self.region = load_region(region.file)
        self.server.start(region.file)
        self.hub.start(region.file)

    def _member(self, number: int, id: str) -> dict[str, Any]:
        return {
            "id": id, "name": f"Spitalul {number}", "address": f"https://127.0.0.1:{20000 + number}",
            "public_key": public_key_text(self.keys[id]), "issuers": [f"H{number}"],
        }  # fmt: skip

    def client(self, node: str) -> SignedClient:
        return SignedClient(Identity(node, self.keys[node]), lambda: self.region, _now, connections_per_member=1)

    def people(self, count: int) -> "list[_Patient]":
        """Enrol so many patients, and ask each of them."""
        people = [_Patient(number, self.hub, self.nodes[number % len(self.nodes)]) for number in range(count)]
        enroller = self.client(self.nodes[0])
        for start in range(0, count, ENROLMENTS_A_CALL):
            part = people[start : start + ENROLMENTS_A_CALL]
            tokens = [
                enrol(self.keys[self.nodes[0]], hospital=self.nodes[0], patient=[one.patient],
                      credentials=[one.phone.credential], now=_now())
                for one in part
            ]  # fmt: skip
            body = {"records": [], "enrolments": [{"hospital": self.nodes[0], "token": one} for one in tokens]}
            if enroller.post(HUB, "/v1/consents/records", body, deadline_s=60) != {"problems": []}:
                raise BenchError("patients were not enrolled")
        enroller.close()
        for node in self.nodes:
            client = self.client(node)
            for one in people:
                if one.asked_by == node:
                    asked = {"id": one.request, "identifier": _identifier(one.patient), "purpose": "TREAT",
                             "department": "Radiologie", "role": "medic"}  # fmt: skip
                    client.post(HUB, "/v1/requests", asked, deadline_s=20)
            client.close()
        return people

    def poll(self, node: str, over: threading.Event, outcome: Outcome) -> None:
        """Poll as a node does, until it is over."""
        client, cursor, number = self.client(node), 0, 0
        requests: list[str] = []

        def changes() -> None:
            nonlocal cursor
            answer = client.post(HUB, "/v1/consents/changes", {"since": cursor}, deadline_s=20)
            cursor = int(answer["cursor"])

        def states() -> None:
            client.post(HUB, "/v1/requests/state", {"ids": requests or [str(uuid4())]}, deadline_s=20)

        def feed() -> None:
            nonlocal number
            number += 1
            study = {
                "study_instance_uid": f"1.2.{self.nodes.index(node)}.{number}",
                "patient": {"identifiers": [{"issuer": f"H{self.nodes.index(node)}", "value": str(number)}],
                            "birth_date": "19700101", "sex": "M"},
                "accession_number": "", "study_date": "20260102", "modalities": ["CT"],
            }  # fmt: skip
            client.post(HUB, "/v1/studies/feed", {"upsert": [study], "delete": []}, deadline_s=20)

        def region() -> None:
            client.post(HUB, "/v1/region/after", {"version": 1}, deadline_s=20)

        chance = random.Random(node)
        due = [
            [time.monotonic() + chance.uniform(0, every_s), every_s, what]
            for every_s, what in (
                (CHANGES_EVERY_S, changes), (STATES_EVERY_S, states), (FEED_EVERY_S, feed), (REGION_EVERY_S, region),
            )
        ]  # fmt: skip
        while True:
            nearest: list[Any] = min(due, key=lambda one: one[0])
            if over.wait(max(0.0, nearest[0] - time.monotonic())):
                break
            try:
                nearest[2]()
                outcome.polls.append(1000 * (time.monotonic() - nearest[0]))
            except UsmedError as error:
                outcome.failures.append(f"poll: {error}")
            nearest[0] += nearest[1]
        client.close()

    def hub_cpu_s(self) -> float:
        """Return how much processor time the hub has had: proc_pid_stat(5), utime and stime."""
        assert self.hub.process is not None
        fields = Path(f"/proc/{self.hub.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def check(self, people: "Sequence[_Patient]", outcome: Outcome) -> None:
        """Look up what became of every answer that was acknowledged."""
        ids = set(outcome.acknowledged.values())
        hub = open_database(self.hub.database_url, [])
        server = open_database(self.server.environment["USMED_DATABASE_URL"], [])

        def rows(database: Any, query: str) -> list[Any]:
            with database.read() as connection:
                return list(connection.execute(sa.text(query)))

        def held() -> set[str]:
            delivered = {one.id for one in rows(hub, "SELECT id FROM delivery WHERE delivered > 0")}
            return ids & delivered & {one.id for one in rows(server, "SELECT id FROM consent_record")}

        audit = AuditLog(hub)
        try:
            eventually(lambda: held() == ids, 60, "all consents delivered")
            consents = rows(hub, "SELECT id, issuer, value FROM consent")
            outcome.kept = len(held() & {one.id for one in consents})
            times = Counter((one.issuer, one.value) for one in consents)
            events = [one["detail"] for one in audit.tail(1_000_000) if one["event"] == "consent"]
            times.update(one["request"] for one in events if one.get("what") == "answered")
            outcome.doubled = [str(name) for name, count in times.items() if count > 1]
        except AssertionError as error:
            outcome.failures.append(str(error))
        finally:
            audit.close()
            hub.close()
            server.close()
        for node in self.nodes:
            own = [one.request for one in people if one.asked_by == node and one.request in outcome.acknowledged]
            if own:
                client = self.client(node)
                states = client.post(HUB, "/v1/requests/state", {"ids": own}, deadline_s=20)["states"]
                outcome.answered += sum(one == "answered" for one in states.values())
                client.close()

    def stop(self) -> None:
        """End the processes."""
        self.hub.stop()
        self.server.stop()


class _Patient:
    """A patient with a phone, and a request that waits."""

    def __init__(self, number: int, hub: Hub, asked_by: str) -> None:
        self.patient = PatientIdentifier(NATIONAL_ISSUER, national_number(number))
        self.asked_by, self.request = asked_by, str(uuid4())
        self.phone = PortalPhone(hub)

    def log_in(self) -> None:
        """Log in, and keep the session."""
        self.phone.log_in()
        self.phone.hang_up()

    def answer(self, at: float, outcome: Outcome) -> None:
        """Come at that moment (monotonic), and say yes."""
        phone, due = self.phone, at

        def step(name: str, act: Callable[[], PageAnswer]) -> PageAnswer:
            nonlocal due
            time.sleep(max(0.0, due - time.monotonic()))
            result = act()
            taken = 1000 * (time.monotonic() - due)
            outcome.pages.append(taken)
            outcome.by_page.setdefault(name, []).append(taken)
            due = time.monotonic() + THINK_S
            return result

        try:
            page = f"/requests/{self.request}"
            step("1 request", lambda: phone.get(page))
            draft = step("2 yes", lambda: phone.submit(f"{page}/yes", term="year")).leads_to
            step("3 to sign", lambda: phone.get(draft))
            options = step("4 challenge", lambda: phone.post(f"{draft}/options", {})).document()
            signed = {"response": phone.key.get(options)}
            consent = step("5 signature", lambda: phone.post(draft, signed)).document()["next"].removeprefix("/portal")
            outcome.acknowledged[self.request] = consent.rpartition("/")[2]
            step("6 consent", lambda: phone.get(consent))
        except (PageError, OSError, http.client.HTTPException) as error:
            outcome.failures.append(f"{type(error).__name__}: {error}")
        finally:
            phone.hang_up()


def _identifier(one: PatientIdentifier) -> dict[str, str]:
    return {"issuer": one.issuer, "value": one.value}


def _now() -> datetime:
    return datetime.now(UTC)
