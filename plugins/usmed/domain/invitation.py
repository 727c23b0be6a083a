"""An invitation to enrol: a clerk has seen the patient's document, and the patient's phone is to make a passkey.

The clerk's node makes a code, shows it to the patient (as a QR), and tells the hub its hash only. Whoever brings the
code and knows the patient's birth date answers with a passkey, once; the clerk compares what both see, and the
hospital enrols. The states and the code are here; where invitations are kept is `hub/invitations.py`.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum

from usmed.domain.canonical import sha256_hex
from usmed.domain.errors import PeerDataError

LIFE = timedelta(hours=24)
"""How long an invitation waits for its answer, and then the answer for the clerk."""

TRIES = 5
"""The so many-th wrong birth date voids an invitation."""

_CODE = re.compile(r"[A-Za-z0-9_-]{22,86}", re.ASCII)
# 22 characters of base64url carry 128 bits, 86 carry 512.


class State(StrEnum):
    """Where an invitation stands."""

    WAITING = "waiting"
    ANSWERED = "answered"
    ENROLLED = "enrolled"
    VOID = "void"
    EXPIRED = "expired"


class Change(StrEnum):
    """What can happen to it.

    ANSWER: the patient's passkey came. ENROL: the hospital's enrolment of that passkey came. REVOKE: the clerk
    cancelled it, a newer one takes its place, or the birth date was wrong too often. EXPIRE: its time is over.
    """

    ANSWER = "answer"
    ENROL = "enrol"
    REVOKE = "revoke"
    EXPIRE = "expire"


TRANSITIONS: Mapping[tuple[State, Change], State] = {
    (State.WAITING, Change.ANSWER): State.ANSWERED,
    (State.WAITING, Change.REVOKE): State.VOID,
    (State.WAITING, Change.EXPIRE): State.EXPIRED,
    (State.ANSWERED, Change.ENROL): State.ENROLLED,
    (State.ANSWERED, Change.REVOKE): State.VOID,
    (State.ANSWERED, Change.EXPIRE): State.EXPIRED,
}
"""Every change that there is. Enrolled, void and expired are final."""

OPEN = frozenset(state for state, _ in TRANSITIONS)
"""The states that something can still happen in."""


def after(state: State, change: Change) -> State | None:
    """Return the state after a change; None where it cannot happen."""
    return TRANSITIONS.get((state, change))


def code_digest(code: str) -> str:
    """Return what the hub knows of a code: the SHA-256 of its characters, hexadecimal.

    Raises:
        PeerDataError: it is none: 22 to 86 letters, digits, `-` and `_` (random ones, 128 bits or more).
    """
    text = code.strip()
    if not _CODE.fullmatch(text):
        raise PeerDataError("an invitation's code has 22 to 86 letters, digits, hyphens and underscores")
    return sha256_hex(text.encode("ascii"))
