"""Heads of logs: who may sign what, and what a log that was rewritten looks like."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from usmed.domain.audit import GENESIS
from usmed.domain.errors import PeerDataError
from usmed.domain.log_head import Countersigned, LogHead, check_witnessed, countersign, join, read_head, sign_head
from usmed.domain.quorum import assemble, sign

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
KEYS = {name: OKPKey.generate_key("Ed25519", private=True) for name in ("keys-1", "keys-2", "keys-3")}
HASHES = {number: f"{number:064x}" for number in range(1, 10)}


def head(sequence: int, **changes: Any) -> LogHead:
    return replace(LogHead("keys-1", sequence, HASHES.get(sequence, GENESIS), NOW), **changes)


def witnessed(witness: str, one: LogHead) -> Countersigned:
    element = countersign(KEYS[witness], witness=witness, head=one)
    return Countersigned(witness, join(one, sign_head(KEYS["keys-1"], one), element, KEYS.get, witness))


def check(*heads: Countersigned, log: dict[int, str] = HASHES) -> dict[str, Any]:
    reports = check_witnessed(heads, lambda id: [KEYS[id]] if id in KEYS else [], lambda number: log.get(number, ""))
    return {one.witness: one for one in reports}


def test_a_head_is_read_as_it_was_signed() -> None:
    for one in (head(3), head(0)):
        assert read_head(sign_head(KEYS["keys-1"], one), KEYS.get, "keys-1") == one


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "usmed-consent"}, {"server": "keys-2"}, {"server": 1}, {"sequence": -1}, {"sequence": "3"},
        {"sequence": True}, {"sequence": 0}, {"hash": GENESIS, "sequence": 0, "more": 1}, {"hash": "AB" * 32},
        {"hash": "ab"}, {"hash": None}, {"iat": -1}, {"iat": 1.5}, {"iat": 2**50}, {"hash": GENESIS},
    ],
)  # fmt: skip
def test_what_is_no_head_is_refused(change: dict[str, Any]) -> None:
    document = {**head(3).to_json(), **change}
    signed = assemble(document, [sign(KEYS["keys-1"], signer="keys-1", document=document)])
    with pytest.raises(PeerDataError):
        read_head(signed, KEYS.get, "keys-1")


def test_nobody_else_signs_a_servers_head() -> None:
    document = head(3).to_json()
    for key, signer in (("keys-2", "keys-2"), ("keys-2", "keys-1")):
        with pytest.raises(PeerDataError):
            read_head(assemble(document, [sign(KEYS[key], signer=signer, document=document)]), KEYS.get, "keys-1")
    element = countersign(KEYS["keys-2"], witness="keys-2", head=head(4))
    for witness in ("keys-2", "keys-3", "nobody"):
        with pytest.raises(PeerDataError):
            join(head(3), sign_head(KEYS["keys-1"], head(3)), element, KEYS.get, witness)


def test_a_log_that_goes_on_fits() -> None:
    found = check(witnessed("keys-2", head(5)), witnessed("keys-2", head(2)), witnessed("keys-3", head(0)),
                  log={**HASHES, 0: GENESIS})  # fmt: skip
    assert {name: (one.heads, one.last, one.problems) for name, one in found.items()} == {
        "keys-2": (2, head(5), ()),
        "keys-3": (1, head(0), ()),
    }


def test_since_when_a_log_does_not_fit() -> None:
    seen = [witnessed("keys-2", head(number)) for number in (2, 4, 6, 8)]
    (problem,) = check(*seen, log={**HASHES, 6: "f" * 64, 8: "e" * 64})["keys-2"].problems
    assert "countersigned record 6 as the last one on 2026-11-21 10:00:00 UTC" in problem
    assert "another hash now" in problem
    assert "up to record 4 (2026-11-21 10:00:00 UTC) it is as keys-2 saw it" in problem
    (problem,) = check(*seen, log={2: HASHES[2]})["keys-2"].problems
    assert "no such record any more" in problem
    (problem,) = check(*seen, log={})["keys-2"].problems
    assert "nothing before that still fits" in problem


def test_only_the_witness_counts() -> None:
    own = sign_head(KEYS["keys-1"], head(3))
    for witness, signed in (("keys-2", own), ("nobody", own), ("keys-2", None), ("keys-2", {"payload": "x"})):
        (report,) = check(Countersigned(witness, signed)).values()
        assert report.heads == 0
        assert "does not count" in report.problems[0]
