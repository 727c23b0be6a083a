"""The commands `usmed region …`, and what those do that make and change drafts of a manifest."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from usmed.domain import region_draft as draft
from usmed.domain.errors import ConfigurationError
from usmed.domain.quorum import require
from usmed.domain.region_chain import signatures
from usmed.platform.commands_region_signing import (
    run_administrator_key,
    run_check,
    run_publish,
    run_show,
    run_sign,
    run_verify,
)
from usmed.platform.region_document import draft_bytes, is_json, read_region_document, write_whole

DEFAULT_DAYS = 365


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module to `usmed`."""
    region = commands.add_parser("region", help="look after the region manifest")
    actions = region.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, help: str, run: Callable[[argparse.Namespace], None], more: str = "") -> Any:
        description = f"{help[0].upper()}{help[1:]}.{' ' * bool(more)}{more}"
        parser = actions.add_parser(name, help=help, description=description)
        parser.set_defaults(run=run)
        return parser

    _add_changes(action)
    what = "make an administrator's key, encrypted"
    key = action("administrator-key", what, run_administrator_key, "Prints its public half. Never overwrites a file.")
    key.add_argument("--out", required=True, type=Path, metavar="KEY", help="where the private key goes")
    _add_passphrase(key)

    one = action("sign", "add an administrator's signature", run_sign, "Shows what would be signed, and asks.")
    one.add_argument("file", type=Path, metavar="FILE", help="the draft, or what others have signed; changed in place")
    one.add_argument("--key", required=True, type=Path, metavar="KEY", help="the administrator's private key")
    one.add_argument("--as", required=True, dest="signer", metavar="ID", help="id of the key server they run")
    one.add_argument("--previous", type=Path, metavar="FILE", help="the version before; needed for all but the first")
    one.add_argument("--yes", action="store_true", help="do not ask")
    _add_passphrase(one)

    verify = action("verify", "check the signatures of a manifest", run_verify, "Exit code 1 if it is not valid.")
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.add_argument(
        "--previous", type=Path, nargs="+", default=[], metavar="FILE", help="versions before it, without gaps"
    )

    publish = action("publish", "give signed manifests to the hub", run_publish, "Every member takes them from there.")
    publish.add_argument("files", type=Path, nargs="+", metavar="FILE", help="one, or several without gaps")
    publish.add_argument("--hub", default="", metavar="URL", help="default: the hub's address in the manifest")

    show = action("show", "print a manifest or a draft", run_show)
    show.add_argument("file", type=Path, metavar="FILE")
    check = action("check", "check that a file can be used as it is, and print it", run_check)
    check.add_argument("file", type=Path, metavar="FILE")


def _add_changes(action: Callable[..., Any]) -> None:
    init = action("init", "begin a region: write a draft of version 1", _init)
    init.add_argument("--region", required=True, metavar="ID", help="short name, the same for ever")
    init.add_argument("--name", required=True, help="name for people")
    init.add_argument("--hub-address", required=True, metavar="URL", help="https://host:port")
    init.add_argument("--hub-key", required=True, metavar="KEY", help="the hub's public key")
    init.add_argument("--hub-certificate", type=Path, metavar="FILE", help="PEM that its TLS must chain to")
    init.add_argument("--national-number", default="", metavar="ISSUER", help="issuer of the national number (ro.cnp)")
    init.add_argument("--threshold", type=int, metavar="K", help="how many key servers have to agree")
    init.add_argument(
        "--days", type=_days, default=DEFAULT_DAYS, metavar="N", help="how long it holds (default: %(default)s)"
    )
    init.add_argument("--out", required=True, type=Path, metavar="FILE", help="where the draft goes")
    init.add_argument("--replace", action="store_true", help="FILE may exist, and is lost")

    def change(name: str, help: str, make: Callable[[Any, argparse.Namespace], None]) -> Any:
        more = "A signed FILE is left as it is and its next version goes to --out; a draft is changed in place."
        parser = action(name, help, lambda arguments: _change(arguments, make), more)
        parser.add_argument("file", type=Path, metavar="FILE", help="the manifest in use, or a draft")
        parser.add_argument("--out", type=Path, metavar="FILE", help="where the draft goes")
        parser.add_argument("--replace", action="store_true", help="--out may exist, and is lost")
        parser.add_argument("--days", type=_days, metavar="N", help="how long it holds (default: as the one before)")
        return parser

    add = change("add-hospital", "add a hospital", lambda document, given: draft.add(document, *_hospital(given)))
    _add_member(add)
    add.add_argument(
        "--issuer", required=True, action="append", metavar="ISSUER", help="of its patient numbers; may be repeated"
    )
    add = change("add-key-server", "add a key server", lambda document, given: draft.add(document, *_key_server(given)))
    _add_member(add)
    add.add_argument("--administrator", required=True, metavar="NAME", help="who runs it")
    add.add_argument("--administrator-key", required=True, metavar="KEY", help="public key of that person")
    for kind, name, word in (
        (draft.HOSPITALS, "remove-hospital", "a hospital"),
        (draft.KEY_SERVERS, "remove-key-server", "a key server"),
    ):
        remove = change(name, f"remove {word}", _removal(kind))
        remove.add_argument("--id", required=True, metavar="ID")
    rotate = change("rotate-key-server", "give a key server another key, address or administrator", _rotate)
    rotate.add_argument("--id", required=True, metavar="ID")
    rotate.add_argument("--name", help="name for people")
    rotate.add_argument("--address", metavar="URL", help="https://host:port")
    rotate.add_argument("--key", metavar="KEY", help="the server's new public key")
    rotate.add_argument("--certificate", type=Path, metavar="FILE", help="PEM that its TLS must chain to")
    rotate.add_argument("--administrator", metavar="NAME", help="who runs it from now on")
    rotate.add_argument("--administrator-key", metavar="KEY", help="public key of that person")
    threshold = change(
        "set-threshold",
        "set how many key servers have to agree",
        lambda document, given: document.update(threshold=given.k),
    )
    threshold.add_argument("k", type=int, metavar="K")
    portal = change(
        "set-portal",
        "set the site where patients sign; under another name all of them have to be enrolled anew",
        lambda document, given: draft.set_portal(document, given.url),
    )
    portal.add_argument("url", metavar="URL", help="https://name[:port]")
    change("remove-portal", "remove it: patients no longer sign", lambda document, given: draft.remove_portal(document))
    change("renew", "let a manifest hold longer, all else as it is", lambda document, given: None)


