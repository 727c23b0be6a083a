"""Enrolling a patient at the desk: a node with its database, the hub's invitations, and three key servers."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import pytest
from flask import Flask
from werkzeug.test import Client, TestResponse

from contract.test_key_servers import SERVERS, KeyRegion, region
from support.phone import Phone
from support.shelf import Shelf
from support.staff import logged_in
from usmed.domain.canonical import sha256_hex
from usmed.domain.enrolment import Basis, comparison_code, held_enrolment, read_enrolment, valid_credentials
from usmed.domain.errors import PeerDataError, RefusedError, TransportError
from usmed.domain.identifiers import Naming, PatientIdentifier
from usmed.domain.invitation import LIFE, State
from usmed.domain.region import HUB
from usmed.hospital.enrolment_pages import Services, create_enrolment_pages
from usmed.hospital.enrolments import Enrolments, Standing, Wish
from usmed.hospital.frame import Frame, create_entrance
from usmed.hospital.patient_record import PatientRecords
from usmed.hospital.store import CHAIN
from usmed.hub.accesses import Accesses
from usmed.hub.invitations import Invitations
from usmed.hub.patients import OPERATIONS, Patients
from usmed.hub.requests import Requests
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.delivery_store import DeliveryStore
from usmed.platform.storage import Database, open_database

__all__ = ["region"]  # a fixture

CNP = "1630615123457"
NATIONAL, OWN = PatientIdentifier("RO-CNP", CNP), PatientIdentifier("BACAU", "9")
WISH = Wish(
    patient_id="9", issuer="", numbers=frozenset({OWN}), national_number="", birth_date="", document_seen=True,
    basis=None, until=None, lost_phone=False,
)  # fmt: skip
CHILD = replace(WISH, patient_id="77", numbers=frozenset({PatientIdentifier("BACAU", "77")}))
CHILD_OF_A_PARENT = replace(CHILD, basis=Basis.PARENT, until=date(2035, 4, 11))


@dataclass
class Desk:
    """The node of Bacău: `down` does not answer, `deaf` takes no records, `tell` is what the hub says instead."""

    region: KeyRegion
    database: Database
    audit: AuditLog
    hub: Database
    shelf: Shelf = field(default_factory=Shelf)
    down: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    tell: Callable[[str, Any], Any] = lambda path, answer: answer
    sent: list[tuple[str, str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        manifest, clock = (lambda: self.region.manifest), self.region.clock
        self.invitations = Invitations(self.hub, manifest, clock)
        self.patients = Patients(
            self.invitations, Requests(self.hub, manifest, clock), Accesses(self.hub, manifest, clock)
        )
        self.enrolments = self.restarted()

    def restarted(self) -> Enrolments:
        """Return the use case as a new process has it."""
        manifest, clock = (lambda: self.region.manifest), self.region.clock
        self.deliveries = Deliveries(
            own="bacau", region=manifest, store=DeliveryStore(self.database), post=self.post, clock=clock
        )
        naming = Naming("BACAU", self.region.manifest.national_number)
        self.enrolments = Enrolments(
            hospital="bacau",
            key=self.region.keys["bacau"],
            region=manifest,
            records=PatientRecords(self.shelf, naming, lambda: manifest().spoken_for("bacau")),  # type: ignore[arg-type]
            database=self.database,
            deliveries=self.deliveries,
            client=self,
            audit=self.audit,
            clock=clock,
        )
        return self.enrolments

    def post(self, member_id: str, path: str, document: Any, *, deadline_s: float, limit_bytes: int = 0) -> Any:
        """Send to the hub or a key server, as `SignedClient.post`."""
        self.sent.append((member_id, path, document))
        if member_id in self.deaf and path == "/v1/records":
            raise TransportError(f"{member_id} takes nothing")
        if member_id in self.down:
            raise TransportError(f"{member_id} does not answer")
        if member_id == HUB and path == "/v1/consents/records":
            return {"problems": []}
        if member_id == HUB:
            operation = dict(OPERATIONS)[path]
            hospital = self.region.manifest.hospitals["bacau"]
            answer = operation(self.patients, hospital, json.loads(json.dumps(document)))
            return self.tell(path, json.loads(json.dumps(answer)))
        told = self.region.send("bacau", member_id, path, document)
        if told.status_code != 200:
            raise RefusedError(told.json["error"], told.json["message"])
        return told.json

    def invited(self, wish: Wish = WISH) -> Standing:
        return self.enrolments.invite(wish, "ionescu")

    def answered(self, phone: Phone, wish: Wish = WISH, birth_date: str = "19630615") -> Standing:
        begun = self.invited(wish)
        self.invitations.answer(begun.code, birth_date, phone.credential)
        standing = self.enrolments.look(begun.enrolling.id)
        assert standing.enrolling.state is State.ANSWERED
        return standing

    def enrolled(self, phone: Phone, wish: Wish = WISH, birth_date: str = "19630615") -> Standing:
        standing = self.answered(phone, wish, birth_date)
        return self.enrolments.confirm(standing.enrolling.id, standing.digits, "ionescu")

    def held(self, server: str, *numbers: PatientIdentifier) -> list[Any]:
        """Return the enrolments that a key server holds of a patient."""
        identifiers = [{"issuer": one.issuer, "value": one.value} for one in numbers or (OWN,)]
        answer = self.region.send("iasi", server, "/v1/records/for", {"identifiers": identifiers}).json
        return [
            read_enrolment(
                one["token"], hospital=one["hospital"], keys=self.region.manifest.hospital_key, now=self.region.clock()
            )
            for one in answer["enrolments"]
        ]

    def counting(self, server: str, *numbers: PatientIdentifier) -> set[bytes]:
        """Return the ids of the passkeys that count for a patient by what a key server holds, as it reads it itself."""
        identifiers = [{"issuer": one.issuer, "value": one.value} for one in numbers]
        answer = self.region.send("bacau", server, "/v1/records/for", {"identifiers": identifiers}).json
        held = [held_enrolment(one["token"], one["hospital"]) for one in answer["enrolments"]]
        return {one.id for one in valid_credentials(held, self.region.clock())}

    def events(self, event: str = "identity") -> list[Any]:
        return [one for one in self.audit.tail(200) if one["event"] == event]


@pytest.fixture
def new_database_url(tmp_path: Path) -> Callable[[], str]:
    """Return SQLite files only: what differs between the engines, `test_enrolment_store` tests on both."""
    return lambda: f"sqlite:///{tmp_path / uuid4().hex}.db"


@pytest.fixture
def desk(region: KeyRegion, new_database_url: Callable[[], str]) -> Iterator[Desk]:
    database = open_database(new_database_url(), [CHAIN])
    hub = open_database(new_database_url(), ["usmed.hub.migrations"])
    audit = AuditLog(database)
    made = Desk(region, database, audit, hub)
    made.shelf.put("9")
    made.shelf.put("77", "Popescu^Mara", birth_date="20170412", sex="F")
    yield made
    audit.close()
    database.close()
    hub.close()


def throw(error: Exception) -> None:
    raise error


def refused(code: str, act: Callable[..., object], *given: Any) -> None:
    with pytest.raises(RefusedError) as refusal:
        act(*given)
    assert refusal.value.code == code


class Clerk:
    """A clerk's browser, without a script."""

    def __init__(self, desk: Desk, user: str = "ionescu") -> None:
        self.desk, self.user = desk, user
        app = Flask(__name__, root_path=str(files("usmed.hospital")), static_folder=None)
        services = Services(
            desk.enrolments,
            desk.deliveries,
            desk.shelf,  # type: ignore[arg-type]
            Frame(lambda: "Spital", desk.audit, desk.region.clock),
        )
        app.register_blueprint(create_enrolment_pages(services), url_prefix="/desk")
        app.register_blueprint(create_entrance())
        self.browser = Client(app)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.browser.get(f"/desk/{path}", environ_overrides=self.log_in, **options)

    @property
    def log_in(self) -> dict[str, Any]:
        """Return what Orthanc's entry says of whoever has logged in with a password."""
        return logged_in(self.user)

    def post(self, path: str, /, *, csrf: str | None = None, **form: Any) -> TestResponse:
        page = self.get("patient?PatientID=9").text
        token = re.search(r'name="csrf" value="(\w+)"', page)
        assert token is not None
        form["csrf"] = token[1] if csrf is None else csrf
        return self.browser.post(f"/desk/{path}", data=form, environ_overrides=self.log_in)


