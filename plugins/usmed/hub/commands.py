"""Commands of the hub's staff: `usmed consent …` and `usmed hub` itself; and those of `commands_patients`,
`commands_registrar`."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from usmed.domain.canonical import canonical_json
from usmed.domain.consent import Consent, Provision
from usmed.domain.consent_record import ProofKind
from usmed.domain.paper import scan_digest
from usmed.hub.commands_patients import add_patients_commands, hub_database, number_of
from usmed.hub.commands_registrar import add_registrar_commands
from usmed.hub.consents import StoredConsent
from usmed.hub.registry import Registry
from usmed.hub.settings import region_of
from usmed.platform.region_store import believed_region


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module to `usmed`."""
    hub = commands.add_parser("hub", help="start the regional hub", description="Start the regional hub.")
    hub.set_defaults(run=_serve)

    consent = commands.add_parser("consent", help="list consents")
    actions = consent.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list consents", description="List consents and what they say.")
    listing.add_argument("--patient", metavar="ISSUER:VALUE", help="only those of the person this number names")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, with the whole resource")
    listing.set_defaults(run=_list)

    add_patients_commands(commands)
    add_registrar_commands(commands)


def _serve(arguments: argparse.Namespace) -> None:
    # It takes long to import, which other commands need not pay.
    from usmed.hub.serve import serve

    serve()


@contextmanager
def _registry() -> Iterator[Registry]:
    file = region_of(os.environ)
    with hub_database() as database:
        region = believed_region(database, file)
        yield Registry(database, lambda: region, lambda: datetime.now(UTC))


def _list(arguments: argparse.Namespace) -> None:
    patient = number_of(arguments.patient) if arguments.patient else None
    with _registry() as registry:
        for one in registry.listed(patient):
            if arguments.json:
                document = {"id": one.id, "version": one.version, "status": one.status, "resource": one.resource}
                sys.stdout.write(canonical_json(document).decode() + "\n")
            else:
                print(_summary(one))
                print(f"    {_proof(one)}")
                for line in _rules(one.to_domain()):
                    print(f"    {line}")


def _summary(one: StoredConsent) -> str:
    return f"{one.id} version {one.version} {one.status} {one.patient}"


def _proof(one: StoredConsent) -> str:
    recorded = f"{datetime.fromtimestamp(one.recorded, UTC):%Y-%m-%d %H:%M} UTC"
    if one.kind is ProofKind.PASSKEY:
        return f"signed by the patient's passkey, here since {recorded}"
    sheet = scan_digest(one.resource)
    return f"on paper, recorded at {one.proved_by}, here since {recorded}; {f'scan {sheet}' if sheet else 'no scan'}"


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