def _add_member(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", required=True, metavar="ID", help="a-z, 0-9 and -, the same for ever")
    parser.add_argument("--name", required=True, help="name for people")
    parser.add_argument("--address", required=True, metavar="URL", help="https://host:port")
    parser.add_argument("--key", required=True, metavar="KEY", help="its public key")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="PEM that its TLS must chain to")


def _add_passphrase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="holds the key's passphrase (default: asked for)"
    )


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 3650:
        raise argparse.ArgumentTypeError("must be 1 to 3650")
    return int(text)


# ---- drafts ----


def _init(arguments: argparse.Namespace) -> None:
    hub = {"address": arguments.hub_address, "public_key": arguments.hub_key, **_certificate(arguments.hub_certificate)}
    more: dict[str, Any] = {}
    if arguments.national_number:
        more["national_number"] = {"issuer": arguments.national_number, "kind": "ro.cnp"}
    if arguments.threshold is not None:
        more["threshold"] = arguments.threshold
    document = draft.first_draft(
        region=arguments.region,
        name=arguments.name,
        hub=hub,
        issued=datetime.now(UTC),
        life=timedelta(days=arguments.days),
        **more,
    )
    _write_draft(arguments.out, document, replace=arguments.replace)


def _change(arguments: argparse.Namespace, make: Callable[[Any, argparse.Namespace], None]) -> None:
    before = read_region_document(arguments.file)
    if before.signed is not None:
        # Whoever has signed would not have signed what came of it.
        require(signatures(before.signed, before.manifest()), f"{arguments.file}: only a complete manifest goes on: it")
    life = timedelta(days=arguments.days) if arguments.days else None
    count_up = before.signed is not None
    document = draft.next_draft(before.document, datetime.now(UTC), life, count_up=count_up)
    make(document, arguments)
    target = arguments.out or arguments.file
    if arguments.out is None and (count_up or not is_json(arguments.file)):
        raise ConfigurationError(str(arguments.file), ["is no draft of these commands: name the new file with --out"])
    _write_draft(target, document, replace=arguments.replace or arguments.out is None)
    for line in draft.differences(before.document, document):
        print(f"  {line}")


def _hospital(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    return draft.HOSPITALS, {**_member(arguments), "issuers": arguments.issuer}


def _key_server(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    administrator = {"name": arguments.administrator, "public_key": arguments.administrator_key}
    return draft.KEY_SERVERS, {**_member(arguments), "administrator": administrator}


def _member(arguments: argparse.Namespace) -> dict[str, str]:
    return {
        "id": arguments.id,
        "name": arguments.name,
        "address": arguments.address,
        "public_key": arguments.key,
        **_certificate(arguments.certificate),
    }


def _rotate(document: Any, arguments: argparse.Namespace) -> None:
    named = {"name": arguments.name, "address": arguments.address, "public_key": arguments.key}
    person = {"name": arguments.administrator, "public_key": arguments.administrator_key}
    changes = {name: value for name, value in named.items() if value} | _certificate(arguments.certificate)
    draft.change_key_server(document, arguments.id, changes, {name: value for name, value in person.items() if value})


def _removal(kind: str) -> Callable[[Any, argparse.Namespace], None]:
    return lambda document, arguments: draft.remove(document, kind, arguments.id)


def _certificate(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        return {"tls_certificate": path.read_text("ascii")}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(path), ["cannot be read as a PEM certificate"]) from error


def _write_draft(path: Path, document: Any, *, replace: bool) -> None:
    hard, missing = draft.faults(document, str(path))
    if hard:
        raise ConfigurationError(f"{path} (not written)", hard)
    changed = path.exists()
    write_whole(path, draft_bytes(document), replace=replace)
    print(f"{path}: {'changed' if changed else 'written'}, a draft of version {document['version']}")
    for one in missing:
        print(f"  not complete yet: {one}")
