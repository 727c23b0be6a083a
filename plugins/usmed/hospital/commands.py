"""Commands on a node's machine: `usmed staff …`, log-ins of members of staff and tokens of programs."""

import argparse
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from usmed.domain.errors import ConfigurationError, PeerDataError
from usmed.domain.staff_role import ANYBODY, STAFF
from usmed.hospital.staff.passwords import hashed
from usmed.hospital.staff.rules import permissions, personal, roles
from usmed.hospital.staff.store import StaffStore
from usmed.hospital.store import CHAIN
from usmed.platform.environment import DATABASE_URL, setting
from usmed.platform.storage import open_database

ROLES_FILE = "USMED_ROLES_FILE"
LONGEST_DAYS = 3650


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `usmed staff`."""
    staff = commands.add_parser("staff", help="log-ins of a hospital's staff, and tokens of programs")
    actions = staff.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser(
        "add",
        help="add a log-in",
        description="Add a log-in for the node's log-in page. Asks for the password; from a pipe it is one line.",
    )
    role = actions.add_parser(
        "role", help="give another role", description="Give a log-in another role, and end its sessions."
    )
    for parser in (add, role):
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("role", metavar="ROLE", help=f"one of {', '.join(roles('')[0])}, or of {ROLES_FILE}")
    add.set_defaults(run=_add)
    role.set_defaults(run=_role)
    for name, run, help in (
        ("password", _password, "set another password"),
        ("disable", _disable, "let a log-in in no more"),
        ("enable", _enable, "let it in again"),
    ):
        parser = actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}, and end its sessions.")
        parser.add_argument("name", metavar="NAME")
        parser.set_defaults(run=run)
    listed = actions.add_parser("list", help="list log-ins", description="List the log-ins of the node's own.")
    listed.set_defaults(run=_list)
    _add_token_commands(actions)


def _add_token_commands(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    token = actions.add_parser("token", help="what programs show instead of a password")
    steps = token.add_subparsers(required=True, metavar="STEP")
    add = steps.add_parser(
        "add",
        help="make a token",
        description="Make a token and print it, once. A program sends it as `Authorization: Bearer TOKEN`.",
    )
    add.add_argument("name", metavar="NAME", help="of the program, as the audit log will call it")
    add.add_argument("permission", nargs="+", metavar="PERMISSION", help="what it may; see permissions.md")
    add.add_argument("--days", type=int, default=365, metavar="N", help="for how long (default: %(default)s)")
    add.set_defaults(run=_token_add)
    listed = steps.add_parser("list", help="list tokens", description="List what tokens there are, and until when.")
    listed.set_defaults(run=_token_list)
    revoke = steps.add_parser("revoke", help="make a token void", description="Make a token void, within seconds.")
    revoke.add_argument("name", metavar="NAME")
    revoke.set_defaults(run=_token_revoke)


def _add(arguments: argparse.Namespace) -> None:
    _check_role(arguments.role)
    with _store() as store:
        store.add(arguments.name, arguments.role, hashed(_new_password()), _now(), _person())
    print(f"{arguments.name} may log in as {arguments.role}")


def _role(arguments: argparse.Namespace) -> None:
    _check_role(arguments.role)
    with _store() as store:
        store.change(arguments.name, _now(), _person(), "role changed", role=arguments.role)
    print(f"{arguments.name} is {arguments.role} from now on")


def _password(arguments: argparse.Namespace) -> None:
    with _store() as store:
        store.change(arguments.name, _now(), _person(), "password changed", password=hashed(_new_password()))
    print(f"{arguments.name} has another password")


def _disable(arguments: argparse.Namespace) -> None:
    with _store() as store:
        store.change(arguments.name, _now(), _person(), "account disabled", disabled=1)
    print(f"{arguments.name} is let in no more")


def _enable(arguments: argparse.Namespace) -> None:
    with _store() as store:
        store.change(arguments.name, _now(), _person(), "account enabled", disabled=0)
    print(f"{arguments.name} is let in again")


def _list(arguments: argparse.Namespace) -> None:
    with _store() as store:
        for one in store.accounts().values():
            state = ", disabled" if one.disabled else ""
            print(f"{one.name}  {one.role}{state}, changed {one.changed:%Y-%m-%d %H:%M} UTC")


def _token_add(arguments: argparse.Namespace) -> None:
    unknown = set(arguments.permission) - (set(permissions()) - {ANYBODY, STAFF})
    if unknown:
        raise PeerDataError(f"there is no permission {', '.join(sorted(unknown))}")
    own = sorted(set(arguments.permission) & personal())
    if own:
        raise PeerDataError(f"only a member of staff can have the permission {', '.join(own)}, and no program")
    if not 1 <= arguments.days <= LONGEST_DAYS:
        raise PeerDataError(f"a token lives 1 to {LONGEST_DAYS} days")
    now = _now()
    with _store() as store:
        expires = now + timedelta(days=arguments.days)
        print(store.add_token(arguments.name, arguments.permission, now, expires, _person()))


def _token_list(arguments: argparse.Namespace) -> None:
    with _store() as store:
        for one in store.tokens().values():
            over = " (expired)" if one.expires <= _now() else ""
            print(f"{one.name}  {' '.join(sorted(one.permissions))}, until {one.expires:%Y-%m-%d %H:%M} UTC{over}")


def _token_revoke(arguments: argparse.Namespace) -> None:
    with _store() as store:
        store.revoke(arguments.name, _now(), _person())
    print(f"the token {arguments.name} is void")


def _check_role(role: str) -> None:
    known, problems = roles(setting(os.environ, ROLES_FILE))
    if problems:
        raise ConfigurationError(ROLES_FILE, problems)
    if role not in known:
        raise PeerDataError(f"there is no role {role!r}; there are {', '.join(known)}")


def _new_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise PeerDataError("these are two different passwords")
    return password


@contextmanager
def _store() -> Iterator[StaffStore]:
    url = setting(os.environ, DATABASE_URL) or ("sqlite:///usmed.db" if Path("usmed.db").exists() else "")
    if not url:
        raise ConfigurationError("database", [f"name the node's with {DATABASE_URL}, or go to the folder of usmed.db"])
    database = open_database(url, [CHAIN])
    try:
        yield StaffStore(database)
    finally:
        database.close()


def _person() -> str:
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):
        # A container's user may have no name.
        return f"command line (user {os.getuid()})"


def _now() -> datetime:
    return datetime.now(UTC)
