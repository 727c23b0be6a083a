"""Enrolling a patient for the region's portal: one clerk, who has seen the identity document.

The clerk's node makes a code that the patient's phone reads from the screen; the hub knows its hash only. The phone
answers with a passkey, the clerk compares six digits, and the node signs: this passkey is this person's. The states are
those of `domain.invitation`. The code is in memory only: after a restart the clerk makes a new one.
"""

import contextlib
import secrets
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import batched, count, takewhile
from typing import Any
from uuid import uuid4

from joserfc.jwk import OKPKey

from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.enrolment import (
    LONGEST_ID,
    LONGEST_KEY,
    MAXIMUM_REVOKED,
    Basis,
    Credential,
    Guardian,
    comparison_code,
    enrol,
    held_enrolment,
    is_passkey_key,
)
from usmed.domain.errors import PeerDataError, RefusedError, UsmedError
from usmed.domain.identifiers import NationalNumber, PatientIdentifier
from usmed.domain.invitation import LIFE, OPEN, Change, State, code_digest
from usmed.domain.region import HUB, RegionManifest
from usmed.domain.study_record import is_date
from usmed.hospital.counting_passkeys import Counting, CountingPasskeys
from usmed.hospital.enrolment_store import Enrolling, EnrolmentStore
from usmed.hospital.identities import Poster
from usmed.hospital.patient_record import PatientRecord, PatientRecords, age, birthday
from usmed.platform.audit_log import AuditLog, Receipt, append_in
from usmed.platform.deliveries import Deliveries
from usmed.platform.delivery_store import Delivery, Item
from usmed.platform.storage import Database

INVITE_PATH, STATE_PATH, CANCEL_PATH = "/v1/enrolments/invite", "/v1/enrolments/state", "/v1/enrolments/cancel"
UNKNOWN = "unknown-invitation"
"""What the hub says of an invitation that it does not have."""

DEADLINE_S = 5.0
SIGNS_FROM, MAJORITY = 16, 18
"""Ages. Below the first nobody signs for themselves on the portal (GDPR, article 8); a parent acts until the second."""

