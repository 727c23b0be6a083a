"""When a change of a patient's will is done."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from usmed.domain.consent import Consent, Purpose
from usmed.domain.consent_record import ConsentRecord, ProofKind
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import RegionManifest, parse_region
from usmed.domain.ticket import AccessTicket, ConsentReference, Staff
from usmed.domain.withdrawal import LAST_TICKET, overtaken, progress, takes_away
from usmed.platform.keys import public_key_text

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
HOSPITALS = ("a", "b", "c")


def key() -> str:
    return public_key_text(OKPKey.generate_key("Ed25519", private=True))


def region(servers: int, threshold: int) -> RegionManifest:
    return parse_region(
        {
            "version": 1, "region": "r", "name": "R", "issued": "2026-11-22T09:00:00Z",
            "expires": "2027-11-22T09:00:00Z", "threshold": threshold,
            "hub": {"address": "https://hub:8443", "public_key": key()},
            "hospitals": [
                {"id": one, "name": one, "address": f"https://{one}:1", "public_key": key(), "issuers": [one.upper()]}
                for one in HOSPITALS
            ],
            "key_servers": [
                {"id": f"keys-{n}", "name": "K", "address": f"https://keys-{n}:1", "public_key": key(),
                 "administrator": {"name": "A", "public_key": key()}}
                for n in range(servers)
            ],
        },
        "test",
    )  # fmt: skip


@pytest.mark.parametrize(("servers", "threshold"), [(1, 1), (3, 2), (3, 3), (5, 3), (4, 2)])
def test_enough_is_when_no_quorum_without_it_is_left(servers: int, threshold: int) -> None:
    whole = region(servers, threshold)
    names = sorted(whole.key_servers)
    for size in range(servers + 1):
        for holding in combinations(names, size):
            without = set(names) - set(holding)
            shown = progress(whole, dict.fromkeys(holding, NOW), dict.fromkeys(HOSPITALS, NOW), NOW)
            assert shown.done == (len(without) < threshold)
            assert set(shown.holding) == set(holding)
            assert set(shown.waiting_for_servers) == without


def test_a_hospital_that_stays_away_is_waited_for_until_the_last_ticket_has_ended() -> None:
    whole = region(3, 2)
    # The second server that took it is what counts, not the first and not the third.
    servers = {"keys-0": NOW - timedelta(hours=1), "keys-2": NOW, "keys-1": NOW + timedelta(hours=1)}
    told = {"a": NOW, "c": NOW, "somebody who left": NOW}
    for later, done in ((timedelta(0), False), (LAST_TICKET - timedelta(seconds=1), False), (LAST_TICKET, True)):
        shown = progress(whole, servers, told, NOW + later)
        assert (shown.done, shown.waiting_for_hospitals, shown.certain_at) == (done, ("b",), NOW + LAST_TICKET)
    assert progress(whole, {"keys-0": NOW}, told, NOW + timedelta(days=9)).done is False


TICKET = AccessTicket(
    "t" * 24, "r", "b", "k" * 43, Staff("s", "r"), frozenset({PatientIdentifier("A", "1")}), Purpose.TREAT, (),
    (ConsentReference("c-1", 2, "a" * 64), ConsentReference("c-2", 1, "b" * 64)), NOW, NOW + timedelta(minutes=15),
)  # fmt: skip
RECORD = ConsentRecord(
    Consent("c-1", 2, TICKET.patient, None, None, active=True, provisions=()), "a" * 64, ProofKind.STAFF, "a"
)


def test_a_ticket_is_overtaken_by_what_changed_after_it() -> None:
    def told(id: str, version: int, *, active: bool) -> str:
        consent = replace(RECORD.consent, id=id, version=version, active=active)
        return overtaken(TICKET, {id: replace(RECORD, consent=consent)})

    assert overtaken(TICKET, {}) == ""
    assert told("c-1", 2, active=True) == ""
    assert told("c-1", 1, active=True) == ""
    assert told("c-1", 3, active=True) == "c-1"
    assert told("c-2", 1, active=False) == "c-2"
    assert told("c-3", 9, active=False) == ""


@pytest.mark.parametrize(
    ("version", "provision", "expected"),
    [
        (1, {"type": "permit"}, False),
        (1, {"type": "permit", "provision": [{"type": "permit"}]}, False),
        (2, {"type": "permit"}, True),
        (1, {"type": "deny"}, True),
        (1, {"type": "permit", "provision": [{"type": "permit"}, {"type": "deny"}]}, True),
        (1, {"type": "permit", "provision": [{"provision": [{"type": "deny"}]}]}, True),
    ],
)
def test_hospitals_have_to_know_all_but_a_first_permission(version: int, provision: Any, expected: bool) -> None:
    assert takes_away(version, {"status": "active", "provision": provision}) is expected