FORM = {"PatientID": "9", "number": "BACAU\\9", "basis": "patient", "seen": "yes"}


@pytest.fixture
def clerk(desk: Desk) -> Clerk:
    return Clerk(desk)


# ---- the whole way ----


def test_a_patients_phone_is_enrolled_and_every_key_server_knows_it(desk: Desk) -> None:
    phone = Phone()
    begun = desk.invited()
    assert begun.enrolling.address == "https://portal.example/portal/enrol/"
    assert begun.enrolling.expires == desk.region.clock().replace(microsecond=0) + LIFE
    assert begun.digits == ""
    assert desk.enrolments.look(begun.enrolling.id).code == begun.code
    desk.invitations.answer(begun.code, "19630615", phone.credential)
    standing = desk.enrolments.look(begun.enrolling.id)
    assert (standing.enrolling.state, standing.digits) == (State.ANSWERED, comparison_code(phone.credential))
    done = desk.enrolments.confirm(begun.enrolling.id, standing.digits, "ionescu")
    assert done.enrolling.state is State.ENROLLED
    (delivery,) = done.deliveries
    assert set(delivery.delivered) >= set(SERVERS)
    for server in SERVERS:
        (enrolment,) = desk.held(server)
        assert (enrolment.hospital, enrolment.patient) == ("bacau", {OWN})
        assert enrolment.credentials == (phone.credential,)
        assert (enrolment.guardian, enrolment.revoked) == (None, frozenset())
    # Confirming once more signs nothing more.
    assert desk.enrolments.confirm(begun.enrolling.id, standing.digits, "popa").enrolling == done.enrolling
    assert len(desk.held("keys-1")) == 1
    said = [(one["agent"], one["detail"]["what"]) for one in desk.events()]
    assert said == [("ionescu", "invited to the portal"), ("ionescu", "enrolled for the portal")]


