"""Commands that let registrars in: `usmed registrar …`, on the hub's machine."""

import argparse
import getpass
import os
from datetime import UTC, datetime

from usmed.domain.errors import PeerDataError, RefusedError
from usmed.hub.commands_patients import hub_database
from usmed.hub.registrar.app import DOOR, PATH
from usmed.hub.registrar.origin import registrar_origin
from usmed.hub.review import UNKNOWN
from usmed.hub.settings import region_of
from usmed.platform.region_store import believed_region
from usmed.platform.staff.access import CODE_LIFE, LONGEST_NAME, Access


def add_registrar_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `usmed registrar`."""
    registrar = commands.add_parser("registrar", help="let registrars of the patient index in")
    actions = registrar.add_subparsers(required=True, metavar="ACTION")
    minutes = CODE_LIFE.seconds // 60
    invite = actions.add_parser(
        "invite",
        help="make a one-time code for a registrar",
        description=f"Print the address of the registrars' pages, and a code with which this person can register one"
        f" passkey there within {minutes} minutes. An earlier code for the same name is void.",
    )
    invite.add_argument("name", metavar="NAME", help="the registrar's name, as it will stand under decisions")
    invite.set_defaults(run=_invite)
    keys = actions.add_parser(
        "passkeys",
        help="list the registrars' passkeys, or remove one",
        description="List the passkeys that may log in and decide. A lost one is removed here.",
    )
    keys.add_argument("--remove", default="", metavar="ID", help="remove this one, and end its sessions")
    keys.set_defaults(run=_passkeys)


def _invite(arguments: argparse.Namespace) -> None:
    name = arguments.name.strip()
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise PeerDataError(f"a name has 1 to {LONGEST_NAME} printable characters")
    file = region_of(os.environ)
    with hub_database() as database:
        region = believed_region(database, file)
        code = Access(database, _now, DOOR).make_code(_person(), name)
    print(f"{registrar_origin(region)}{PATH}/register")
    print(code)


def _passkeys(arguments: argparse.Namespace) -> None:
    with hub_database() as database:
        access = Access(database, _now, DOOR)
        if arguments.remove and not access.remove(arguments.remove, _person()):
            raise RefusedError(UNKNOWN, f"there is no passkey {arguments.remove!r}")
        for one in access.passkeys():
            print(f"{one.id}  {one.name}, registered {one.registered:%Y-%m-%d %H:%M} UTC")


def _person() -> str:
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):
        # A container's user may have no name.
        return f"command line (user {os.getuid()})"


def _now() -> datetime:
    return datetime.now(UTC)
