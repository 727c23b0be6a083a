"""What a node does with the copies here when a patient's will changed: real key servers, real tables; only the deleting
itself, which needs an Orthanc, is noted instead of done (e2e `test_withdrawn_copies` does it)."""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from contract.key_servers import SERVERS, Servers
from contract.test_key_servers import CNP
from usmed.domain.consent import StudyFacts
from usmed.domain.errors import RefusedError, TransportError
from usmed.domain.identifiers import Naming, NationalNumber, PatientIdentifier
from usmed.domain.manifest import ManifestEntry, StudyManifest
from usmed.domain.pull import Event
from usmed.domain.request_signature import sign_document
from usmed.domain.ticket import Staff
from usmed.hospital.archive import ArchiveError
from usmed.hospital.changes import Changes
from usmed.hospital.circuit import Circuit
from usmed.hospital.guest_store import GuestStore
from usmed.hospital.store import CHAIN, PullStore, ToldStore
from usmed.hospital.tickets import NoTicketError, Tickets
from usmed.hospital.transfer import Progress, Transfer
from usmed.hospital.withdrawals import GRANTED_AN_HOUR, Withdrawals, takes_away
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database, open_database

CT = "1.2.3"
LOCAL = PatientIdentifier("BACAU", "10")


@dataclass
class Deleted:
    """Notes what would be deleted, and why."""

    studies: dict[str, frozenset[str]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    broken_off: set[str] = field(default_factory=set)

    def delete(self, study: str, reason: str, withdrawn: Collection[str] = ()) -> bool:
        if study not in self.running:
            self.studies[study] = frozenset(withdrawn)
        return study not in self.running

    def break_off(self, study: str, reason: str) -> bool:
        self.broken_off.add(study)
        return True

    def finish(self) -> None:
        pass


class Node:
    """Bacau, which has copies of Iasi's studies."""

    def __init__(self, servers: Servers, database: Database, legal_basis: str = "") -> None:
        self.servers, self.legal_basis = servers, legal_basis
        self.guests, self.pulls, self.deleted = GuestStore(database), PullStore(database), Deleted()
        self.audit, self._database = AuditLog(database), database
        self.post = servers.post_as("bacau")
        self.asked: list[str] = []
        self.start()

    def start(self) -> None:
        """Begin as a new process."""

        class Client:
            def post(_, member: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int = 1 << 20) -> Any:  # noqa: N805
                self.asked.append(path)
                return self.post(member, path, document, deadline_s=deadline_s, limit_bytes=limit_bytes)

        self.tickets = Tickets(
            hospital="bacau", key=_public(self.servers.keys["bacau"]), region=self.servers.current, client=Client(),
            circuit=Circuit(0, lambda: 0.0), clock=self.servers.clock, deadline_s=5,
        )  # fmt: skip
        self.changes = Changes(
            region=self.servers.current, store=ToldStore(self._database), audit=self.audit, clock=self.servers.clock,
            changed=lambda _: None,
        )  # fmt: skip
        self.withdrawals = Withdrawals(
            hospital="bacau", guests=self.guests, copies=self.deleted, tickets=self.tickets,  # type: ignore[arg-type]
            changes=self.changes, audit=self.audit, clock=self.servers.clock, legal_basis=self.legal_basis,
        )  # fmt: skip

    def stop(self) -> None:
        """End, with whatever is still asked: the key servers are in this process."""
        self.tickets._pool.shutdown(wait=True)
        self.tickets.close()
        self.audit.close()

    def copy(self, uid: str = CT, *consents: str, number: PatientIdentifier = CNP, emergency: bool = False) -> None:
        """Have a whole copy of a CT of this patient."""
        self.pulls.ask(uid, source="iasi", patient_id=number.value, identifiers=frozenset({number}),
                       requested_by="WS", now=self.servers.clock())  # fmt: skip
        ticket = self.tickets.fresh({number}, Staff("ionescu", "radiologist")) if not emergency else None
        self.guests.released(uid, number.value, ticket=ticket or _emergency(self), number=number,
                             sop_instance_uids=["1.1"], unheeded=(), now=self.servers.clock())  # fmt: skip
        self.guests.arrived(StudyFacts(uid, "iasi", frozenset({"CT"}), None), {number})
        self.pulls.move(uid, Event.START)
        self.pulls.move(uid, Event.VERIFIED)
        self.asked.clear()

    def told(self, *records: Any) -> None:
        assert self.changes.told("iasi", list(records), []) == []

    def check(self, later: timedelta = timedelta()) -> dict[str, frozenset[str]]:
        """Let what is due be checked; return what was deleted so far, each with the consents that were named."""
        self.servers.clock.now += later
        self.withdrawals.check()
        return self.deleted.studies

    def waits(self) -> bool:
        return bool(self.guests.due(self.servers.clock() + timedelta(days=1), 10))


def _public(key: OKPKey) -> OKPKey:
    return OKPKey.import_key(key.as_dict(private=False))


def _emergency(node: Node) -> Any:
    nurse = Staff("popa", "nurse")
    return node.tickets.open_emergency(CNP, Staff("ionescu", "md"), nurse, "inconstient dupa accident").ticket


@pytest.fixture
def database(new_database_url: Callable[[], str]) -> Iterator[Database]:
    opened = open_database(new_database_url(), [CHAIN])
    yield opened
    opened.close()


@pytest.fixture
def node(servers: Servers, database: Database) -> Iterator[Node]:
    made = Node(servers, database)
    yield made
    made.stop()


def withdrawal(servers: Servers, id: str = "consent-1", **changes: Any) -> Any:
    return servers.record(id, version=2, to="bacau", status="inactive", **changes)


def given(servers: Servers, *ids: str, patient: PatientIdentifier = CNP) -> None:
    assert servers.give(records=[servers.record(id, patient, to="bacau") for id in ids]) == []


def test_one_patient_is_asked_about_once_whatever_the_number_of_copies(node: Node, servers: Servers) -> None:
    given(servers, "consent-1", "consent-2")
    for number in range(5):
        node.copy(f"1.2.{number}")
    taken = [withdrawal(servers, id) for id in ("consent-1", "consent-2")]
    servers.give(records=taken)
    node.told(*taken)
    gone = node.check()
    assert gone == {f"1.2.{number}": frozenset({"consent-1", "consent-2"}) for number in range(5)}
    assert node.asked.count("/v1/tickets") <= len(SERVERS)
    assert not node.waits()


def test_whom_no_copy_here_concerns_nobody_is_asked_about(node: Node, servers: Servers) -> None:
    given(servers, "consent-1")
    node.told(withdrawal(servers))
    assert node.check() == {}
    assert (node.asked, node.waits()) == ([], False)


def test_what_another_consent_permits_stays(node: Node, servers: Servers) -> None:
    given(servers, "consent-1", "consent-2")
    node.copy()
    servers.give(records=[withdrawal(servers)])
    node.told(withdrawal(servers))
    assert node.check() == {}
    assert not node.waits()


def test_what_an_emergency_brought_stays_and_nobody_is_asked(node: Node, servers: Servers) -> None:
    node.copy(emergency=True)
    given(servers, "consent-1")
    node.told(withdrawal(servers))
    assert node.check() == {}
    assert (node.asked, node.waits()) == ([], False)


def test_too_few_key_servers_delete_nothing_and_are_asked_again_also_after_a_restart(
    node: Node, servers: Servers
) -> None:
    given(servers, "consent-1")
    node.copy()
    servers.give(records=[withdrawal(servers)])
    node.told(withdrawal(servers))
    servers.down = {"keys-1", "keys-2"}
    for _ in range(3):
        assert node.check(timedelta(minutes=20)) == {}
        assert node.waits()
    node.tickets._pool.shutdown(wait=True)
    node.start()
    servers.down = set()
    assert node.check(timedelta(minutes=20)) == {CT: frozenset({"consent-1"})}
    assert not node.waits()


def test_a_ticket_of_servers_that_do_not_know_it_yet_settles_nothing(node: Node, servers: Servers) -> None:
    given(servers, "consent-1")
    node.copy()
    node.told(withdrawal(servers))
    assert node.check() == {}
    assert node.waits()
    servers.give(records=[withdrawal(servers)])
    assert node.check(timedelta(minutes=1)) == {CT: frozenset({"consent-1"})}


def test_one_refusal_of_two_that_are_needed_settles_nothing(node: Node, servers: Servers) -> None:
    given(servers, "consent-1")
    node.copy()
    servers.give("keys-1", records=[withdrawal(servers)])
    # The second cannot sign, for another reason.
    servers.down = {"keys-2"}
    post = node.post

    def over_rate(member: str, path: str, *rest: Any, **more: Any) -> Any:
        if member == "keys-3" and path == "/v1/tickets":
            raise RefusedError("over-rate", "too many patients")
        return post(member, path, *rest, **more)

    node.post = over_rate
    node.told(withdrawal(servers))
    assert node.check() == {}
    assert node.waits()


def test_a_denial_that_only_this_hospital_was_told_counts(node: Node, servers: Servers) -> None:
    given(servers, "consent-1")
    node.copy()
    node.told(servers.record("consent-2", type="deny"))
    assert node.check() == {CT: frozenset({"consent-2"})}


def test_what_the_hub_hints_at_is_looked_up_and_only_what_takes_away_counts(node: Node, servers: Servers) -> None:
    given(servers, "consent-1")
    node.copy()
    # The consent ends by itself, and something is permitted to somebody else: nothing is taken away.
    servers.clock.now += timedelta(days=300)
    assert servers.give(records=[servers.record(
        "consent-3", to="iasi", provision={"period": {"start": "2027-08-01", "end": "2027-12-01"}}
    )]) == []  # fmt: skip
    node.withdrawals.hint([CNP])
    assert node.check() == {}
    assert not node.waits()
    assert "/v1/records/for" in node.asked
    assert "/v1/tickets" not in node.asked


def test_a_withdrawal_that_nobody_told_is_found_by_the_hubs_hint(node: Node, servers: Servers) -> None:
    given(servers, "consent-1")
    node.copy()
    servers.give(records=[withdrawal(servers)])
    servers.down = {"keys-1", "keys-3"}
    node.withdrawals.hint([CNP])
    assert node.check() == {}
    assert node.waits()
    servers.down = set()
    node.check(timedelta(minutes=20))
    assert node.check() == {CT: frozenset({"consent-1"})}
    assert not node.waits()


def test_a_pull_that_has_not_ended_is_looked_at_again(node: Node, servers: Servers) -> None:
    given(servers, "consent-1")
    node.copy()
    servers.give(records=[withdrawal(servers)])
    node.told(withdrawal(servers))
    node.deleted.running = {CT}
    assert node.check() == {}
    assert node.waits()
    node.deleted.running = set()
    assert node.check(timedelta(minutes=1)) == {CT: frozenset({"consent-1"})}


@pytest.mark.parametrize("denies", [False, True])
def test_what_is_told_while_the_source_is_asked_reaches_the_copy_also_if_nothing_linked_the_two(
    node: Node, servers: Servers, denies: bool
) -> None:
    given(servers, "consent-1")
    assert servers.give(enrolments=[servers.enrolment(CNP, LOCAL, by="bacau", credentials=[])]) == []
    change = servers.record("consent-2", type="deny") if denies else withdrawal(servers)
    # Asked for under the local number alone: that it is the same patient only the ticket says.
    row = node.pulls.ask(CT, source="iasi", patient_id="10", identifiers=frozenset({LOCAL}), requested_by="WS",
                         now=servers.clock())  # fmt: skip
    manifest = StudyManifest("iasi", "bacau", CT, LOCAL, "", "", "c", (ManifestEntry("1.1", "1.9", 5, "0" * 64),))

    class Source:
        def post(self, member: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int) -> Any:
            assert (member, path) == ("iasi", "/federation/v1/manifest")
            servers.give(records=[change])
            node.told(change)
            assert node.check() == {}
            assert not node.waits()
            return {
                "manifest": sign_document(servers.keys["iasi"], sender="iasi", document=manifest.to_json())
            }

    class Archive:
        def study(self, study_instance_uid: str) -> Any:
            raise ArchiveError("nothing is stored in this test")

    source: Any = Source()
    archive: Any = Archive()
    transfer = Transfer(
        hospital="bacau", naming=Naming("BACAU", NationalNumber("RO-CNP")), region=servers.current, store=node.pulls,
        guests=node.guests, archive=archive, client=source, tickets=node.tickets, changes=node.changes,
        clock=servers.clock, connections=1, idle_s=1,
    )  # fmt: skip
    with pytest.raises(ArchiveError if denies else TransportError):
        transfer.run(Progress(row))
    assert node.waits()
    assert node.check() == {CT: frozenset({"consent-2" if denies else "consent-1"})}
    assert not node.waits()


def test_numbers_that_key_servers_do_not_take_together_are_asked_one_by_one(node: Node, servers: Servers) -> None:
    given(servers, "consent-1")
    node.copy()
    wrong = PatientIdentifier(CNP.issuer, "2630615123459")
    node.pulls.set(CT, identifiers=json.dumps([[one.issuer, one.value] for one in (CNP, wrong)]))
    # Nobody has two national numbers: key servers say of both together nothing at all.
    other = servers.record("consent-3", wrong, by="bacau", to="bacau")
    assert servers.give(records=[withdrawal(servers), other]) == []
    node.told(withdrawal(servers))
    with pytest.raises(NoTicketError) as caught:
        node.tickets.fresh({CNP, wrong}, Staff("ionescu", "md"))
    assert (caught.value.code, caught.value.nothing_permitted) == ("not-one-person", False)
    assert node.check() == {CT: frozenset({"consent-1"})}
    assert not node.waits()
    assert node.withdrawals.stuck == {}


def test_a_number_that_key_servers_do_not_even_take_alone_is_told_once_and_tried_on(
    node: Node, servers: Servers
) -> None:
    given(servers, "consent-1")
    node.copy()
    servers.give(records=[withdrawal(servers)])
    node.told(withdrawal(servers))
    fresh = node.tickets.fresh

    def not_one(patient: frozenset[PatientIdentifier], staff: Staff) -> Any:
        raise NoTicketError("not-one-person", "two national numbers")

    node.tickets.fresh = not_one  # type: ignore[method-assign,assignment]
    for _ in range(3):
        assert node.check(timedelta(minutes=20)) == {}
        assert node.waits()
    assert "two national numbers" in node.withdrawals.stuck[CT]
    events = [one for one in node.audit.tail() if one["event"] == "retention"]
    assert [(one["outcome"], one["study_instance_uid"], one["detail"]["what"]) for one in events] == [
        ("failure", CT, "unchecked")
    ]
    node.tickets.fresh = fresh  # type: ignore[method-assign]
    assert node.check(timedelta(minutes=20)) == {CT: frozenset({"consent-1"})}
    assert (node.waits(), node.withdrawals.stuck) == (False, {})


def test_a_copy_whose_consent_ended_by_itself_goes_once_the_patient_takes_anything_back(
    node: Node, servers: Servers
) -> None:
    ends = {"period": {"start": "2026-11-01", "end": "2026-11-30"}}
    short = servers.record("consent-1", to="bacau", provision=ends)
    assert servers.give(records=[short, servers.record("consent-2", to="iasi")]) == []
    node.copy()
    assert node.check(timedelta(days=20)) == {}
    taken = servers.record("consent-2", version=2, to="iasi", status="inactive")
    servers.give(records=[taken])
    node.told(taken)
    assert node.check() == {CT: frozenset({"consent-2"})}


def test_copies_kept_by_law_are_written_down_once(servers: Servers, database: Database) -> None:
    node = Node(servers, database, legal_basis="Legea 95/2006")
    given(servers, "consent-1")
    node.copy()
    servers.give(records=[withdrawal(servers)])
    node.told(withdrawal(servers))
    for _ in range(2):
        assert node.check() == {}
        node.guests.hint([CNP], servers.clock())
    events = [one for one in node.audit.tail() if one["event"] == "retention"]
    assert [(one["reason"], one["detail"]) for one in events] == [
        ("Legea 95/2006", {"what": "kept", "consents": ["consent-1"]})
    ]
    assert node.guests.withdrawn(CT) == {"consent-1"}
    node.stop()


def test_many_changes_at_once_leave_tickets_for_care(node: Node, servers: Servers) -> None:
    numbers = [PatientIdentifier("BACAU", str(one)) for one in range(GRANTED_AN_HOUR + 2)]
    asked: list[frozenset[PatientIdentifier]] = []
    for n, number in enumerate(numbers):
        node.pulls.ask(f"1.3.{n}", source="iasi", patient_id="7", identifiers=frozenset({number}), requested_by="WS",
                       now=servers.clock())  # fmt: skip
        node.guests.hint([number], servers.clock())
        node.told(servers.record(f"denial-{n:03}", number, by="bacau", type="deny"))

    def fresh(patient: frozenset[PatientIdentifier], staff: Staff) -> Any:
        asked.append(patient)
        raise NoTicketError("over-rate", "a ticket would have counted")

    node.tickets.fresh = fresh  # type: ignore[method-assign,assignment]
    node.withdrawals._granted = {frozenset({one}): servers.clock() for one in numbers[:GRANTED_AN_HOUR]}
    node.check()
    assert len(asked) == GRANTED_AN_HOUR
    assert node.check(timedelta(hours=2)) == {}
    assert len(asked) == 2 * GRANTED_AN_HOUR + 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"version": 2}, True),
        ({"status": "inactive"}, True),
        ({"type": "deny"}, True),
        ({"provision": {"provision": [{"type": "deny"}]}}, True),
    ],
)
def test_what_takes_something_away(servers: Servers, changes: dict[str, Any], expected: bool) -> None:
    assert takes_away(servers.record("consent-1", **changes)) is expected


@pytest.mark.parametrize("malformed", [None, [], {}, {"document": 5}, {"document": {"resource": []}}])
def test_what_is_no_record_takes_nothing_away(malformed: Any) -> None:
    assert not takes_away(malformed)
