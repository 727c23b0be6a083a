"""What the node's pages read of a request from inside the hospital."""

from collections.abc import Mapping
from typing import Any

from flask import request

from usmed.domain.canonical import parse_json
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.hospital.staff.log_ins import NOBODY

LIMIT_BYTES = 64 << 10
NOBODY_LOGGED_IN = "nobody"

NO_PERMISSION = "no-permission"

PERMISSIONS = "usmed.permissions"
"""Member of the WSGI environment: the set of what whoever asks may do."""


REFUSED, SHOWN = "usmed.refused", "usmed.shown"
"""Members of the WSGI environment where the gate has turned a request away: why, and the address that was asked for."""

REACHES = "usmed.reaches"
"""Member of the WSGI environment: a function that tells whether whoever asks may see a page, by its address."""


def agent() -> str:
    """Return who asks."""
    return str(request.environ.get("REMOTE_USER", NOBODY))


def is_staff() -> bool:
    """Tell whether a member of staff asks: somebody who has logged in, with a password that was checked."""
    return bool(request.environ.get("AUTH_TYPE")) and agent() != NOBODY


def staff() -> str:
    """Return which member of staff asks.

    Raises:
        RefusedError: nobody has logged in, or nobody's password is checked: then one person could be two.
    """
    user = agent()
    if not request.environ.get("AUTH_TYPE"):
        raise RefusedError(
            NOBODY_LOGGED_IN,
            "log-ins have to be on: members of staff do this, and this node checks nobody's password"
            " (AuthenticationEnabled and RegisteredUsers in orthanc.json)",
        )
    if user == NOBODY:
        raise RefusedError(NOBODY_LOGGED_IN, "this is done by members of staff who have logged in")
    return user


def permitted(permission: str) -> bool:
    """Tell whether whoever asks has a permission (staff/permissions.yaml)."""
    return permission in request.environ.get(PERMISSIONS, ())


def require(permission: str) -> str:
    """Return which member of staff asks, who has a permission.

    Raises:
        RefusedError: nobody has logged in, or whoever has lacks it.
    """
    user = staff()
    if not permitted(permission):
        raise RefusedError(NO_PERMISSION, f"your role lacks the permission {permission!r}: ask the administrator")
    return user


def text(body: Mapping[str, Any], name: str) -> str:
    """Return a member that is text; empty if it is absent.

    Raises:
        PeerDataError: it is something else.
    """
    value = body.get(name, "")
    if not isinstance(value, str):
        raise PeerDataError(f"{name}: must be text")
    return value


def json_body() -> Mapping[str, Any]:
    """Return the body.

    Raises:
        PeerDataError: it is no JSON object.
    """
    if request.mimetype != "application/json":
        # Nothing else: a form on a stranger's web page can be sent from a colleague's browser, JSON cannot.
        raise PeerDataError("the body must be application/json")
    document = parse_json(request.get_data(cache=False), limit_bytes=LIMIT_BYTES)
    if not isinstance(document, dict):
        raise PeerDataError("the body must be a JSON object")
    return document
