"""What a hospital asks key servers for: who, for whom, what for. What is permitted they say, in the ticket."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.consent import Purpose
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import LIFE, AccessTicket, Staff, read_asked, thumbprint


@dataclass(frozen=True, slots=True)
class TicketWish:
    """What a hospital asks key servers for; who and what for, never what is permitted: that they say.

    Attributes:
        jti: the ticket's identifier to be, 22 characters or more of randomness.
        recipient: the hospital that is to receive; the sender itself, or another one to which the sender sends.
        staff: on whose behalf.
        patient: the numbers that the person is believed to be known by; they need not be proved to be one person's.
        purpose: purpose of use.
        issued: aware UTC, whole seconds.
        life: how long it should hold at most.
        confirmed_by, reason: for an emergency only.
    """

    jti: str
    recipient: str
    staff: Staff
    patient: frozenset[PatientIdentifier]
    purpose: Purpose
    issued: datetime
    life: timedelta = LIFE
    confirmed_by: Staff | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as it is sent."""
        document: dict[str, Any] = {
            "jti": self.jti,
            "sub": self.recipient,
            "staff": self.staff.to_json(),
            "patient": [{"issuer": one.issuer, "value": one.value} for one in sorted(self.patient)],
            "purpose": self.purpose.value,
            "iat": int(self.issued.timestamp()),
            "life": int(self.life.total_seconds()),
        }
        if self.confirmed_by is not None:
            document |= {"confirmed_by": self.confirmed_by.to_json(), "reason": self.reason}
        return document

    def is_granted_by(self, ticket: AccessTicket, region: str, key: OKPKey) -> bool:
        """Tell whether a ticket is one for this wish: nothing in it was exchanged, of its patient it covers some."""
        return (
            (ticket.jti, ticket.region, ticket.requester) == (self.jti, region, self.recipient)
            and (ticket.staff, ticket.confirmed_by, ticket.reason) == (self.staff, self.confirmed_by, self.reason)
            and (ticket.purpose, ticket.issued) == (self.purpose, self.issued)
            and ticket.expires <= self.issued + self.life
            and ticket.key_thumbprint == thumbprint(key)
            and bool(ticket.patient & self.patient)
        )


def parse_wish(document: Any) -> TicketWish:
    """Read a wish.

    Raises:
        PeerDataError: not such a document, with the first fault.
    """
    required = {"jti", "sub", "staff", "patient", "purpose", "iat", "life"}
    if not isinstance(document, dict) or not required <= set(document) <= required | {"confirmed_by", "reason"}:
        raise PeerDataError(f"a wish has the members {', '.join(sorted(required))}; an emergency confirmed_by, reason")
    life = document["life"]
    if type(life) is not int or not 0 < life <= 86400:
        raise PeerDataError("life: is a number of seconds, at most a day")
    asked = read_asked(document)
    return TicketWish(
        asked.jti, asked.requester, asked.staff, asked.patient, asked.purpose, asked.issued, timedelta(seconds=life),
        asked.confirmed_by, asked.reason,
    )  # fmt: skip
