"""Invitations to enrol: states that only go on, and a code that cannot be guessed."""

import hashlib
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usmed.domain.errors import PeerDataError
from usmed.domain.invitation import OPEN, TRANSITIONS, Change, State, after, code_digest

EXPECTED = {
    State.WAITING: {Change.ANSWER: State.ANSWERED, Change.REVOKE: State.VOID, Change.EXPIRE: State.EXPIRED},
    State.ANSWERED: {Change.ENROL: State.ENROLLED, Change.REVOKE: State.VOID, Change.EXPIRE: State.EXPIRED},
    State.ENROLLED: {},
    State.VOID: {},
    State.EXPIRED: {},
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("change", Change)
def test_every_change_in_every_state(state: State, change: Change) -> None:
    assert after(state, change) == EXPECTED[state].get(change)
    assert ((state, change) in TRANSITIONS) == (change in EXPECTED[state])


def test_what_is_open_can_still_change_and_nothing_else_can() -> None:
    assert set(OPEN) == {State.WAITING, State.ANSWERED}


@given(st.lists(st.sampled_from(Change), max_size=12))
def test_whatever_happens_it_is_answered_once_and_enrolled_only_when_answered(changes: list[Change]) -> None:
    state, past = State.WAITING, [State.WAITING]
    for change in changes:
        following = after(state, change)
        if following is not None:
            state = following
            past.append(state)
    assert past.count(State.ANSWERED) <= 1
    assert State.WAITING not in past[1:]
    if State.ENROLLED in past:
        assert past == [State.WAITING, State.ANSWERED, State.ENROLLED]
    assert sum(one not in OPEN for one in past) <= 1


@pytest.mark.parametrize("length", [16, 32, 64])
def test_a_code_is_known_by_its_sha_256(length: int) -> None:
    code = secrets.token_urlsafe(length)
    assert code_digest(code) == hashlib.sha256(code.encode()).hexdigest()
    assert code_digest(f" {code}\n") == code_digest(code)
    assert code_digest(code.swapcase()) != code_digest(code)


@pytest.mark.parametrize(
    "code",
    [
        "",
        "a" * 21,
        "a" * 87,
        "a" * 21 + "ă",
        "a" * 21 + " b",
        "a" * 22 + "\0",
        "ａ" * 22,
        "a" * 21 + "٣",
        "\ud800" * 22,
    ],
)
def test_what_carries_fewer_than_128_bits_or_other_characters_is_no_code(code: str) -> None:
    with pytest.raises(PeerDataError):
        code_digest(code)
