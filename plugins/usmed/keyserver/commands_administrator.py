"""Commands by which a key server's administrator decides and lets people into the console, on the server's machine.

They work on the server's database, so they need no passkey: whoever can run them could change it by hand. Each leaves
its record in the audit log.
"""

import argparse
import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from usmed.domain.approval import Change, State
from usmed.domain.errors import ConfigurationError, RefusedError
from usmed.keyserver.approvals import UNKNOWN, Approvals, HeldOperation
from usmed.keyserver.console.app import DOOR
from usmed.keyserver.settings import DEFAULT_DATABASE_URL, ID
from usmed.keyserver.store import CHAIN, RecordStore
from usmed.platform.environment import DATABASE_URL, setting
from usmed.platform.notices import Outbox
from usmed.platform.staff.access import CODE_LIFE, Access
from usmed.platform.storage import Database, open_database


def add_administrator_commands(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these commands to `usmed keyserver`."""
    approvals = actions.add_parser("approvals", help="see and decide what needs an administrator")
    decisions = approvals.add_subparsers(required=True, metavar="ACTION")
    listing = decisions.add_parser(
        "list", help="list what waits", description="List the operations that wait for a decision, one a line."
    )
    listing.add_argument("--all", action="store_true", help="those that were decided or have expired, too")
    listing.set_defaults(run=_list)
    for name, run, text in (
        ("show", _show, "show one with all its particulars"),
        ("approve", _approve, "approve one on this server"),
        ("refuse", _refuse, "refuse one for good"),
    ):
        one = decisions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        one.add_argument("digest", metavar="DIGEST", help="its digest: all of it, or its sixteen characters")
        one.set_defaults(run=run)
    code = actions.add_parser(
        "console-code",
        help="make a one-time code that registers a passkey",
        description=f"Print a code with which one passkey can be registered on the console within"
        f" {CODE_LIFE.seconds // 60} minutes. A code that was made before is void.",
    )
    code.set_defaults(run=_code)
    keys = actions.add_parser(
        "passkeys",
        help="list the console's passkeys, or remove one",
        description="List the passkeys that may log in to the console and decide. A lost one is removed here.",
    )
    keys.add_argument("--remove", default="", metavar="ID", help="remove this one, and end its sessions")
    keys.set_defaults(run=_passkeys)


def _list(arguments: argparse.Namespace) -> None:
    with _database() as database:
        held = _approvals(database).listed(*(() if arguments.all else (State.PENDING,)))
    for one in held:
        operation = one.operation
        what = f"{operation.requester}: {operation.kind}, expires {_moment(operation.expires)}"
        print(f"{one.short}  {one.state:8}  {what}")
    if not held:
        print("nothing" if arguments.all else "nothing waits for a decision")


def _show(arguments: argparse.Namespace) -> None:
    with _database() as database:
        _print(_approvals(database).find(arguments.digest))


def _approve(arguments: argparse.Namespace) -> None:
    _decide(arguments.digest, Change.APPROVE)


def _refuse(arguments: argparse.Namespace) -> None:
    _decide(arguments.digest, Change.REFUSE)


def _decide(digest: str, change: Change) -> None:
    with _database() as database:
        approvals = _approvals(database)
        _print(approvals.decide(approvals.find(digest).digest, change, by=_person()))


def _print(one: HeldOperation) -> None:
    operation = one.operation
    lines = {
        "compare": one.short,
        "state": f"{one.state}{f', by {one.decided_by}, {_moment(one.decided)}' if one.decided else ''}",
        "requester": operation.requester,
        "kind": operation.kind.value,
        **{
            name: _moment(operation.until) if name == "until" else str(value)
            for name, value in sorted(operation.particulars.items())
        },
        **({"used": f"{one.used} of {operation.further}"} if operation.further else {}),
        **({"done": "yes" if one.used else "not yet"} if not operation.further and one.decided else {}),
        "issued": _moment(operation.issued),
        "expires": _moment(operation.expires),
        "nonce": operation.nonce,
        "sha256": one.digest,
    }
    for name, value in lines.items():
        print(f"{name + ':':12}{value}")


def _code(_: argparse.Namespace) -> None:
    with _database() as database:
        print(_access(database).make_code(_person()))


def _passkeys(arguments: argparse.Namespace) -> None:
    with _database() as database:
        access = _access(database)
        if arguments.remove and not access.remove(arguments.remove, _person()):
            raise RefusedError(UNKNOWN, f"there is no passkey {arguments.remove!r}")
        for one in access.passkeys():
            print(f"{one.id}  {one.name}, registered {_moment(one.registered)}")


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _person() -> str:
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):
        # A container's user may have no name.
        return f"command line (user {os.getuid()})"


def _approvals(database: Database) -> Approvals:
    # Nothing is proposed here, so no notice is queued.
    return Approvals(
        server=_server(), database=database, store=RecordStore(database), outbox=Outbox(database, wanted=False),
        clock=_now,
    )  # fmt: skip


def _access(database: Database) -> Access:
    return Access(database, _now, DOOR)


def _server() -> str:
    if not os.environ.get(ID):
        raise ConfigurationError("environment", [f"{ID} is not set"])
    return os.environ[ID]


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _database() -> Iterator[Database]:
    url = setting(os.environ, DATABASE_URL, DEFAULT_DATABASE_URL)
    file = url.removeprefix("sqlite:///")
    if file != url and not Path(file).exists():
        # Opening it would make an empty one, in which nothing waits.
        raise ConfigurationError(
            "database", [f"{file} does not exist: start the key server first, or name its database in {DATABASE_URL}"]
        )
    database = open_database(url, [CHAIN])
    try:
        yield database
    finally:
        database.close()
