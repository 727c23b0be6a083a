"""Commands of every process: `usmed keys …`, `usmed region …`, `usmed audit …`."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from joserfc.jwk import OKPKey

from usmed.domain.errors import ConfigurationError, UsmedError
from usmed.domain.log_head import WitnessReport, check_witnessed
from usmed.domain.region import RegionManifest
from usmed.platform import commands_region
from usmed.platform.audit_export import check
from usmed.platform.audit_log import AuditLog
from usmed.platform.environment import DATABASE_URL, setting
from usmed.platform.keys import generate_certificate, generate_key, load_private_key, public_key_text
from usmed.platform.log_heads import HeadStore
from usmed.platform.region_file import load_region
from usmed.platform.storage import open_database

SQLITE_FILES = ("usmed-hub.db", "usmed.db", "usmed-keyserver.db")
"""Where a hub, a hospital and a key server keep their tables when no database is named."""


class BrokenChainError(UsmedError):
    """The audit log is not as it was written."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module to `usmed`."""
    keys = commands.add_parser("keys", help="make keys and certificates")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    generate = actions.add_parser(
        "generate",
        help="make a member's Ed25519 key",
        description="Make an Ed25519 key and print its public half, for region.yaml. Never overwrites a file.",
    )
    generate.add_argument("--out", required=True, type=Path, metavar="FILE", help="where the private key goes")
    generate.set_defaults(run=_generate)
    public = actions.add_parser("public", help="print the public half of a key", description="Print a public key.")
    public.add_argument("file", type=Path, metavar="FILE")
    public.set_defaults(run=lambda arguments: print(public_key_text(load_private_key(arguments.file))))
    certificate = actions.add_parser(
        "certificate",
        help="make a self-signed TLS certificate",
        description="Make a self-signed TLS certificate; its key goes to FILE.key. Never overwrites a file.",
    )
    certificate.add_argument(
        "--host", required=True, action="append", metavar="NAME", help="host name or address it is for; may be repeated"
    )
    certificate.add_argument("--out", required=True, type=Path, metavar="FILE", help="where the certificate goes")
    certificate.set_defaults(run=_certificate)

    commands_region.add_commands(commands)

    audit = commands.add_parser("audit", help="verify and read the audit log")
    actions = audit.add_subparsers(required=True, metavar="ACTION")
    verify = actions.add_parser(
        "verify",
        help="check that the audit log is unbroken",
        description="Check every record of the audit log, and on a key server that the log has every head that others"
        " countersigned. Exit code 1 when a record was altered, removed or put in.",
    )
    verify.add_argument(
        "--region",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="the region manifest, with the keys of those who countersigned; again for an older one, if keys changed",
    )
    verify.set_defaults(run=_verify)
    tail = actions.add_parser("tail", help="print the last records", description="Print the last records, as JSON.")
    tail.add_argument("-n", type=int, default=20, metavar="COUNT", help="how many (default: %(default)s)")
    tail.add_argument("--patient", default="", metavar="ISSUER:VALUE", help="only those about this number")
    tail.set_defaults(run=_tail)
    export = actions.add_parser(
        "verify-export",
        help="check a file that the auditor's page has exported",
        description="Check that an export (ZIP) is as its hospital signed it. Exit code 1 when it is not.",
    )
    export.add_argument("file", type=Path, metavar="FILE")
    export.add_argument(
        "--region", required=True, type=Path, metavar="FILE", help="the region manifest, with the hospital's key"
    )
    export.set_defaults(run=_verify_export)
    for parser in (verify, tail):
        parser.add_argument(
            "--database",
            default="",
            metavar="URL",
            help=f"URL or SQLite file (default: {DATABASE_URL}, or {' or '.join(SQLITE_FILES)} in this folder)",
        )


def _generate(arguments: argparse.Namespace) -> None:
    print(public_key_text(generate_key(arguments.out)))


def _certificate(arguments: argparse.Namespace) -> None:
    key = arguments.out.with_name(arguments.out.name + ".key")
    generate_certificate(*arguments.host, certificate=arguments.out, key=key, now=datetime.now(UTC))
    print(f"{arguments.out} and {key} for {', '.join(arguments.host)}")


def _verify(arguments: argparse.Namespace) -> None:
    regions = [load_region(path) for path in arguments.region]
    with _audit_log(arguments.database) as (log, heads):
        report = log.verify()
        reports = _countersigned(regions, heads, log)
    if not report.unbroken:
        raise BrokenChainError(
            f"broken at record {report.bad_sequence}: {report.problem}\n"
            f"{report.count} record(s) before it are unbroken, the last with the hash {report.head}"
        )
    print(f"{report.count} record(s), head {report.head}, unbroken")
    for one in reports:
        if one.last:
            print(
                f"{one.witness} countersigned {one.heads} head(s) that are in this log, the last one record"
                f" {one.last.sequence} on {one.last.at:%Y-%m-%d %H:%M:%S} UTC"
            )
    silent = {id for one in regions[:1] for id in one.key_servers} - {one.witness for one in reports}
    for server in sorted(silent - {one.last.server for one in reports if one.last}):
        print(f"{server} countersigned no head of this log")
    if problems := [problem for one in reports for problem in one.problems]:
        raise BrokenChainError("this is not the log that others saw:\n" + "\n".join(problems))


def _verify_export(arguments: argparse.Namespace) -> None:
    region = load_region(arguments.region)
    try:
        bundle = arguments.file.read_bytes()
    except OSError as error:
        raise ConfigurationError(str(arguments.file), [error.strerror or "cannot be read"]) from error
    found = check(bundle, region.hospital_key)
    log = found.about.get("log", {})
    print(f"{found.records} record(s), signed by {found.hospital} at {found.about['at']}, asked by {found.about['by']}")
    print(f"asked: {json.dumps(found.about['asked'], ensure_ascii=False)}")
    print(f"the log then: {log.get('records')} record(s), head {log.get('hash')}")


def _countersigned(regions: Sequence[RegionManifest], heads: HeadStore, log: AuditLog) -> list[WitnessReport]:
    seen = heads.countersigned()
    if not regions:
        if seen:
            print("other servers countersigned heads of this log: check those too, with --region FILE")
        return []

    def keys(witness: str) -> list[OKPKey]:
        return [key for one in regions if (key := one.key_server_key(witness))]

    return check_witnessed(seen, keys, log.hash_at)


def _tail(arguments: argparse.Namespace) -> None:
    with _audit_log(arguments.database) as (log, _):
        for event in log.tail(arguments.n, arguments.patient):
            print(json.dumps(event, ensure_ascii=False))


@contextmanager
def _audit_log(given: str) -> Iterator[tuple[AuditLog, HeadStore]]:
    url = given or setting(os.environ, DATABASE_URL)
    if not url:
        here = [name for name in SQLITE_FILES if Path(name).exists()]
        if len(here) != 1:
            raise ConfigurationError("database", [f"name it with --database or {DATABASE_URL}"])
        url = here[0]
    if "://" not in url:
        url = f"sqlite:///{Path(url).absolute()}"
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        # Opening it would make an empty one, and say that its audit log is unbroken.
        raise ConfigurationError("database", [f"{url.removeprefix('sqlite:///')} does not exist"])
    database = open_database(url, [])
    log = AuditLog(database)
    try:
        yield log, HeadStore(database)
    finally:
        log.close()
        database.close()
