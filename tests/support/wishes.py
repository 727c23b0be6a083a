"""What a hospital would have asked for to get a certain ticket."""

from typing import Any

_TAKEN_OVER = ("jti", "sub", "staff", "patient", "purpose", "iat", "confirmed_by", "reason")


def wish_of(ticket: Any) -> Any:
    """Return the wish for a ticket's document; what is no ticket is asked for as it is."""
    if not isinstance(ticket, dict) or not {"iat", "exp"} <= set(ticket):
        return ticket
    return {name: ticket[name] for name in _TAKEN_OVER if name in ticket} | {"life": ticket["exp"] - ticket["iat"]}
