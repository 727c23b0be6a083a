"""What an audit record says, and how records hold each other in place: a chain of SHA-256 hashes.

Each record carries the hash of the one before it, so a record that was altered, removed or put in later
breaks the chain at a sequence number that can be named; the head (count and last hash), kept apart, shows a
cut-off tail. Whoever can rewrite every record and the head can still forge the whole: the head's hash, noted
elsewhere, shows that, and so does the record of the same event at the other end. Where records are stored is
not this module's business.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.errors import PeerDataError

GENESIS = "0" * 64
"""The previous hash of the first record."""

LIMIT_BYTES = 1 << 20
TEXT_CHARACTERS = 256
REASON_CHARACTERS = 1000

SEARCHED = ("at", "event", "agent", "patient", "study_instance_uid", "outcome")
"""Members of an event that are kept beside its content as well, so that records can be found by them."""

type Detail = str | int | bool | Sequence[str | int] | Mapping[str, str | int] | None


class AuditEventType(StrEnum):
    """What happened."""

    LOOKUP = "lookup"
    DECISION = "decision"
    RELEASE = "release"
    PULL = "pull"
    REFUSED = "refused"
    CONSENT = "consent"
    FEED = "feed"
    IDENTITY = "identity"
    CONFIGURATION = "configuration"
    RETENTION = "retention"
    APPLICATION = "application"
    EMERGENCY = "emergency"
    APPROVAL = "approval"
    ADMINISTRATION = "administration"
    ALARM = "alarm"
    SHARE = "share"
    AUDIT = "audit"


class Outcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    DENIED = "denied"
    PARTIAL = "partial"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened. Never holds a person's name, a token or a password.

    Text that came from outside is cut to its limit and made storable, so that nobody can prevent a record by
    sending what cannot be written down.

    Attributes:
        at: aware UTC.
        event: what happened.
        agent: who did or asked it: an AE title, a user, or a hospital's id.
        peer: the other hospital, if there is one.
        patient: text of a PatientIdentifier (`issuer:value`), if it is about one patient.
        study_instance_uid: StudyInstanceUID, if it is about one study.
        outcome, reason: how it ended, and why in plain words.
        detail: further small values, such as counts.
    """

    at: datetime
    event: AuditEventType
    agent: str
    peer: str = ""
    patient: str = ""
    study_instance_uid: str = ""
    outcome: Outcome = Outcome.SUCCESS
    reason: str = ""
    detail: Mapping[str, Detail] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("agent", "peer", "patient", "study_instance_uid"):
            object.__setattr__(self, name, _storable(getattr(self, name), TEXT_CHARACTERS))
        object.__setattr__(self, "reason", _storable(self.reason, REASON_CHARACTERS))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is hashed and stored; empty members are left out."""
        members = {
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "event": self.event.value,
            "agent": self.agent,
            "peer": self.peer,
            "patient": self.patient,
            "study_instance_uid": self.study_instance_uid,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "detail": dict(self.detail),
        }
        return {name: value for name, value in members.items() if value not in ("", {})}


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An event in its place in the chain.

    Attributes:
        sequence: 1 for the first record, without gaps.
        hash: SHA-256 of `content`, hexadecimal.
        columns: copies of the event's members `SEARCHED`, for searching; empty text for one that it has not.
        content: canonical JSON of `{"event", "previous", "sequence"}`.
    """

    sequence: int
    hash: str
    columns: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class ChainHead:
    """How many records there are, and the hash of the last (`GENESIS` for none)."""

    count: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, slots=True)
class ChainReport:
    """The result of a verification.

    Attributes:
        count: how many records were found whole before the first fault.
        head: the hash of the last of those.
        bad_sequence: the sequence number at which the chain is broken, or None.
        problem: what is wrong there, in plain words; empty when the chain is unbroken.
    """

    count: int
    head: str
    bad_sequence: int | None = None
    problem: str = ""

    @property
    def unbroken(self) -> bool:
        """Tell whether nothing is wrong."""
        return self.bad_sequence is None


def chain_record(event: Mapping[str, Any], head: ChainHead) -> AuditRecord:
    """Put an event (the result of `AuditEvent.to_json`) behind `head`.

    Raises:
        PeerDataError: the event cannot be written as canonical JSON.
    """
    return chain_canonical(canonical_json(dict(event)), columns_of(event), head)


def columns_of(event: Mapping[str, Any]) -> dict[str, str]:
    """Return what is kept of an event beside its content, to find it by; a NUL, which PostgreSQL's text cannot hold, is
    replaced."""
    return {name: event.get(name, "").replace("\0", "\ufffd") for name in SEARCHED}


def chain_canonical(event: bytes, columns: Mapping[str, str], head: ChainHead) -> AuditRecord:
    """As `chain_record`, for an event that is canonical JSON already; `columns` are those of `columns_of`."""
    sequence = head.count + 1
    # Canonical JSON of {"event", "previous", "sequence"}, put together: its names stand in order (RFC 8785 §3.2.3).
    content = b'{"event":%b,"previous":"%b","sequence":%d}' % (event, head.hash.encode("ascii"), sequence)
    return AuditRecord(sequence, sha256_hex(content), columns, content)


def verify_chain(records: Iterable[AuditRecord], head: ChainHead) -> ChainReport:
    """Check a whole chain.

    Args:
        records: all records, in order of their sequence numbers.
        head: what the head table says.

    Returns:
        Where and how the chain is first broken, if it is.
    """
    last = ChainHead()
    for record in records:
        problem = _fault(record, last)
        if problem:
            return ChainReport(last.count, last.hash, last.count + 1, problem)
        last = ChainHead(record.sequence, record.hash)
    if last.count < head.count:
        missing = head.count - last.count
        return ChainReport(last.count, last.hash, last.count + 1, f"the last {missing} record(s) are missing")
    if last != head:
        return ChainReport(last.count, last.hash, head.count + 1, "the head does not fit the records")
    return ChainReport(last.count, last.hash)


def _fault(record: AuditRecord, last: ChainHead) -> str:
    expected = last.count + 1
    if record.sequence > expected:
        return f"{record.sequence - expected} record(s) are missing before number {record.sequence}"
    if record.sequence < expected:
        return f"a record with the number {record.sequence} was put in"
    if sha256_hex(record.content) != record.hash:
        return "the record was altered: its content does not have its hash"
    try:
        content = parse_json(record.content, limit_bytes=LIMIT_BYTES)
        previous, sequence, event = content["previous"], content["sequence"], content["event"]
        columns = columns_of(event)
    except (PeerDataError, TypeError, KeyError, AttributeError):
        return "the record was altered: its content is not that of a record"
    if previous != last.hash:
        return "the record does not follow the one before it: one of the two was altered or exchanged"
    if sequence != record.sequence or columns != record.columns:
        return "the record was altered: its columns differ from its content"
    return ""


def _storable(text: str, limit: int) -> str:
    """Cut to `limit` characters and replace lone surrogates, which UTF-8 cannot carry."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8")


def records_refused(problems: Sequence[str], by: str, at: datetime) -> AuditEvent:
    """Return what is recorded of consents, withdrawals and enrolments that were not taken.

    Args:
        problems: why; one for each that was not taken.
        by: who brought them.
        at: when, aware UTC.
    """
    return AuditEvent(
        at,
        AuditEventType.REFUSED,
        by,
        outcome=Outcome.DENIED,
        reason="; ".join(problems[:5]),
        detail={"what": "records", "problems": len(problems)},
    )