def test_the_code_is_nowhere_but_in_memory(desk: Desk) -> None:
    begun = desk.invited()
    (_, path, told) = desk.sent[-1]
    assert path == "/v1/enrolments/invite"
    assert told["code_sha256"] == sha256_hex(begun.code.encode())
    assert begun.code not in str(told)
    assert begun.code not in str(desk.audit.tail(100))
    assert desk.restarted().look(begun.enrolling.id).code == ""
    refused("bad-code", desk.invitations.open, "x" * 32)
    assert desk.invitations.open(begun.code).id == begun.enrolling.id


def test_a_code_is_not_shown_once_a_phone_has_answered(desk: Desk) -> None:
    assert desk.answered(Phone()).code == ""


def test_a_guardian_signs_until_a_day(desk: Desk) -> None:
    wish = replace(CHILD, basis=Basis.PARENT, until=date(2035, 4, 11))
    desk.enrolled(Phone(), wish, "20170412")
    (enrolment,) = desk.held("keys-1", PatientIdentifier("BACAU", "77"))
    assert enrolment.guardian is not None
    assert enrolment.guardian.basis is Basis.PARENT
    assert enrolment.guardian.until.isoformat() == "2035-04-12T00:00:00+00:00"


def test_a_national_number_from_the_document_joins_the_hospitals_own(desk: Desk) -> None:
    desk.enrolled(Phone(), replace(WISH, national_number=CNP))
    (enrolment,) = desk.held("keys-2", NATIONAL)
    assert enrolment.patient == {OWN, NATIONAL}


# ---- what is refused ----


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("document-unseen", {"document_seen": False}),
        ("no-number-chosen", {"numbers": frozenset()}),
        ("no-number-chosen", {"numbers": frozenset({OWN, PatientIdentifier("BACAU", "10")})}),
        ("bad-national-number", {"national_number": "1630615123458"}),
        # Another birth date.
        ("bad-national-number", {"national_number": "1800101221144"}),
        ("no-patient", {"patient_id": "12345"}),
        ("no-end", {"basis": Basis.COURT}),
        ("bad-end", {"basis": Basis.COURT, "until": date(2026, 11, 20)}),
        ("bad-end", {"basis": Basis.COURT, "until": date(2050, 1, 1)}),
        ("majority", {"basis": Basis.PARENT, "until": date(2027, 1, 1)}),
    ],
)
def test_what_does_not_fit_invites_nobody(desk: Desk, code: str, changes: dict[str, Any]) -> None:
    refused(code, desk.invited, replace(WISH, **changes))
    assert desk.sent == []


def test_a_child_does_not_sign_and_parents_do_until_it_is_grown(desk: Desk) -> None:
    refused("child", desk.invited, CHILD)
    refused("majority", desk.invited, replace(CHILD, basis=Basis.PARENT, until=date(2035, 4, 12)))
    assert desk.invited(replace(CHILD, basis=Basis.PARENT, until=date(2035, 4, 11))).code


def test_a_birth_date_that_the_archive_lacks_comes_from_the_document(desk: Desk) -> None:
    desk.shelf.put("5", birth_date="")
    wish = replace(WISH, patient_id="5", numbers=frozenset({PatientIdentifier("BACAU", "5")}))
    refused("no-birth-date", desk.invited, wish)
    refused("no-birth-date", desk.invited, replace(wish, birth_date="20991231"))
    assert desk.invited(replace(wish, birth_date="19700228")).enrolling.birth_date == "19700228"
    # Where it has one, that one counts.
    assert desk.invited(replace(WISH, birth_date="19700228")).enrolling.birth_date == "19630615"


@pytest.mark.parametrize(
    ("archive", "possible"),
    [
        ({"birth_date": "", "sex": ""}, False),
        ({"birth_date": "", "sex": "O"}, False),
        ({"birth_date": "", "sex": "M"}, True),
        ({"birth_date": "19630615", "sex": ""}, True),
    ],
)
def test_a_number_is_typed_only_where_the_archive_has_something_to_compare_it_with(
    desk: Desk, archive: dict[str, str], possible: bool
) -> None:
    desk.shelf.put("5", "", **archive)
    wish = replace(
        WISH, patient_id="5", numbers=frozenset({PatientIdentifier("BACAU", "5")}), national_number=CNP,
        birth_date="19630615",
    )  # fmt: skip
    if possible:
        assert NATIONAL in desk.invited(wish).enrolling.numbers
        return
    refused("nothing-to-compare", desk.invited, wish)
    refused("nothing-to-compare", desk.enrolments.block, wish, "popa")
    assert desk.sent == []
    assert desk.invited(replace(wish, national_number="")).code


def test_the_audit_log_names_the_numbers_that_one_clerk_joined_and_which_was_typed(desk: Desk) -> None:
    desk.enrolled(Phone(), replace(WISH, national_number=CNP))
    desk.enrolments.block(replace(WISH, national_number=CNP), "popa")
    desk.invited()
    said = [(one["detail"]["numbers"], one["detail"]["typed"]) for one in desk.events()]
    assert said == [(["BACAU:9", f"RO-CNP:{CNP}"], CNP)] * 3 + [(["BACAU:9"], "")]


