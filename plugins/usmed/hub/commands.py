"""Commands of the hub's staff: `usmed consent …`, `usmed patients …`, and `usmed hub` itself."""

import argparse
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.consent import Consent, Provision
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier, patient_identifier
from usmed.hub import charts
from usmed.hub.consents import StoredConsent
from usmed.hub.index import Chart
from usmed.hub.registry import Registry
from usmed.hub.serve import serve
from usmed.hub.settings import database_url, region_of
from usmed.hub.tables import CHAIN
from usmed.platform.region_store import believed_region
from usmed.platform.storage import Database, open_database

LIMIT_BYTES = 1 << 20


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module to `usmed`."""
    hub = commands.add_parser("hub", help="start the regional hub", description="Start the regional hub.")
    hub.set_defaults(run=lambda arguments: serve())

    consent = commands.add_parser("consent", help="record, withdraw and list consents")
    actions = consent.add_subparsers(required=True, metavar="ACTION")
    record = actions.add_parser(
        "record", help="record consents, all of them or none", description="Record consents (FHIR R4 Consent, JSON)."
    )
    record.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    _add_by(record)
    record.add_argument("--dry-run", action="store_true", help="check the files, record nothing")
    record.set_defaults(run=_record)
    withdraw = actions.add_parser("withdraw", help="withdraw a consent", description="Withdraw a consent, for good.")
    withdraw.add_argument("id", help="the consent's id, as `usmed consent list` shows it")
    _add_by(withdraw)
    withdraw.set_defaults(run=_withdraw)
    listing = actions.add_parser("list", help="list consents", description="List consents and what they say.")
    listing.add_argument("--patient", metavar="ISSUER:VALUE", help="only those of the person this number names")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, with the whole resource")
    listing.set_defaults(run=_list)

    patients = commands.add_parser("patients", help="look after the patient index")
    actions = patients.add_subparsers(required=True, metavar="ACTION")
    contradictions = actions.add_parser(
        "contradictions",
        help="list numbers that hospitals contradict each other about",
        description="List the patients that were kept apart because a number they claim is contradicted.",
    )
    contradictions.set_defaults(run=_contradictions)


def _add_by(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by", default=_user(), metavar="USER", help="who does it, for the audit log (default: %(default)s)"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number that no name belongs to.
        return f"uid {os.getuid()}"


@contextmanager
def _database() -> Iterator[Database]:
    database = open_database(database_url(os.environ), [CHAIN])
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _registry() -> Iterator[Registry]:
    file = region_of(os.environ)
    with _database() as database:
        region = believed_region(database, file)
        yield Registry(database, lambda: region, lambda: datetime.now(UTC))


def _record(arguments: argparse.Namespace) -> None:
    documents: list[tuple[str, Any]] = []
    problems = []
    for path in arguments.files:
        try:
            documents.append((str(path), parse_json(path.read_bytes(), limit_bytes=LIMIT_BYTES)))
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        except PeerDataError as error:
            problems.append(f"{path}: {error}")
    with _registry() as registry:
        try:
            recorded = registry.record(documents, arguments.by, dry_run=arguments.dry_run or bool(problems))
        except PeerDataError as error:
            problems.append(str(error))
        if problems:
            raise PeerDataError("nothing was recorded:\n" + "\n".join(problems))
        for one in recorded:
            print(f"{'would record' if arguments.dry_run else 'recorded'} {_summary(one)}")


def _withdraw(arguments: argparse.Namespace) -> None:
    with _registry() as registry:
        print(f"withdrawn {_summary(registry.withdraw(arguments.id, arguments.by))}")


def _list(arguments: argparse.Namespace) -> None:
    patient = _patient(arguments.patient) if arguments.patient else None
    with _registry() as registry:
        for one in registry.listed(patient):
            if arguments.json:
                document = {"id": one.id, "version": one.version, "status": one.status, "resource": one.resource}
                sys.stdout.write(canonical_json(document).decode() + "\n")
            else:
                print(_summary(one))
                for line in _rules(one.to_domain()):
                    print(f"    {line}")


def _contradictions(arguments: argparse.Namespace) -> None:
    with _database() as database, database.read() as connection:
        found = charts.contradictions(connection)
    for one in found:
        print(f"{datetime.fromtimestamp(one.found, UTC):%Y-%m-%d %H:%M} {one.identifier}: {one.reason}")
        print(f"    kept apart: {_chart(one.chart)}")
        if one.other is not None:
            print(f"    the number still names: {_chart(one.other)}")
    print(f"{len(found)} contradiction(s)")


def _patient(text: str) -> PatientIdentifier:
    issuer, colon, value = text.partition(":")
    if not colon:
        raise PeerDataError(f"{text!r} is not ISSUER:VALUE")
    return patient_identifier(issuer, value)


def _summary(one: StoredConsent) -> str:
    return f"{one.id} version {one.version} {one.status} {one.patient}"


def _chart(chart: Chart) -> str:
    numbers = ", ".join(str(one) for one in sorted(chart.identifiers))
    return f"{chart.hospital}, {numbers}, born {chart.birth_date or '?'}, sex {chart.sex or '?'}"


def _rules(consent: Consent) -> Iterator[str]:
    for name, bound in (("from", consent.valid_from), ("until", consent.valid_until)):
        if bound is not None:
            yield f"{name} {bound:%Y-%m-%d %H:%M} UTC"
    for rule in consent.provisions:
        yield f"{rule.type.value}: {_scope(rule)}"


def _scope(rule: Provision) -> str:
    parts = [
        f"to {', '.join(sorted(rule.recipients)) or 'every hospital'}",
        f"from {', '.join(sorted(rule.sources))}" if rule.sources else "",
        f"for {', '.join(sorted(rule.purposes)) or 'every purpose'}",
        f"modalities {', '.join(sorted(rule.modalities))}" if rule.modalities else "",
        f"studies {', '.join(sorted(rule.studies))}" if rule.studies else "",
        f"study dates {rule.study_date_from or ''}..{rule.study_date_to or ''}"
        if rule.study_date_from or rule.study_date_to
        else "",
    ]
    return "; ".join(part for part in parts if part)
