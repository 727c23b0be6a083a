"""The states of a pull: a study on its way from another hospital.

The whole state machine is this table. A pull that is not COMPLETE is shown as not complete, whatever part of it
has arrived. Its end, long after, is part of it: a guest copy that has to go is LEAVING until the last of it is deleted.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum

from usmed.domain.errors import UsmedError


class State(StrEnum):
    """Where a pull stands."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"
    LEAVING = "leaving"


class Event(StrEnum):
    """What can happen to a pull."""

    START = "start"
    VERIFIED = "verified"  # every hash of the manifest was seen
    INTERRUPTED = "interrupted"  # peer unreachable, peer's data bad, disk full: worth another try
    REFUSED = "refused"  # the source says no; trying again by itself would change nothing
    GAVE_UP = "gave up"  # too many tries, or a conflict that a person must look at
    DUE = "due"  # the wait is over
    ASKED_AGAIN = "asked again"  # a person or a lookup wants it (anew)
    RESTARTED = "restarted"  # this process starts and finds the pull in the queue
    LEAVE = "leave"  # what is here of it is to be deleted: unused for long, or not permitted any more


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.QUEUED, Event.START): State.RUNNING,
    (State.QUEUED, Event.ASKED_AGAIN): State.QUEUED,
    (State.QUEUED, Event.RESTARTED): State.QUEUED,
    (State.RUNNING, Event.VERIFIED): State.COMPLETE,
    (State.RUNNING, Event.INTERRUPTED): State.WAITING,
    (State.RUNNING, Event.REFUSED): State.REFUSED,
    (State.RUNNING, Event.GAVE_UP): State.FAILED,
    (State.RUNNING, Event.ASKED_AGAIN): State.RUNNING,
    (State.RUNNING, Event.RESTARTED): State.QUEUED,
    (State.WAITING, Event.DUE): State.QUEUED,
    (State.WAITING, Event.ASKED_AGAIN): State.QUEUED,
    (State.WAITING, Event.RESTARTED): State.WAITING,
    (State.COMPLETE, Event.ASKED_AGAIN): State.QUEUED,
    (State.COMPLETE, Event.RESTARTED): State.COMPLETE,
    (State.REFUSED, Event.ASKED_AGAIN): State.QUEUED,
    (State.REFUSED, Event.RESTARTED): State.REFUSED,
    (State.FAILED, Event.ASKED_AGAIN): State.QUEUED,
    (State.FAILED, Event.RESTARTED): State.FAILED,
    # One that runs is broken off.
    (State.QUEUED, Event.LEAVE): State.LEAVING,
    (State.RUNNING, Event.LEAVE): State.LEAVING,
    (State.WAITING, Event.LEAVE): State.LEAVING,
    (State.COMPLETE, Event.LEAVE): State.LEAVING,
    (State.REFUSED, Event.LEAVE): State.LEAVING,
    (State.FAILED, Event.LEAVE): State.LEAVING,
    # Decided is decided, also after a restart. Whoever wants the study back asks once it is gone.
    (State.LEAVING, Event.LEAVE): State.LEAVING,
    (State.LEAVING, Event.ASKED_AGAIN): State.LEAVING,
    (State.LEAVING, Event.RESTARTED): State.LEAVING,
}

UNFINISHED = frozenset({State.QUEUED, State.RUNNING, State.WAITING})
"""States in which a part of the study may be here and more is to come."""

GIVEN_UP = frozenset({State.REFUSED, State.FAILED, State.LEAVING})
"""States in which nothing more comes and the study is not here whole."""

MAXIMUM_ATTEMPTS = 12
_FIRST_WAIT = timedelta(seconds=2)
_LONGEST_WAIT = timedelta(minutes=15)


class ForbiddenTransitionError(UsmedError):
    """The event has no meaning in this state: a fault of the program."""


def follow(state: State, event: Event) -> State:
    """Return the state after `event`.

    Raises:
        ForbiddenTransitionError: the table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError as error:
        raise ForbiddenTransitionError(f"a pull that is {state} cannot meet {event!r}") from error


def backoff(attempts: int) -> timedelta:
    """Return how long to wait after this many failed attempts (1 or more): doubling, a quarter of an hour at most."""
    wait: timedelta = _FIRST_WAIT * 2 ** min(attempts - 1, 20)
    return min(wait, _LONGEST_WAIT)