def test_an_archive_that_contradicts_itself_meanwhile_stops_the_signature(desk: Desk) -> None:
    standing = desk.answered(Phone())
    desk.shelf.put("9", "Ionescu^Dan")
    refused("contradiction", desk.enrolments.confirm, standing.enrolling.id, standing.digits, "ionescu")
    assert desk.held("keys-1") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Ionescu^Ion"},
        {"birth_date": "19800101"},
        {"birth_date": ""},
        {"sex": "F"},
        {"other_identifiers": (("RO-CNP", CNP),)},
    ],
)
def test_whoever_is_behind_the_number_meanwhile_is_not_enrolled(
    desk: Desk, clerk: Clerk, changes: dict[str, Any]
) -> None:
    standing = desk.answered(Phone())
    desk.shelf.studies.clear()
    desk.shelf.put("9", **changes)
    refused("record-changed", desk.enrolments.confirm, standing.enrolling.id, standing.digits, "ionescu")
    page = clerk.post(f"enrolments/{standing.enrolling.id}/confirmation", digits=standing.digits).text
    assert "Arhiva spune acum altceva" in page
    # The page shows one patient, not one's name with another's birth date.
    assert ("15.06.1963" in page) is (changes.get("birth_date") != "19800101")
    assert ("01.01.1980" in page) is (changes.get("birth_date") == "19800101")
    assert desk.held("keys-1") == []


def test_a_study_that_says_the_same_does_not_stop_the_signature(desk: Desk) -> None:
    standing = desk.answered(Phone())
    desk.shelf.put("9", "POPESCU^ION^^", birth_date="")
    done = desk.enrolments.confirm(standing.enrolling.id, standing.digits, "ionescu")
    assert done.enrolling.state is State.ENROLLED


def test_only_what_was_compared_is_signed(desk: Desk) -> None:
    standing = desk.answered(Phone())
    refused("other-digits", desk.enrolments.confirm, standing.enrolling.id, "000 000", "ionescu")
    refused("other-digits", desk.enrolments.confirm, standing.enrolling.id, "", "ionescu")
    assert desk.held("keys-1") == []


def test_a_hub_that_exchanges_the_passkey_later_changes_nothing(desk: Desk) -> None:
    phone = Phone()
    standing = desk.answered(phone)
    other = {"id": b"other-passkey".hex(), "public_key": b"k".hex()}
    desk.tell = lambda path, answer: {"state": "answered", "credential": other}
    assert desk.enrolments.look(standing.enrolling.id).digits == comparison_code(phone.credential)


@pytest.mark.parametrize(
    "answer",
    [
        {}, {"state": "maybe", "credential": None}, {"state": "answered", "credential": None}, [],
        {"state": "answered", "credential": {"id": "", "public_key": "00"}},
        {"state": "answered", "credential": {"id": "xx", "public_key": "00"}},
        {"state": "answered", "credential": {"id": "00" * 2000, "public_key": "00"}},
    ],
)  # fmt: skip
def test_a_malformed_answer_of_the_hub_moves_nothing(desk: Desk, answer: Any) -> None:
    begun = desk.invited()
    desk.tell = lambda path, _: answer
    standing = desk.enrolments.look(begun.enrolling.id)
    assert standing.enrolling.state is State.WAITING
    assert standing.problem


@pytest.mark.parametrize(
    "address", ["https://elsewhere.example/portal/enrol/", "https://portal.example.evil/enrol/", "", None]
)
def test_the_code_is_never_sent_to_another_site_than_the_portal(desk: Desk, address: Any) -> None:
    desk.tell = lambda path, answer: {**answer, "address": address}
    with pytest.raises(PeerDataError):
        desk.invited()
    assert desk.enrolments.recent() == []


def test_without_a_portal_nobody_is_enrolled(desk: Desk) -> None:
    desk.region.manifest = replace(desk.region.manifest, portal="")
    refused("no-portal", desk.invited)


# ---- time, cancelling, what is away ----


def test_what_was_cancelled_is_never_signed(desk: Desk) -> None:
    begun = desk.invited()
    assert desk.enrolments.cancel(begun.enrolling.id, "ionescu").enrolling.state is State.VOID
    refused("bad-code", desk.invitations.open, begun.code)
    standing = desk.answered(Phone())
    desk.enrolments.cancel(standing.enrolling.id, "ionescu")
    refused("not-answered", desk.enrolments.confirm, standing.enrolling.id, standing.digits, "ionescu")
    assert desk.held("keys-1") == []
    assert [one["detail"]["what"] for one in desk.events()].count("invitation to the portal cancelled") == 2


def test_cancelling_counts_here_though_the_hub_is_away(desk: Desk) -> None:
    standing = desk.answered(Phone())
    desk.down = {HUB}
    assert desk.enrolments.cancel(standing.enrolling.id, "ionescu").enrolling.state is State.VOID
    desk.down = set()
    assert desk.enrolments.look(standing.enrolling.id).enrolling.state is State.VOID
    # Done is done.
    done = desk.enrolled(Phone(id=b"credential-2"))
    assert desk.enrolments.cancel(done.enrolling.id, "ionescu").enrolling.state is State.ENROLLED


