"""What is written down at a hospital's desk, from the first member of staff to the second: its states, and its scan.

A scan is named in the Consent that it belongs to (FHIR R4 Consent.sourceAttachment). Attachment.hash is SHA-1 there, so
the name is a URL that is a SHA-256 (RFC 6920, `ni`): what key servers hold then says which sheet of paper it was.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

from usmed.domain.errors import PeerDataError

LIFE = timedelta(days=2)
"""How long it waits for the second member of staff."""

LARGEST_SCAN_BYTES = 10 << 20
MOST_PAGES = 50
LONGEST_REASON = 200
_URL = re.compile(r"ni:///sha-256;([A-Za-z0-9_-]{43})", re.ASCII)


class State(StrEnum):
    """Where it stands."""

    WAITING = "waiting"
    ATTESTED = "attested"
    REFUSED = "refused"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Change(StrEnum):
    """What can happen to it.

    SCAN: the first adds the scan, or another one. ATTEST, REFUSE: the second has read it. CANCEL: the first takes it
    away. EXPIRE: nobody came.
    """

    SCAN = "scan"
    ATTEST = "attest"
    REFUSE = "refuse"
    CANCEL = "cancel"
    EXPIRE = "expire"


TRANSITIONS: Mapping[tuple[State, Change], State] = {
    (State.WAITING, Change.SCAN): State.WAITING,
    (State.WAITING, Change.ATTEST): State.ATTESTED,
    (State.WAITING, Change.REFUSE): State.REFUSED,
    (State.WAITING, Change.CANCEL): State.CANCELLED,
    (State.WAITING, Change.EXPIRE): State.EXPIRED,
}
"""Every change that there is. Whatever does not wait is final."""

BY_THE_FIRST = frozenset({Change.SCAN, Change.CANCEL})
BY_ANOTHER = frozenset({Change.ATTEST, Change.REFUSE})
"""Who may do what: whoever wrote it down, or anybody else of the staff."""


def after(state: State, change: Change) -> State | None:
    """Return the state after a change; None where it cannot happen."""
    return TRANSITIONS.get((state, change))


def may(change: Change, first: str, who: str) -> bool:
    """Tell whether a member of staff may do something, not by case or padding either: one must not count as two."""
    same = first.strip().casefold() == who.strip().casefold()
    return same if change in BY_THE_FIRST else not same if change in BY_ANOTHER else False


def attachment(content: bytes, pages: int) -> dict[str, Any]:
    """Return what a Consent says of its scan (FHIR R4 Attachment).

    Args:
        content: the PDF.
        pages: how many it has.
    """
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode("ascii")
    return {
        "contentType": "application/pdf",
        "url": f"ni:///sha-256;{digest}",
        "size": len(content),
        "title": f"Consent on paper, {pages} page{'s' if pages > 1 else ''}",
    }


def scan_digest(resource: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the scan that a Consent names, hexadecimal; empty if it names none."""
    found = _URL.fullmatch(str(resource.get("sourceAttachment", {}).get("url", "")))
    return base64.urlsafe_b64decode(found[1] + "=").hex() if found else ""


def reason_given(text: str) -> str:
    """Return why something is refused, without padding.

    Raises:
        PeerDataError: none is given, or it is too long or cannot be read.
    """
    reason = text.strip()
    if not 1 <= len(reason) <= LONGEST_REASON or not reason.isprintable():
        raise PeerDataError(f"Reason: say why, in 1 to {LONGEST_REASON} printable characters")
    return reason
