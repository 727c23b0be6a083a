"""Who asks, where Orthanc itself checks the passwords: the users of its configuration, each with a role."""

import base64
import binascii
from collections.abc import Mapping

from usmed.domain.staff_role import Person, Role

NOBODY = "http"
"""Who asks where nobody has given a name."""

REMEMBERED = 1024


def basic_credentials(authorization: str) -> tuple[str, str] | None:
    """Return user and password of HTTP basic authentication (RFC 7617 §2); None if it is none."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(token).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if user and colon else None


class OrthancLogIns:
    """Tells who asks from the header that Orthanc has checked before.

    Args:
        roles: those in force.
        users: the role of each user by name.
        other: the role of a user who is not among them; empty for none.
        anonymous: the role of everybody where Orthanc checks no password; empty for none.
        checked: whether Orthanc checks passwords.
    """

    def __init__(
        self, roles: Mapping[str, Role], users: Mapping[str, str], other: str, anonymous: str, *, checked: bool
    ) -> None:
        self._roles = roles
        self._users = users
        self._other = other
        self._anonymous = anonymous
        self._checked = checked
        self._known: dict[str, Person] = {}

    def person(self, headers: Mapping[str, str], address: str = "") -> Person:
        """Return who asks. Costs next to nothing for whoever has asked before."""
        authorization = headers.get("authorization", "")
        person = self._known.get(authorization)
        if person is None:
            person = self._read(authorization)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[authorization] = person
        return person

    def _read(self, authorization: str) -> Person:
        credentials = basic_credentials(authorization)
        name = credentials[0] if credentials is not None else NOBODY
        if not self._checked:
            role = self._roles.get(self._anonymous)
            return role.person(name, "") if role else Person(name)
        role = self._roles.get(self._users.get(name, self._other)) if name != NOBODY else None
        return role.person(name, "Basic") if role else Person(name)