@pytest.mark.parametrize("code", ["unavailable", "busy", "unknown-sender", "replayed"])
def test_a_hub_that_refuses_for_now_ends_no_invitation(desk: Desk, code: str) -> None:
    phone = Phone()
    standing = desk.answered(phone)
    waiting = desk.invited(CHILD_OF_A_PARENT)
    failing = RefusedError(code, "the database does not answer; try again later")
    desk.tell = lambda path, answer: throw(failing)
    for one in (standing, waiting):
        now = desk.enrolments.look(one.enrolling.id)
        assert now.enrolling.state is one.enrolling.state
        assert "try again" in now.problem
    desk.tell = lambda path, answer: answer
    done = desk.enrolments.confirm(standing.enrolling.id, standing.digits, "ionescu")
    assert done.enrolling.state is State.ENROLLED


def test_a_hub_that_does_not_know_an_invitation_any_more_ends_it(desk: Desk) -> None:
    standing = desk.answered(Phone())
    desk.tell = lambda path, answer: throw(RefusedError("unknown-invitation", "there is no such invitation"))
    assert desk.enrolments.look(standing.enrolling.id).enrolling.state is State.VOID


def test_an_invitation_ends_also_while_the_hub_is_away(desk: Desk) -> None:
    begun = desk.invited()
    desk.down = {HUB}
    desk.region.clock.advance(LIFE.total_seconds() - 1)
    assert desk.enrolments.look(begun.enrolling.id).enrolling.state is State.WAITING
    desk.region.clock.advance(1)
    assert desk.enrolments.look(begun.enrolling.id).enrolling.state is State.EXPIRED


def test_an_answer_that_nobody_confirms_ends(desk: Desk) -> None:
    standing = desk.answered(Phone())
    desk.region.clock.advance(LIFE.total_seconds() + 1)
    refused("not-answered", desk.enrolments.confirm, standing.enrolling.id, standing.digits, "ionescu")
    assert desk.enrolments.look(standing.enrolling.id).enrolling.state is State.EXPIRED


def test_five_wrong_birth_dates_show_as_void(desk: Desk) -> None:
    begun = desk.invited()
    for _ in range(5):
        with pytest.raises(RefusedError):
            desk.invitations.check_birth_date(begun.code, "19000101")
    assert desk.enrolments.look(begun.enrolling.id).enrolling.state is State.VOID


def test_what_a_key_server_could_not_be_told_it_is_told_later(desk: Desk) -> None:
    desk.down = {"keys-2"}
    done = desk.enrolled(Phone())
    (delivery,) = done.deliveries
    assert "keys-2" in delivery.problems
    desk.down = set()
    desk.restarted().recent()
    desk.deliveries.deliver(delivery.item)
    assert len(desk.held("keys-2")) == 1


# ---- a lost phone ----


def test_a_lost_phones_passkeys_stop_counting_wherever_they_were_enrolled(desk: Desk) -> None:
    first, elsewhere, new = Phone(), Phone(id=b"of-iasi"), Phone(id=b"new")
    desk.enrolled(first)
    # Iași knows the patient by the national number, which Bacău's enrolment names as well.
    token = desk.region.enrolment(NATIONAL, by="iasi", credentials=[elsewhere.credential])
    desk.region.give(enrolments=[token])
    desk.enrolled(new, replace(WISH, national_number=CNP, lost_phone=True))
    (newest,) = [one for one in desk.held("keys-3") if new.credential in one.credentials]
    assert (newest.patient, newest.revoked) == ({OWN, NATIONAL}, frozenset())
    # One statement for each number, so that none of them joins anything.
    revoking = [one for one in desk.held("keys-3") if one.revoked]
    assert sorted(map(tuple, (one.patient for one in revoking))) == [(OWN,), (NATIONAL,)]
    assert {one.revoked for one in revoking} == {frozenset({first.id, elsewhere.id})}
    for server in SERVERS:
        assert desk.counting(server, OWN) == desk.counting(server, NATIONAL) == {new.id}
    assert desk.events()[-1]["detail"]["passkeys_revoked"] == 2


OTHER_CNP = "1630615123465"


def blocked(clerk: Clerk, **more: str) -> str:
    """Block from the form; return the page that it leads to."""
    answer = clerk.post("block", **FORM, **more)
    assert answer.status_code == 303, answer.text
    return clerk.get(answer.headers["Location"].removeprefix("../").removeprefix("desk/")).text


def test_a_phone_is_blocked_though_key_servers_refuse_to_join_the_numbers(desk: Desk, clerk: Clerk) -> None:
    phone = Phone()
    # A clerk has typed a brother's number.
    desk.enrolled(phone, replace(WISH, national_number=OTHER_CNP))
    page = blocked(clerk, national=CNP)
    assert "Telefoanele vechi sunt blocate" in page
    assert "<b>3 din 3</b>" in page
    for server in SERVERS:
        assert desk.counting(server, OWN) == set()