LONGEST_GUARDIAN = timedelta(days=20 * 366)
SHOWN = timedelta(days=7)
MOST_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Wish:
    """What the clerk has filled in.

    Attributes:
        patient_id, issuer: the number under which the patient was opened.
        numbers: chosen from the patient's record.
        national_number: read from the identity document, where the record has none; empty otherwise.
        birth_date: the same (YYYYMMDD).
        document_seen: the clerk has seen the identity document, and it is this patient's.
        basis: on which somebody acts for the patient; None for the patient.
        until: the last day on which that person acts.
        lost_phone: the patient's earlier passkeys stop counting.
    """

    patient_id: str
    issuer: str
    numbers: frozenset[PatientIdentifier]
    national_number: str
    birth_date: str
    document_seen: bool
    basis: Basis | None
    until: date | None
    lost_phone: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How an enrolment stands, or the blocking of phones.

    `code` is part of the address to show while it waits, empty where it is not known here any more; `digits` are what
    the clerk compares; `problem` is why the hub was not asked just now; `deliveries` are of what was signed; `passkeys`
    is how many earlier ones that blocks.
    """

    enrolling: Enrolling
    code: str = ""
    digits: str = ""
    problem: str = ""
    deliveries: tuple[Delivery, ...] = ()

    @property
    def passkeys(self) -> int:
        """Count what the deliveries revoke."""
        tokens = [(one.item.record["token"], one.item.record["hospital"]) for one in self.deliveries]
        return len(frozenset[bytes]().union(*(held_enrolment(*one).revoked for one in tokens)))


class Enrolments:
    """The use case of the desk's clerk."""

    def __init__(
        self,
        *,
        hospital: str,
        key: OKPKey,
        region: Callable[[], RegionManifest],
        records: PatientRecords,
        database: Database,
        deliveries: Deliveries,
        client: Poster,
        audit: AuditLog,
        clock: Callable[[], datetime],
    ) -> None:
        self._hospital = hospital
        self._key = key
        self._region = region
        self._records = records
        self._database = database
        self._store = EnrolmentStore(database)
        self._passkeys = CountingPasskeys(region, self._store, client, clock)
        self._deliveries = deliveries
        self._client = client
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._codes: dict[str, tuple[str, datetime]] = {}

    @property
    def possible(self) -> bool:
        """Tell whether the region has a portal now."""
        return bool(self._region().portal)

    @property
    def national(self) -> NationalNumber | None:
        """Return the region's national number."""
        return self._region().national_number

    def record(self, patient_id: str, issuer: str = "") -> PatientRecord:
        """Return what the archive says of a patient; raises as `PatientRecords.of`."""
        return self._records.of(patient_id, issuer)

    def invite(self, wish: Wish, staff: str) -> Standing:
        """Begin an enrolment: make the code that the patient's phone is to read.

        Args:
            wish: what the clerk filled in.
            staff: the clerk.

        Raises:
            RefusedError, PeerDataError: something is missing or does not fit, with a code; or the hub refuses.
            TransportError: the hub was not reached.
        """
        self._need_portal()
        record = self.record(wish.patient_id, wish.issuer)
        now = self._clock()
        birth_date = self._birth_date(wish, record, now)
        numbers = self._numbers(wish, record, birth_date)
        guardian = self._guardian(wish, birth_date, now)
        id, code = str(uuid4()), secrets.token_urlsafe(24)
        answer = self._client.post(
            HUB,
            INVITE_PATH,
            {
                "id": id,
                "code_sha256": code_digest(code),
                "patient": _listed(numbers),
                "birth_date": birth_date,
                "guardian": _guardian_document(guardian),
            },
            deadline_s=DEADLINE_S,
        )
        address, expires = self._read_invited(answer, now)
        one = Enrolling(
            id, wish.patient_id, wish.issuer, numbers, birth_date, guardian, wish.lost_phone, State.WAITING, staff, now,
            expires, address, typed=wish.national_number, record_sha256=record.digest,
        )  # fmt: skip
        self._record(one, staff, "invited to the portal").wait()
        self._store.add(one)
        with self._lock:
            self._codes = {each: held for each, held in self._codes.items() if now < held[1]}
            self._codes[id] = (code, expires)
        return Standing(one, code)

    def look(self, id: str) -> Standing:
        """Return how an enrolment stands now, as the hub knows.

        Raises:
            RefusedError: there is none of this id.
        """
        one, problem = self._known(id), ""
        if one.state in OPEN:
            try:
                self._follow(one)
            except UsmedError as error:
                problem = str(error)
                if self._clock() >= one.expires:
                    self._store.change(id, Change.EXPIRE)
            one = self._known(id)
        return self._standing(one, problem)

    def confirm(self, id: str, digits: str, staff: str) -> Standing:
        """Sign that the passkey which answered is this patient's: the clerk has compared the digits.

        Args:
            id: the enrolment's.
            digits: those that the clerk was shown and compared, so that nothing else is signed.
            staff: the clerk.

        Raises:
            RefusedError: nothing has answered, it is over, what was compared is something else, or the archive says
                something else by now; or earlier passkeys are to stop counting, and too few key servers say which.
        """
        one = self._known(id)
        if one.state is State.ENROLLED:
            return self._standing(one)
        if one.state is not State.ANSWERED or one.credential is None or self._clock() >= one.expires:
            raise RefusedError("not-answered", "no phone has answered, or it is over: begin anew")
        if one.guardian is not None and self._clock() >= one.guardian.until:
            raise RefusedError("bad-end", "that person's time is over")
        if digits != comparison_code(one.credential):
            raise RefusedError("other-digits", "what was compared is not what would be signed: compare again")
        # Once more: the archive may contradict itself meanwhile, or another patient be behind the number.
        record = self.record(one.patient_id, one.issuer)
        if record.digest != one.record_sha256:
            raise RefusedError("record-changed", "the archive says something else of this patient now: begin again")
        gone = Counting(frozenset(), one.numbers)
        if one.lost_phone:
            gone = self._passkeys.of(one.numbers, record.numbers)
            gone = replace(gone, passkeys=gone.passkeys - {one.credential.id})
        self._sign(one, one.credential, gone, staff, "enrolled for the portal", Change.ENROL)
        return self._standing(self._known(id))

    def block(self, wish: Wish, staff: str) -> Standing:
        """Let a patient's earlier passkeys stop counting, without a new one, for all numbers that they stand for.

        Raises:
            RefusedError, PeerDataError: as `invite`; there is none; or too few key servers say which there are.
        """
        self._need_portal()
        record, now = self.record(wish.patient_id, wish.issuer), self._clock()
        birth_date = self._birth_date(wish, record, now)
        numbers = self._numbers(wish, record, birth_date)
        gone = self._passkeys.of(numbers, record.numbers)
        if not gone.passkeys:
            raise RefusedError("no-passkey", "no passkey of this patient counts: there is nothing to block")
        id, done = str(uuid4()), State.ENROLLED
        one = Enrolling(
            id, wish.patient_id, wish.issuer, numbers, birth_date, None, True, done, staff, now, now, "",
            typed=wish.national_number,
        )  # fmt: skip
        self._sign(one, None, gone, staff, "earlier passkeys blocked", None)
        return self._standing(one)

    def cancel(self, id: str, staff: str) -> Standing:
        """Give an enrolment up. It counts here at once; the hub is told if it can be.

        Raises:
            RefusedError: there is none of this id.
        """
        one = self._known(id)
        if self._store.change(id, Change.REVOKE):
            self._record(one, staff, "invitation to the portal cancelled").wait()
            # Else it ends there by itself; this hospital signs nothing for it any more.
            with contextlib.suppress(UsmedError):
                self._client.post(HUB, CANCEL_PATH, {"id": id}, deadline_s=DEADLINE_S)
        return self._standing(self._known(id))

    def recent(self) -> list[Enrolling]:
        """Return what is under way and what was begun in the last days, the newest first."""
        return self._store.recent(self._clock() - SHOWN, MOST_SHOWN)

    # ---- what the clerk fills in ----

    def _need_portal(self) -> None:
        if not self.possible:
            raise RefusedError("no-portal", "the region has no portal")

    def _birth_date(self, wish: Wish, record: PatientRecord, now: datetime) -> str:
        if not wish.document_seen:
            raise RefusedError("document-unseen", "nobody is enrolled whose identity document was not seen")
        birth_date = record.birth_date or wish.birth_date
        if not is_date(birth_date) or date.fromisoformat(birth_date) > now.date():
            raise RefusedError("no-birth-date", "the patient's birth date is needed, as the identity document has it")
        return birth_date

    def _numbers(self, wish: Wish, record: PatientRecord, birth_date: str) -> frozenset[PatientIdentifier]:
        if not wish.numbers or not wish.numbers <= set(record.numbers):
            raise RefusedError("no-number-chosen", "at least one of the patient's numbers has to be chosen")
        if not wish.national_number:
            return wish.numbers
        national = self.national
        if national is None or any(one.issuer == national.issuer for one in record.numbers):
            raise RefusedError("bad-national-number", "the patient's record has a national number already")
        if not record.birth_date and record.sex not in ("M", "F"):
            # Nothing of the archive's would say whether it is this patient's: anybody's would do.
            raise RefusedError(
                "nothing-to-compare",
                "the archive has neither birth date nor sex of this patient, by which a national number could be told"
                " from somebody else's: have the archive completed first",
            )
        if not national.accepts(wish.national_number, birth_date, record.sex):
            raise RefusedError(
                "bad-national-number", "this national number is not a valid one that fits birth date and sex"
            )
        return wish.numbers | {PatientIdentifier(national.issuer, wish.national_number)}

    def _guardian(self, wish: Wish, birth_date: str, now: datetime) -> Guardian | None:
        years = age(birth_date, now.date())
        if wish.basis is None:
            if years < SIGNS_FROM:
                raise RefusedError("child", f"below {SIGNS_FROM} years a parent or guardian signs for the patient")
            return None
        if wish.until is None:
            raise RefusedError("no-end", "until when that person acts for the patient is needed")
        end = datetime.combine(wish.until + timedelta(days=1), time(), UTC)
        if not now < end <= now + LONGEST_GUARDIAN:
            raise RefusedError("bad-end", "that person's time is over already, or ends too far ahead")
        if wish.basis is Basis.PARENT and wish.until >= birthday(birth_date, MAJORITY):
            raise RefusedError("majority", f"parents act for a child until the day before it is {MAJORITY}")
        return Guardian(wish.basis, end)

    # ---- the hub ----

    def _read_invited(self, answer: Any, now: datetime) -> tuple[str, datetime]:
        try:
            address, expires = answer["address"], datetime.fromtimestamp(answer["expires"], UTC)
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise PeerDataError("the hub gave a malformed answer") from error
        if not isinstance(address, str) or not address.startswith(f"{self._region().portal}/"):
            # The code would go to another site with the patient's phone.
            raise PeerDataError("the hub gave an address that is not on the region's portal")
        return address, min(expires, now + LIFE)

    def _follow(self, one: Enrolling) -> None:
        """Take over what the hub knows of an enrolment that is open here.

        Raises:
            UsmedError: it was not reached, gave a malformed answer, or refuses for now.
        """
        try:
            answer = self._client.post(HUB, STATE_PATH, {"id": one.id}, deadline_s=DEADLINE_S)
            state = State(answer["state"])
        except RefusedError as error:
            if error.code != UNKNOWN:
                # It is busy, or has no database just now: that says nothing of the invitation.
                raise
            # It was set up anew.
            state, answer = State.VOID, {}
        except (KeyError, TypeError, ValueError) as error:
            raise PeerDataError("the hub gave a malformed answer") from error
        if state is State.ANSWERED and one.state is State.WAITING:
            credential = _credential(answer.get("credential"))
            self._store.change(one.id, Change.ANSWER, expires=self._clock() + LIFE, credential=credential)
        elif state is State.VOID:
            self._store.change(one.id, Change.REVOKE)
        elif state is State.EXPIRED:
            self._store.change(one.id, Change.EXPIRE)

    # ---- signing, remembering, recording ----

    def _sign(
        self,
        one: Enrolling,
        credential: Credential | None,
        gone: Counting,
        staff: str,
        what: str,
        change: Change | None,
    ) -> None:
        """Sign an enrolment and put it on its way: all of it is durable together, or nothing is.

        What is revoked is a statement of its own for each number: one number joins nothing, so that no key server has
        a reason to refuse it, whatever it thinks of the numbers together.
        """
        items = []
        if credential is not None:
            items.append(self._item(one.id, one.numbers, credentials=[credential], guardian=one.guardian))
        # This hospital says nothing of others' numbers. Where these are joined to its own, key servers know.
        spoken_for = self._region().spoken_for(self._hospital)
        numbers = [number for number in sorted(gone.numbers) if number.issuer in spoken_for]
        parts = list(batched(sorted(gone.passkeys), MAXIMUM_REVOKED, strict=False))
        revoked = [(number, part) for number in numbers for part in parts]
        items += [
            self._item(_revocation(one, place), [number], revoked=part)
            for place, (number, part) in enumerate(revoked, start=1)
        ]
        event = self._event(one, staff, what, passkeys_revoked=len(gone.passkeys))
        with self._database.write() as connection:
            if change is None:
                self._store.add_in(connection, one)
            elif not self._store.change_in(connection, one.id, change):
                raise RefusedError("not-answered", "it was confirmed or cancelled just now")
            for item in items:
                self._deliveries.add(connection, item)
            append_in(connection, [event])
        # All go to the same members, and whoever is told one is told the others.
        self._deliveries.deliver(items[0])

    def _item(self, id: str, numbers: Collection[PatientIdentifier], **content: Any) -> Item:
        token = enrol(self._key, hospital=self._hospital, patient=numbers, now=self._clock(), **content)
        return Item(id, 1, {"hospital": self._hospital, "token": token})

    def _deliveries_of(self, one: Enrolling) -> tuple[Delivery, ...]:
        enrolled = self._deliveries.latest(one.id)
        revoking = takewhile(bool, (self._deliveries.latest(_revocation(one, place)) for place in count(1)))
        return tuple(each for each in (enrolled, *revoking) if each is not None)

    def _known(self, id: str) -> Enrolling:
        one = self._store.get(id)
        if one is None:
            raise RefusedError("unknown-enrolment", "there is no enrolment of this id here")
        return one

    def _standing(self, one: Enrolling, problem: str = "") -> Standing:
        with self._lock:
            code, _ = self._codes.get(one.id, ("", None))
            if one.state is not State.WAITING:
                self._codes.pop(one.id, None)
        return Standing(
            one,
            code if one.state is State.WAITING else "",
            comparison_code(one.credential) if one.credential is not None else "",
            problem,
            self._deliveries_of(one) if one.state is State.ENROLLED else (),
        )

    def _record(self, one: Enrolling, staff: str, what: str) -> Receipt:
        return self._audit.append(self._event(one, staff, what))

    def _event(self, one: Enrolling, staff: str, what: str, **detail: int) -> AuditEvent:
        basis = one.guardian.basis.value if one.guardian is not None else "patient"
        return AuditEvent(
            self._clock(),
            AuditEventType.IDENTITY,
            staff,
            patient=str(min(one.numbers)),
            # Who joined which numbers, and what of it rests on one clerk's eyes only.
            detail={
                "what": what,
                "enrolment": one.id,
                "signs": basis,
                "numbers": [str(each) for each in sorted(one.numbers)],
                "typed": one.typed,
                **detail,
            },
        )


def _revocation(one: Enrolling, place: int) -> str:
    """Return under which id one of the statements goes out by which an enrolment revokes, counted from 1."""
    return f"{one.id}-{place}"


def _listed(numbers: Collection[PatientIdentifier]) -> list[dict[str, str]]:
    return [{"issuer": one.issuer, "value": one.value} for one in sorted(numbers)]


def _guardian_document(guardian: Guardian | None) -> dict[str, Any] | None:
    if guardian is None:
        return None
    return {"basis": guardian.basis.value, "until": int(guardian.until.timestamp())}


def _credential(document: Any) -> Credential:
    try:
        credential = Credential(bytes.fromhex(document["id"]), bytes.fromhex(document["public_key"]))
    except (KeyError, TypeError, ValueError) as error:
        raise PeerDataError("the hub gave a malformed passkey") from error
    if not 1 <= len(credential.id) <= LONGEST_ID or not 1 <= len(credential.public_key) <= LONGEST_KEY:
        raise PeerDataError("the hub gave a malformed passkey")
    if not is_passkey_key(credential.public_key):
        # Key servers would refuse it, after the patient has gone home.
        raise PeerDataError("the hub gave a passkey whose public key is none")
    return credential
