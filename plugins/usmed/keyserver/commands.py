"""Commands of a key server's administrator: `usmed keyserver …`."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from usmed.keyserver.commands_administrator import add_administrator_commands
from usmed.keyserver.settings import DEFAULT_DATABASE_URL, KEY_FILE, PASSPHRASE, passphrase
from usmed.keyserver.store import CHAIN
from usmed.platform.environment import DATABASE_URL, setting
from usmed.platform.keys import (
    encryption_key_file,
    generate_encrypted_key,
    load_or_make_encryption_key,
    public_key_text,
)
from usmed.platform.log_heads import HeadStore, describe
from usmed.platform.storage import open_database


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module to `usmed`."""
    keyserver = commands.add_parser(
        "keyserver", help="start a key server, make its key, decide its approvals, look after its alarms"
    )
    actions = keyserver.add_subparsers(required=True, metavar="ACTION")
    key = actions.add_parser(
        "key",
        help="make the server's key",
        description=f"Make the key server's key, encrypted under the passphrase in {PASSPHRASE}_FILE or asked for, and"
        " print its public half, for the region manifest. FILE.encryption, made with it, opens the server's shares of"
        " secrets. Never overwrites a file.",
    )
    key.add_argument("--out", required=True, type=Path, metavar="FILE", help=f"where it goes; then set {KEY_FILE}")
    key.set_defaults(run=_key)
    add_administrator_commands(actions)
    start = actions.add_parser("serve", help="start the key server", description="Start the key server.")
    start.set_defaults(run=_serve)
    alarms = actions.add_parser(
        "alarms",
        help="list alarms about logs that were rewritten",
        description="List the alarms about key servers whose log does not continue what was seen of it.",
    )
    alarms.add_argument("--all", action="store_true", help="those too that were acknowledged")
    alarms.set_defaults(run=_alarms)
    acknowledge = actions.add_parser(
        "acknowledge",
        help="acknowledge such an alarm",
        description="Acknowledge an alarm: the server's log is believed anew, from its next head on.",
    )
    acknowledge.add_argument("id", type=int, metavar="ALARM", help="its number, as `usmed keyserver alarms` shows it")
    acknowledge.add_argument("--by", required=True, metavar="NAME", help="who acknowledges, for the audit log")
    acknowledge.add_argument("--why", required=True, metavar="TEXT", help="what was found, for the audit log")
    acknowledge.set_defaults(run=_acknowledge)


def _alarms(arguments: argparse.Namespace) -> None:
    with _heads() as heads:
        found = heads.alarms(all=arguments.all)
    for one, line in zip(found, describe(found), strict=True):
        print(line)
        if one.acknowledged_by:
            print(f"    acknowledged by {one.acknowledged_by}: {one.acknowledged_why}")
    print(f"{len(found)} alarm(s)")


def _acknowledge(arguments: argparse.Namespace) -> None:
    with _heads() as heads:
        one = heads.acknowledge(arguments.id, by=arguments.by, why=arguments.why, now=datetime.now(UTC))
    print(f"acknowledged: the log of {one.server} is believed anew, from its next head on")


@contextmanager
def _heads() -> Iterator[HeadStore]:
    database = open_database(setting(os.environ, DATABASE_URL, DEFAULT_DATABASE_URL), [CHAIN])
    try:
        yield HeadStore(database)
    finally:
        database.close()


def _key(arguments: argparse.Namespace) -> None:
    given = passphrase(os.environ, twice=True)
    made = generate_encrypted_key(arguments.out, given)
    load_or_make_encryption_key(encryption_key_file(arguments.out), given)
    print(public_key_text(made))


def _serve(arguments: argparse.Namespace) -> None:
    # It takes long to import, which other commands need not pay.
    from usmed.keyserver.serve import serve

    serve()
