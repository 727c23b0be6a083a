"""The audit chain: every way of tampering is found, at the right place."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from usmed.domain.audit import (
    GENESIS,
    AuditEvent,
    AuditEventType,
    AuditRecord,
    ChainHead,
    Outcome,
    chain_record,
    columns_of,
    verify_chain,
)
from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.errors import PeerDataError

NOW = datetime(2026, 11, 21, 10, 0, 0, 125, tzinfo=UTC)


def event(number: int = 0) -> AuditEvent:
    return AuditEvent(NOW + timedelta(seconds=number), AuditEventType.LOOKUP, "WS", patient=f"SF-SPIRIDON:{number}")


def chain(length: int) -> tuple[list[AuditRecord], ChainHead]:
    records, head = [], ChainHead()
    for number in range(length):
        records.append(chain_record(event(number).to_json(), head))
        head = ChainHead(records[-1].sequence, records[-1].hash)
    return records, head


def test_an_untouched_chain_is_unbroken() -> None:
    records, head = chain(5)
    report = verify_chain(records, head)
    assert report.unbroken
    assert (report.count, report.head, report.problem) == (5, head.hash, "")
    assert verify_chain([], ChainHead()).unbroken
    assert records[0].content.count(GENESIS.encode()) == 1


def forged(record: AuditRecord) -> AuditRecord:
    """Alter the content and its hash, as somebody would who has read this module."""
    content = canonical_json({**parse_json(record.content, limit_bytes=10_000), "event": event(99).to_json()})
    return AuditRecord(record.sequence, sha256_hex(content), columns_of(event(99).to_json()), content)


def unreadable(record: AuditRecord) -> AuditRecord:
    return replace(record, content=b"{", hash=sha256_hex(b"{"))


def found_by(record: AuditRecord, **columns: str) -> AuditRecord:
    """Hide it from a search."""
    return replace(record, columns={**record.columns, **columns})


def renumbered(record: AuditRecord) -> AuditRecord:
    content = canonical_json({**parse_json(record.content, limit_bytes=10_000), "sequence": 77})
    return replace(record, content=content, hash=sha256_hex(content))


@pytest.mark.parametrize(
    ("tamper", "bad_sequence", "problem"),
    [
        (lambda r: [*r[:2], replace(r[2], content=r[2].content + b" "), *r[3:]], 3, "does not have its hash"),
        (lambda r: [*r[:2], replace(r[2], hash=GENESIS), *r[3:]], 3, "does not have its hash"),
        (lambda r: [*r[:2], found_by(r[2], patient="SF-SPIRIDON:7"), *r[3:]], 3, "columns differ"),
        (lambda r: [*r[:2], found_by(r[2], agent="somebody else"), *r[3:]], 3, "columns differ"),
        (lambda r: [*r[:2], found_by(r[2], at="2026-01-01T00:00:00.000000Z"), *r[3:]], 3, "columns differ"),
        (lambda r: [*r[:2], unreadable(r[2]), *r[3:]], 3, "not that of a record"),
        (lambda r: [*r[:2], renumbered(r[2]), *r[3:]], 3, "columns differ"),
        (lambda r: [*r[:2], forged(r[2]), *r[3:]], 4, "does not follow"),
        (lambda r: [*r[:2], *r[3:]], 3, "1 record(s) are missing before number 4"),
        (lambda r: r[1:], 1, "missing before number 2"),
        (lambda r: [*r[:3], r[2], *r[3:]], 4, "the number 3 was put in"),
        (
            lambda r: [*r[:2], replace(r[3], sequence=3), replace(r[2], sequence=4), r[4]],
            3,
            "does not follow",
        ),
        (lambda r: r[:3], 4, "the last 2 record(s) are missing"),
        (lambda r: [], 1, "the last 5 record(s) are missing"),
        (lambda r: [*r, chain_record(event(5).to_json(), ChainHead(5, r[4].hash))], 6, "head does not fit"),
        (lambda r: [*r[:4], forged(r[4])], 6, "head does not fit"),
    ],
)
def test_tampering_is_found(
    tamper: Callable[[list[AuditRecord]], list[AuditRecord]], bad_sequence: int, problem: str
) -> None:
    records, head = chain(5)
    report = verify_chain(tamper(records), head)
    assert not report.unbroken
    assert report.bad_sequence == bad_sequence
    assert problem in report.problem


def test_the_record_of_an_event_says_what_happened_in_utc() -> None:
    local = NOW.astimezone(timezone(timedelta(hours=2)))
    made = AuditEvent(
        local,
        AuditEventType.RELEASE,
        "iasi",
        peer="sf-spiridon",
        study_instance_uid="1.2.3",
        outcome=Outcome.DENIED,
        reason="no consent permits it",
        detail={"studies": 3, "modalities": ["CT"]},
    )
    assert made.to_json() == {
        "at": "2026-11-21T10:00:00.000125Z",
        "event": "release",
        "agent": "iasi",
        "peer": "sf-spiridon",
        "study_instance_uid": "1.2.3",
        "outcome": "denied",
        "reason": "no consent permits it",
        "detail": {"studies": 3, "modalities": ["CT"]},
    }


def test_text_from_outside_can_always_be_recorded() -> None:
    hostile = AuditEvent(NOW, AuditEventType.REFUSED, "A" * 100_000, patient="\ud800\x00\n", reason="r" * 100_000)
    record = chain_record(hostile.to_json(), ChainHead())
    assert len(record.content) < 2000
    assert verify_chain([record], ChainHead(1, record.hash)).unbroken


def test_a_detail_that_is_not_json_is_refused() -> None:
    with pytest.raises(PeerDataError):
        chain_record(
            AuditEvent(NOW, AuditEventType.FEED, "iasi", detail={"x": float("nan")}).to_json(),  # type: ignore[dict-item]
            ChainHead(),
        )
