"""Members of staff, for tests that call the node's pages without Orthanc before them."""

from collections.abc import Collection
from typing import Any

from usmed.hospital.page_requests import PERMISSIONS
from usmed.hospital.staff.rules import permissions


def logged_in(user: str, may: Collection[str] | None = None) -> dict[str, Any]:
    """Return what Orthanc's entry says of whoever has logged in with a password; `may` everything, if not said."""
    allowed = frozenset(permissions() if may is None else may)
    return {"REMOTE_USER": user, "AUTH_TYPE": "Basic", PERMISSIONS: allowed}