def test_a_lost_phone_is_blocked_though_key_servers_refuse_the_new_one(desk: Desk, clerk: Clerk) -> None:
    desk.enrolled(Phone(), replace(WISH, national_number=OTHER_CNP))
    done = desk.enrolled(Phone(id=b"new"), replace(WISH, national_number=CNP, lost_phone=True))
    for server in SERVERS:
        assert desk.counting(server, OWN) == set()
    # The clerk reads that the new phone does not count.
    page = clerk.get(f"enrolments/{done.enrolling.id}").text
    assert "<b>0 din 3</b>" in page
    assert "<b>keys-2</b>" in page
    assert "one person has one national number" in page


def test_the_clerk_reads_that_phones_are_not_blocked_everywhere_yet(desk: Desk, clerk: Clerk) -> None:
    desk.enrolled(Phone())
    desk.deaf = {"keys-2", "keys-3"}
    page = blocked(clerk)
    assert "Telefoanele vechi sunt blocate" not in page
    assert "nu sunt încă blocate" in page
    assert "<b>1 din 3</b>" in page
    assert "keys-2 takes nothing" in page
    # The page goes on by itself: when the others have taken it, it says so, and loading it again blocks nothing anew.
    found = re.search(r'data-state="enrolled-1" data-poll="([^"]+)"', page)
    assert found is not None
    desk.deaf = set()
    address = found[1].rpartition("enrolments/")[2].removesuffix("/state")
    desk.region.clock.advance(3600)
    for delivery in desk.enrolments.look(address).deliveries:
        desk.deliveries.deliver(delivery.item)
    assert clerk.get(f"enrolments/{address}/state").json == {"State": "enrolled-3", "Problem": False}
    page = clerk.get(f"enrolments/{address}").text
    assert "Telefoanele vechi sunt blocate" in page
    assert "data-poll" not in page
    assert "telefoane vechi blocate" in clerk.get("start").text


def test_more_passkeys_than_one_statement_names_are_blocked_too(desk: Desk) -> None:
    phones = [Phone(id=f"phone-{number}".encode()).credential for number in range(120)]
    tokens = [desk.region.enrolment(OWN, credentials=phones[n : n + 10]) for n in range(0, 120, 10)]
    for server in SERVERS:
        desk.region.give(server, enrolments=tokens)
    standing = desk.enrolments.block(WISH, "popa")
    assert (standing.passkeys, len(standing.deliveries)) == (120, 3)
    assert desk.counting("keys-1", OWN) == set()


def test_a_phone_is_blocked_for_all_numbers_that_it_stands_for(desk: Desk) -> None:
    lost, other, ten = Phone(id=b"lost"), Phone(id=b"of-somebody"), PatientIdentifier("BACAU", "10")
    desk.shelf.put("9", other_identifiers=(("BACAU", "10"), ("RO-CNP", CNP)))
    # One phone, enrolled under each number by itself: nothing joins these.
    for number, by in ((OWN, "bacau"), (NATIONAL, "iasi")):
        desk.region.give(enrolments=[desk.region.enrolment(number, by=by, credentials=[lost.credential])])
    # The further number is somebody else's, by a slip.
    desk.region.give(enrolments=[desk.region.enrolment(ten, credentials=[other.credential])])
    standing = desk.enrolments.block(WISH, "popa")
    assert standing.passkeys == 1
    assert desk.counting("keys-1", OWN) == desk.counting("keys-1", NATIONAL) == set()
    assert desk.counting("keys-1", ten) == {other.id}


def test_a_key_that_no_passkey_has_is_never_signed(desk: Desk) -> None:
    begun, forged = desk.invited(), {"id": b"passkey".hex(), "public_key": b"no key".hex()}
    desk.tell = lambda path, answer: {"state": "answered", "credential": forged} if "state" in path else answer
    standing = desk.enrolments.look(begun.enrolling.id)
    assert (standing.enrolling.state, standing.digits) == (State.WAITING, "")
    assert "public key is none" in standing.problem


def test_a_passkey_under_a_number_that_is_joined_elsewhere_is_blocked_too(desk: Desk) -> None:
    own, elsewhere, stranger = Phone(id=b"own"), Phone(id=b"of-iasi"), Phone(id=b"stranger")
    desk.enrolled(own, replace(WISH, national_number=CNP))
    desk.region.give(enrolments=[desk.region.enrolment(NATIONAL, by="iasi", credentials=[elsewhere.credential])])
    other = desk.region.enrolment(PatientIdentifier("BACAU", "10"), credentials=[stranger.credential])
    desk.region.give(enrolments=[other])
    real = desk.post

    def post(member: str, path: str, document: Any, **given: Any) -> Any:
        answer = real(member, path, document, **given)
        if path == "/v1/records/for":
            # What nothing links to the patient is somebody else's.
            answer["enrolments"].append(other)
        return answer

    desk.post = post  # type: ignore[method-assign]
    # Opened under the hospital's own number; the archive does not have the national one.
    assert desk.counting("keys-1", OWN) == {own.id, elsewhere.id}
    desk.enrolments.block(WISH, "popa")
    assert desk.counting("keys-1", OWN) == desk.counting("keys-1", NATIONAL) == set()
    assert desk.counting("keys-1", PatientIdentifier("BACAU", "10")) == {stranger.id}
    assert {id for one in desk.held("keys-1") for id in one.revoked} == {own.id, elsewhere.id}


