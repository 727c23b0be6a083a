"""The states of a pull: every pair of state and event is either in the table or refused, and no pull gets stuck."""

from datetime import timedelta
from itertools import product

import pytest

from usmed.domain.pull import (
    MAXIMUM_ATTEMPTS,
    TRANSITIONS,
    UNFINISHED,
    Event,
    ForbiddenTransitionError,
    State,
    backoff,
    follow,
)

# The table once more, written by what each event means; "-" is refused.
EXPECTED = {
    #                    QUEUED      RUNNING     WAITING     COMPLETE    REFUSED    FAILED     LEAVING
    Event.START:       ("running",  "-",        "-",        "-",        "-",       "-",       "-"),
    Event.VERIFIED:    ("-",        "complete", "-",        "-",        "-",       "-",       "-"),
    Event.INTERRUPTED: ("-",        "waiting",  "-",        "-",        "-",       "-",       "-"),
    Event.REFUSED:     ("-",        "refused",  "-",        "-",        "-",       "-",       "-"),
    Event.GAVE_UP:     ("-",        "failed",   "-",        "-",        "-",       "-",       "-"),
    Event.DUE:         ("-",        "-",        "queued",   "-",        "-",       "-",       "-"),
    Event.ASKED_AGAIN: ("queued",   "running",  "queued",   "queued",   "queued",  "queued",  "leaving"),
    Event.RESTARTED:   ("queued",   "queued",   "waiting",  "complete", "refused", "failed",  "leaving"),
    Event.LEAVE:       ("leaving",  "leaving",  "leaving",  "leaving",  "leaving", "leaving", "leaving"),
}  # fmt: skip


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)), ids=lambda one: one.name)
def test_every_pair_is_followed_or_refused(state: State, event: Event) -> None:
    expected = EXPECTED[event][list(State).index(state)]
    if expected == "-":
        with pytest.raises(ForbiddenTransitionError, match=f"{state}.*{event!r}"):
            follow(state, event)
    else:
        assert follow(state, event) is State(expected)


def test_the_table_says_nothing_else() -> None:
    assert len(TRANSITIONS) == sum(row.count(state.value) for row in EXPECTED.values() for state in State)


def reachable(start: State, events: set[Event]) -> set[State]:
    """Return the states that these events lead to."""
    found, new = {start}, {start}
    while new:
        new = {TRANSITIONS[state, event] for state in new for event in events if (state, event) in TRANSITIONS} - found
        found |= new
    return found


@pytest.mark.parametrize("state", sorted(set(State) - {State.LEAVING}))
def test_from_every_state_a_study_can_still_become_complete(state: State) -> None:
    assert State.COMPLETE in reachable(state, set(Event))


def test_what_is_to_go_goes_whatever_happens() -> None:
    assert reachable(State.LEAVING, set(Event)) == {State.LEAVING}


def test_only_a_running_pull_becomes_complete_and_only_by_verification() -> None:
    assert [pair for pair, target in TRANSITIONS.items() if target is State.COMPLETE and pair[0] is not target] == [
        (State.RUNNING, Event.VERIFIED)
    ]


def test_after_a_restart_nothing_runs_that_no_process_runs() -> None:
    assert all(follow(state, Event.RESTARTED) is not State.RUNNING for state in State)


def test_unfinished_are_the_states_that_go_on_by_themselves() -> None:
    by_itself = {Event.START, Event.VERIFIED, Event.INTERRUPTED, Event.REFUSED, Event.GAVE_UP, Event.DUE}
    assert {state for state in State if len(reachable(state, by_itself)) > 1} == UNFINISHED


def test_the_wait_doubles_up_to_a_quarter_of_an_hour() -> None:
    waits = [backoff(attempts) for attempts in range(1, MAXIMUM_ATTEMPTS + 1)]
    assert waits[:4] == [timedelta(seconds=seconds) for seconds in (2, 4, 8, 16)]
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(minutes=15)
    assert backoff(10_000) == timedelta(minutes=15)
