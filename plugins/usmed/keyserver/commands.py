"""Commands of a key server's administrator: `usmed keyserver …`."""

import argparse
import os
from pathlib import Path

from usmed.keyserver.settings import KEY_FILE, PASSPHRASE, passphrase
from usmed.platform.keys import generate_encrypted_key, public_key_text


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module to `usmed`."""
    keyserver = commands.add_parser("keyserver", help="start a key server, make its key")
    actions = keyserver.add_subparsers(required=True, metavar="ACTION")
    key = actions.add_parser(
        "key",
        help="make the server's key",
        description=f"Make the key server's key, encrypted under the passphrase in {PASSPHRASE}_FILE or asked for, and"
        " print its public half, for the region manifest. Never overwrites a file.",
    )
    key.add_argument("--out", required=True, type=Path, metavar="FILE", help=f"where it goes; then set {KEY_FILE}")
    key.set_defaults(run=_key)
    start = actions.add_parser("serve", help="start the key server", description="Start the key server.")
    start.set_defaults(run=_serve)


def _key(arguments: argparse.Namespace) -> None:
    print(public_key_text(generate_encrypted_key(arguments.out, passphrase(os.environ))))


def _serve(arguments: argparse.Namespace) -> None:
    # gunicorn takes a second to import, which other commands need not pay.
    from usmed.keyserver.serve import serve

    serve()