@pytest.mark.parametrize("hospital", ["bacau", "iasi", "nowhere"])
def test_a_revocation_that_no_hospital_signed_keeps_no_phone_from_being_blocked(desk: Desk, hospital: str) -> None:
    phone = Phone()
    desk.enrolled(phone)
    token = desk.region.enrolment(OWN, by="keys-1", revoked=[phone.id])["token"]
    real = desk.post

    def post(member: str, path: str, document: Any, **given: Any) -> Any:
        answer = real(member, path, document, **given)
        if path == "/v1/records/for" and member == "keys-1":
            answer["enrolments"].append({"hospital": hospital, "token": token})
        return answer

    desk.post = post  # type: ignore[method-assign]
    assert desk.enrolments.block(WISH, "popa").passkeys == 1
    assert desk.counting("keys-2", OWN) == set()


@pytest.mark.parametrize("left", [False, True])
def test_a_passkey_of_a_hospital_with_a_new_key_or_that_left_is_blocked_too(desk: Desk, left: bool) -> None:
    elsewhere = Phone(id=b"of-iasi")
    desk.region.give(enrolments=[desk.region.enrolment(NATIONAL, by="iasi", credentials=[elsewhere.credential])])
    hospitals = dict(desk.region.manifest.hospitals)
    hospitals["iasi"] = replace(hospitals["iasi"], key=desk.region.keys["keys-1"])
    if left:
        del hospitals["iasi"]
    desk.region.manifest = replace(desk.region.manifest, hospitals=hospitals)
    assert desk.counting("keys-1", NATIONAL) == {elsewhere.id}
    desk.enrolments.block(replace(WISH, national_number=CNP), "popa")
    assert desk.counting("keys-1", NATIONAL) == set()


@pytest.mark.parametrize("answer", [[], {}, {"enrolments": [{}]}, {"enrolments": [{"hospital": "iasi", "token": "x"}]}])
def test_a_key_servers_malformed_answer_is_none(desk: Desk, answer: Any) -> None:
    desk.enrolled(Phone())
    real = desk.post
    desk.post = lambda member, path, document, **given: (  # type: ignore[method-assign]
        answer if path == "/v1/records/for" else real(member, path, document, **given)
    )
    refused("too-few-key-servers", desk.enrolments.block, WISH, "popa")


def test_what_to_revoke_is_asked_of_so_many_key_servers_that_none_that_counts_is_missed(
    desk: Desk, clerk: Clerk
) -> None:
    elsewhere = Phone(id=b"of-iasi")
    desk.enrolled(Phone(), replace(WISH, national_number=CNP))
    # Two hold it, which is enough for a ticket.
    desk.region.give("keys-1", "keys-2", enrolments=[
        desk.region.enrolment(NATIONAL, by="iasi", credentials=[elsewhere.credential])
    ])  # fmt: skip
    standing = desk.answered(Phone(id=b"new"), replace(WISH, lost_phone=True))
    desk.down = {"keys-1", "keys-2"}
    refused("too-few-key-servers", desk.enrolments.block, WISH, "popa")
    refused("too-few-key-servers", desk.enrolments.confirm, standing.enrolling.id, standing.digits, "ionescu")
    assert "Nu răspund destule servere de chei" in clerk.post("block", **FORM).text
    desk.down = {"keys-1"}
    done = desk.enrolments.confirm(standing.enrolling.id, standing.digits, "ionescu")
    assert done.enrolling.state is State.ENROLLED
    assert desk.counting("keys-2", OWN) == {b"new"}


def test_earlier_passkeys_are_blocked_without_a_new_phone(desk: Desk) -> None:
    refused("no-passkey", desk.enrolments.block, WISH, "popa")
    phone = Phone()
    desk.enrolled(phone)
    refused("document-unseen", desk.enrolments.block, replace(WISH, document_seen=False), "popa")
    assert desk.enrolments.block(WISH, "popa").passkeys == 1
    (blocked,) = [one for one in desk.held("keys-1") if one.revoked]
    assert (blocked.revoked, blocked.credentials) == ({phone.id}, ())
    refused("no-passkey", desk.enrolments.block, WISH, "popa")
    assert (desk.events()[-1]["agent"], desk.events()[-1]["detail"]["passkeys_revoked"]) == ("popa", 1)


def test_what_was_signed_here_is_revoked_though_no_key_server_has_it_yet(desk: Desk) -> None:
    phone = Phone()
    desk.down = set(SERVERS)
    desk.enrolled(phone)
    desk.down = set()
    assert desk.enrolments.block(WISH, "popa").passkeys == 1


# ---- the pages ----


