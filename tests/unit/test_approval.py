"""Operations that need administrators: one way to write each, one short form everywhere, and states that only go on."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from usmed.domain.approval import (
    LONGEST_LIFE,
    TRANSITIONS,
    Change,
    Kind,
    Operation,
    State,
    after,
    approved_document,
    approved_operation,
    decision_challenge,
    is_over,
    parse_operation,
    short_digest,
)
from usmed.domain.canonical import canonical_json
from usmed.domain.errors import PeerDataError
from usmed.domain.quorum import QuorumError, assemble, sign

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
REASON = "Accident feroviar la Pașcani, 40 de răniți"


def operation(**changes: Any) -> Operation:
    one = Operation(
        kind=Kind.PATIENTS,
        requester="iasi",
        nonce="n" * 24,
        particulars={"further": 40, "until": int((NOW + timedelta(hours=6)).timestamp()), "reason": REASON},
        issued=NOW,
        expires=NOW + timedelta(hours=8),
    )
    return replace(one, **changes)


OTHERS = [
    operation(kind=Kind.EMERGENCIES),
    operation(kind=Kind.REIDENTIFICATION, particulars={"project": "p", "pseudonym": "x1", "reason": REASON}),
    operation(kind=Kind.SECRET_RELEASE, particulars={"secret": "iasi/archive", "node": "iasi", "reason": REASON}),
]


@pytest.mark.parametrize("one", [operation(), *OTHERS], ids=lambda one: one.kind.value)
def test_what_is_written_is_read(one: Operation) -> None:
    assert parse_operation(one.to_json()) == one
    assert one.until <= one.expires


def test_every_kind_is_tried() -> None:
    assert {operation().kind, *(one.kind for one in OTHERS)} == set(Kind)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda one: [one],
    "a member more": lambda one: {**one, "more": 1},
    "a member less": lambda one: {name: value for name, value in one.items() if name != "nonce"},
    "another type": lambda one: {**one, "typ": "usmed-access-ticket"},
    "an unknown kind": lambda one: {**one, "kind": "manifest"},
    "a kind that is no text": lambda one: {**one, "kind": 1},
    "a short nonce": lambda one: {**one, "nonce": "n" * 15},
    "a padded nonce": lambda one: {**one, "nonce": " " + one["nonce"]},
    "nobody asks": lambda one: {**one, "requester": ""},
    "more than a day": lambda one: {**one, "expires": one["issued"] + 86_401},
    "backwards": lambda one: {**one, "expires": one["issued"]},
    "a fraction": lambda one: {**one, "issued": one["issued"] + 0.5},
    "beyond the calendar": lambda one: {**one, "issued": 1 << 39, "expires": (1 << 39) + 60},
    "no particulars": lambda one: {**one, "particulars": {}},
    "particulars of another kind": lambda one: {**one, "particulars": {"secret": "x", "reason": REASON}},
    "a secret for nobody": lambda one: {
        **one, "kind": "secret-release", "particulars": {"secret": "x", "reason": REASON}
    },
    "a secret for another": lambda one: {
        **one, "kind": "secret-release", "particulars": {"secret": "x", "node": "bacau", "reason": REASON}
    },
    "no end": lambda one: {**one, "particulars": {**one["particulars"], "until": one["expires"] + 1}},
    "an end before the beginning": lambda one: {**one, "particulars": {**one["particulars"], "until": one["issued"]}},
    "no patient more": lambda one: {**one, "particulars": {**one["particulars"], "further": 0}},
    "too many": lambda one: {**one, "particulars": {**one["particulars"], "further": 100_001}},
    "a truth": lambda one: {**one, "particulars": {**one["particulars"], "further": True}},
    "a short reason": lambda one: {**one, "particulars": {**one["particulars"], "reason": "urgent"}},
    "a reason in two lines": lambda one: {**one, "particulars": {**one["particulars"], "reason": "urgent\nacum acum"}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_no_operation(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(PeerDataError):
        parse_operation(change(operation().to_json()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 41) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*operation().to_json()]), JSON, max_size=7))
@settings(max_examples=300, deadline=None)
def test_whatever_is_given_it_answers_in_one_way_or_says_no(changes: dict[str, Any]) -> None:
    document = {**operation().to_json(), **changes}
    try:
        one = parse_operation(document)
    except PeerDataError:
        return
    assert canonical_json(one.to_json()) == canonical_json(document)


# ---- What people compare ----


def test_the_short_form() -> None:
    assert short_digest("00" * 32) == "0000-0000-0000-0000"
    assert short_digest("ff" * 32) == "ZZZZ-ZZZZ-ZZZZ-ZZZZ"
    # 0x0842108421 is 00001 00001 00001 … in bits.
    assert short_digest("08421084210842108421" + "0" * 44) == "1111-1111-1111-1111"
    assert short_digest(operation().digest) == short_digest(parse_operation(operation().to_json()).digest)


@pytest.mark.parametrize(
    "changes",
    [{"nonce": "m" * 24}, {"requester": "bacau"}, {"kind": Kind.EMERGENCIES}, {"expires": NOW + LONGEST_LIFE},
     {"particulars": {**operation().particulars, "further": 41}}],
)  # fmt: skip
def test_whatever_differs_has_another_short_form(changes: dict[str, Any]) -> None:
    assert short_digest(operation(**changes).digest) != short_digest(operation().digest)


def test_a_signature_is_for_one_decision_on_one_server() -> None:
    digest = operation().digest
    made = {
        decision_challenge(server=server, digest=one, change=change)
        for server in ("keys-1", "keys-2")
        for one in (digest, operation(nonce="m" * 24).digest)
        for change in (Change.APPROVE, Change.REFUSE)
    }
    assert len(made) == 8
    assert {len(one) for one in made} == {32}


# ---- What servers sign ----

KEYS = {one: OKPKey.generate_key("Ed25519", private=True) for one in ("keys-1", "keys-2", "iasi")}


def signed(*signers: str, document: Any = None, keys: Any = KEYS) -> Any:
    document = approved_document(operation().digest) if document is None else document
    return assemble(document, [sign(keys[one], signer=one, document=document) for one in signers])


def approved(statement: Any) -> str:
    servers = {one: KEYS[one] for one in ("keys-1", "keys-2")}
    return approved_operation(statement, servers.get, threshold=2)


def test_k_servers_say_that_an_operation_is_approved() -> None:
    assert approved(signed("keys-1", "keys-2")) == operation().digest
    for statement in (
        signed("keys-1"), signed("keys-1", "keys-1"), signed("keys-1", "iasi"),
        signed("keys-1", "keys-2", keys={**KEYS, "keys-2": KEYS["iasi"]}),
        {**signed("keys-1"), "signatures": [*signed("keys-1")["signatures"],
                                            *signed("keys-2", document=approved_document("0" * 64))["signatures"]]},
    ):  # fmt: skip
        with pytest.raises(QuorumError, match="the approval has 1 of the 2 signatures that it needs"):
            approved(statement)


@pytest.mark.parametrize(
    "document",
    [
        [], False, "usmed-operation-approved", {}, {"typ": "usmed-operation-approved"},
        {"typ": "usmed-operation-approved", "operation": "0" * 63},
        {"typ": "usmed-operation-approved", "operation": "Z" * 64},
        {"typ": "usmed-operation-approved", "operation": 1},
        {"typ": "usmed-approval", "operation": "0" * 64},
        {"typ": "usmed-operation-approved", "operation": "0" * 64, "more": 1},
    ],
)  # fmt: skip
def test_what_says_no_such_thing(document: Any) -> None:
    with pytest.raises(PeerDataError, match="no statement"):
        approved(signed("keys-1", "keys-2", document=document))


# ---- States ----

EXPECTED = {
    State.PENDING: {"approve": "approved", "refuse": "refused", "expire": "expired"},
    State.APPROVED: {"expire": "expired"},
    State.REFUSED: {},
    State.EXPIRED: {},
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("change", Change)
def test_the_whole_table(state: State, change: Change) -> None:
    assert after(state, change) == EXPECTED[state].get(change.value)


def test_the_table_says_nothing_else() -> None:
    assert len(TRANSITIONS) == sum(map(len, EXPECTED.values()))


def test_time() -> None:
    one = operation()
    assert not is_over(one, one.expires - timedelta(seconds=1))
    assert is_over(one, one.expires)
    assert one.until == NOW + timedelta(hours=6)
    assert one.further == 40
    assert OTHERS[1].further == 0