def test_the_pages_lead_from_the_form_to_the_signature_without_a_script(desk: Desk, clerk: Clerk) -> None:
    page = clerk.get("patient?PatientID=9", headers={"Accept-Language": "en"}).text
    assert "Popescu Ion" in page
    assert "15.06.1963" in page
    answer = clerk.post("enrolments", **FORM)
    assert answer.status_code == 303
    id = answer.headers["Location"].rpartition("/")[2]
    page = clerk.get(f"enrolments/{id}").text
    code = re.search(r"portal/enrol/([\w-]{32})<", page)
    assert code is not None
    assert "<svg" in page
    assert 'http-equiv="refresh"' in page
    assert clerk.get(f"enrolments/{id}/state").json == {"State": "waiting", "Problem": False}
    phone = Phone()
    desk.invitations.answer(code[1], "19630615", phone.credential)
    assert clerk.get(f"enrolments/{id}/state").json["State"] == "answered"
    digits = comparison_code(phone.credential)
    assert digits in clerk.get(f"enrolments/{id}").text
    answer = clerk.post(f"enrolments/{id}/confirmation", digits=digits)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"../../../desk/enrolments/{id}")
    assert clerk.get(f"enrolments/{id}/state").json["State"] == "enrolled-3"
    assert len(desk.held("keys-1")) == 1
    assert id in clerk.get("start").text


def test_a_form_from_elsewhere_or_without_a_log_in_does_nothing(desk: Desk, clerk: Clerk) -> None:
    for csrf in ("", "0" * 64):
        assert clerk.post("enrolments", csrf=csrf, **FORM).status_code == 200
    # The token of another member of staff.
    other = Clerk(desk, "popa").get("patient?PatientID=9").text
    token = re.search(r'name="csrf" value="(\w+)"', other)
    assert token is not None
    clerk.post("enrolments", csrf=token[1], **FORM)
    assert desk.enrolments.recent() == []
    assert [one["reason"].partition(":")[0] for one in desk.events("refused")] == ["stale-form"] * 3
    nobody = Clerk(desk, "http")
    assert "Popescu" not in nobody.get("patient?PatientID=9").text
    assert nobody.browser.get("/static/pages.css").status_code == 200


def test_what_is_wrong_is_said_in_the_clerks_language_beside_what_was_filled_in(desk: Desk, clerk: Clerk) -> None:
    page = clerk.post("enrolments", **FORM | {"national": "123", "basis": "court", "until": "2030-01-01"}).text
    assert "CNP valid" in page
    assert 'value="123"' in page
    assert 'value="court" required checked' in page
    assert 'value="2030-01-01"' in page
    assert clerk.get("patient?PatientID=4711").text.count("Niciun studiu") == 1
    desk.down = {HUB}
    assert "nu răspund" in clerk.post("enrolments", **FORM).text


def test_a_number_that_is_not_the_patients_is_not_chosen_by_a_forged_form(desk: Desk, clerk: Clerk) -> None:
    clerk.post("enrolments", **FORM | {"number": "BACAU\\77"})
    assert desk.enrolments.recent() == []


def test_a_further_number_of_the_hospitals_own_has_to_be_chosen(desk: Desk, clerk: Clerk) -> None:
    desk.shelf.put("9", other_identifiers=(("BACAU", "10"), ("RO-CNP", CNP)))
    ticked = re.findall(r'name="number" value="([^"]+)"( checked)?', clerk.get("patient?PatientID=9").text)
    assert ticked == [("BACAU\\9", " checked"), ("BACAU\\10", ""), ("RO-CNP\\" + CNP, " checked")]
    page = clerk.post("enrolments", **FORM | {"number": "BACAU\\10", "seen": "no"}).text
    assert re.findall(r'value="([^"]+)" checked', page)[0] == "BACAU\\10"


def test_names_are_text_and_policies_let_no_script_in(desk: Desk, clerk: Clerk) -> None:
    desk.shelf.put("66", "<script>alert(1)</script>")
    answer = clerk.get("patient?PatientID=66")
    assert "&lt;script&gt;alert" in answer.text
    assert "<script>" not in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"\s(style|on\w+)=", answer.text)


def test_the_language_is_romanian_unless_the_browser_or_the_clerk_says_otherwise(clerk: Clerk) -> None:
    assert '<html lang="ro">' in clerk.get("start").text
    assert '<html lang="en">' in clerk.get("start", headers={"Accept-Language": "en-GB,en"}).text
    assert '<html lang="en">' in clerk.get("start?lang=en").text
    assert '<html lang="en">' in clerk.get("start").text


@pytest.mark.parametrize("shown", ["https://pacs.example/desk", "https://pacs.example/a/b/desk/"])
def test_the_entrance_leads_to_the_first_page_behind_a_proxys_prefix_too(clerk: Clerk, shown: str) -> None:
    # What the browser shows; Orthanc hands it on without the prefix and without the slash.
    prefix = shown.removesuffix("/").removesuffix("/desk")
    for _ in range(3):
        path = shown.removeprefix(prefix).removesuffix("/")
        answer = clerk.browser.get(path, environ_overrides=clerk.log_in)
        if answer.status_code == 200:
            break
        assert answer.status_code == 303
        shown = urljoin(shown, answer.headers["Location"])
    assert shown == f"{prefix}/desk/start"
    assert "Ghișeul" in answer.text


def test_from_orthanc_explorer_a_patient_is_opened_by_orthancs_own_identifier(clerk: Clerk) -> None:
    assert "Popescu Ion" in clerk.get("patient?orthanc=9").text
    assert "Niciun studiu" in clerk.get("patient?orthanc=none").text
