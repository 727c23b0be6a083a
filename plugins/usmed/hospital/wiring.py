"""Puts a node together: the one place where use cases meet stores, clients and the clock."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path

from joserfc.jwk import OKPKey

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.errors import ConfigurationError, UsmedError
from usmed.domain.identifiers import Naming, PatientIdentifier
from usmed.domain.region import Hospital, RegionManifest
from usmed.hospital.access_feed import AccessFeed
from usmed.hospital.archive import Archive
from usmed.hospital.arrivals import Arrivals
from usmed.hospital.changes import Changes
from usmed.hospital.circuit import Circuit
from usmed.hospital.desk import Desk
from usmed.hospital.desk_store import DeskStore
from usmed.hospital.emergencies import Emergencies
from usmed.hospital.federation import HEALTH_PATH, FederationApplication
from usmed.hospital.feed import Feed
from usmed.hospital.fetch import Fetch
from usmed.hospital.guest_copies import GuestCopies
from usmed.hospital.guest_store import GuestStore
from usmed.hospital.identities import Identities
from usmed.hospital.lookup import FederatedLookup
from usmed.hospital.node import Node
from usmed.hospital.outbound import Kind, Outbound
from usmed.hospital.oversight import create_oversight
from usmed.hospital.pages import create_pages
from usmed.hospital.patient_requests import PatientRequests
from usmed.hospital.permission import Permissions
from usmed.hospital.pulls import Pulls
from usmed.hospital.region_panel import RegionPanel
from usmed.hospital.release import Release
from usmed.hospital.retention import Retention
from usmed.hospital.settings import SECTION, Settings, WithdrawnCopies
from usmed.hospital.store import CHAIN, AnswerCache, PullStore, ToldStore
from usmed.hospital.tickets import Tickets
from usmed.hospital.transfer import Transfer
from usmed.hospital.wiring_arrivals import create_intake
from usmed.hospital.wiring_pages import create_log_ins, create_staff_pages
from usmed.hospital.withdrawals import Withdrawals
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.delivery_store import DeliveryStore
from usmed.platform.keys import load_private_key, public_key_text
from usmed.platform.listener import Listener
from usmed.platform.migration_process import migrate_first
from usmed.platform.nonces import NonceStore
from usmed.platform.region_file import read_region
from usmed.platform.region_store import RegionStore, starting_region
from usmed.platform.region_watch import RegionWatcher, ask_hub
from usmed.platform.signed_http import Identity, SignedClient, SignedGuard
from usmed.platform.storage import open_database

log = logging.getLogger(__name__)

HUB_SHARE = 0.4
"""What the hub may take of a lookup's deadline; the rest is for the hospitals."""


def create_node(
    settings: Settings, archive: Archive, storage_directory: Path, registered: Mapping[str, str] | None = None
) -> Node:
    """Put a node of a region together.

    Args:
        settings: checked settings with a `Hospital`.
        archive: the hospital's archive.
        registered: names and passwords of Orthanc's configuration.
        storage_directory: where the SQLite file goes when no database is configured.

    Raises:
        ConfigurationError: the region manifest, the key or the database do not fit.
    """
    url = settings.DatabaseUrl or f"sqlite:///{storage_directory / 'usmed.db'}"
    region_file = read_region(Path(settings.RegionFile))
    migrate_first(url, [CHAIN])
    region, own, key = _membership(settings, starting_region(url, region_file))
    naming = Naming(own.issuers[0], region.national_number)
    identity = Identity(own.id, key)
    database = open_database(url, [CHAIN])
    audit = AuditLog(database)
    regions = RegionStore(database, audit, utc_now, agent=own.id, file=region_file)
    region_now = regions.current
    cache, store, guests = AnswerCache(database), PullStore(database), GuestStore(database)
    client = SignedClient(identity, region_now, utc_now)
    circuit = Circuit(settings.Lookup.CircuitSeconds, time.monotonic)
    # Its own switch: nobody else knows who is who, so it is tried more often than a hospital.
    hub_circuit = Circuit(min(5.0, settings.Lookup.CircuitSeconds), time.monotonic)
    identities = Identities(
        hospital=own.id,
        region=region_now,
        client=client,
        cache=cache,
        circuit=hub_circuit,
        clock=utc_now,
        fresh_s=settings.Lookup.IdentitySeconds,
        deadline_s=HUB_SHARE * settings.Lookup.DeadlineSeconds,
    )
    tickets = Tickets(
        hospital=own.id,
        key=own.key,
        region=region_now,
        client=client,
        # Tried often: without enough of them nothing is released anywhere.
        circuit=Circuit(min(2.0, settings.Lookup.CircuitSeconds), time.monotonic),
        clock=utc_now,
        deadline_s=settings.Lookup.DeadlineSeconds,
    )
    lookup = FederatedLookup(
        hospital=own.id,
        naming=naming,
        identities=identities,
        tickets=tickets,
        client=client,
        circuit=circuit,
        audit=audit,
        clock=utc_now,
        deadline_s=settings.Lookup.DeadlineSeconds,
        cache_s=settings.Lookup.CacheSeconds,
    )

    def consents_changed(patient: Collection[PatientIdentifier]) -> None:
        lookup.forget()
        tickets.forget(patient)
        withdrawals.look()
        intake.prefetcher.consents_changed(patient)

    def consents_may_have_changed(patient: Collection[PatientIdentifier]) -> None:
        withdrawals.hint(patient)
        consents_changed(patient)

    changes = Changes(
        region=region_now, store=ToldStore(database), audit=audit, clock=utc_now, changed=consents_changed
    )
    permissions = Permissions(
        hospital=own.id,
        key=own.key,
        naming=naming,
        region=region_now,
        tickets=tickets,
        changes=changes,
        clock=utc_now,
    )
    release = Release(
        hospital=own.id,
        naming=naming,
        archive=archive,
        permissions=permissions,
        is_guest=store.is_guest,
        audit=audit,
        clock=utc_now,
    )
    transfer = Transfer(
        hospital=own.id,
        naming=naming,
        region=region_now,
        store=store,
        guests=guests,
        archive=archive,
        client=client,
        tickets=tickets,
        changes=changes,
        clock=utc_now,
        connections=settings.Pull.Connections,
        idle_s=settings.Pull.IdleSeconds,
    )
    pulls = Pulls(
        transfer=transfer,
        store=store,
        archive=archive,
        audit=audit,
        clock=utc_now,
        workers=settings.Pull.Workers,
    )
    fetch = Fetch(naming=naming, lookup=lookup, pulls=pulls, archive=archive, settings=settings.Pull, clock=utc_now)
    intake = create_intake(
        settings, naming=naming, database=database, audit=audit, fetch=fetch, pulls=pulls, clock=utc_now
    )
    national = region.national_number
    feed = Feed(
        naming=naming,
        issuers=[*own.issuers, *([national.issuer] if national else [])],
        archive=archive,
        client=client,
        is_guest=store.is_guest,
        consents_changed=consents_may_have_changed,
        guests=guests,
        reconcile_s=settings.Hub.ReconcileSeconds,
        poll_s=settings.Hub.ConsentSeconds,
    )
    copies = GuestCopies(
        pulls=pulls,
        guests=guests,
        archive=archive,
        audit=audit,
        clock=utc_now,
        own_again=feed.stable,
    )
    keep = settings.Retention.AfterWithdrawal is WithdrawnCopies.KEEP
    withdrawals = Withdrawals(
        hospital=own.id,
        guests=guests,
        copies=copies,
        tickets=tickets,
        changes=changes,
        audit=audit,
        clock=utc_now,
        legal_basis=settings.Retention.LegalBasis if keep else "",
    )
    outbound = Outbound(
        hospital=own.id,
        naming=naming,
        archive=archive,
        permissions=permissions,
        pulls=store,
        audit=audit,
        clock=utc_now,
        own=settings.Own,
        foreign=settings.Foreign,
    )
    deliveries = Deliveries(
        own=own.id,
        region=region_now,
        store=DeliveryStore(database),
        post=client.post,
        clock=utc_now,
        here=lambda records, enrolments: changes.told(own.id, records, enrolments),
    )
    desk = Desk(
        hospital=own.id,
        key=key,
        region=region_now,
        store=DeskStore(database),
        deliveries=deliveries,
        audit=audit,
        clock=utc_now,
    )
    panel = RegionPanel(
        hospital=own.id,
        naming=naming,
        region=region_now,
        lookup=lookup,
        fetch=fetch,
        pulls=pulls,
        archive=archive,
    )

    def name_of(hospital_id: str) -> str:
        hospital = region_now().hospitals.get(hospital_id)
        return hospital.name if hospital else hospital_id

    refused = _refusals(audit)
    log_ins = create_log_ins(settings.Staff, database, registered or {}, utc_now)
    limit = settings.Federation.MaximumBodyBytes
    guard = SignedGuard(
        FederationApplication(release, changes, identity, limit, refused),
        identity=identity,
        region=region_now,
        clock=utc_now,
        nonces=NonceStore(database),
        limit_bytes=limit,
        open_paths=frozenset({HEALTH_PATH}),
        refused=refused,
    )
    oversight = create_oversight(
        settings=settings.Audit,
        hospital=own.id,
        key=key,
        region=region_now,
        database=database,
        audit=audit,
        archive=archive,
        source_of=store.source_of,
        folder=storage_directory,
        clock=utc_now,
    )
    pages = create_pages(
        naming=naming,
        archive=archive,
        panel=panel,
        fetch=fetch,
        pulls=pulls,
        lookup=lookup,
        feed=feed,
        desk=desk,
        emergencies=Emergencies(tickets=tickets, audit=audit, clock=utc_now, opened=lookup.forget),
        requests=PatientRequests(
            possible=lambda: bool(region_now().portal),
            database=database,
            client=client,
            circuit=hub_circuit,
            audit=audit,
            clock=utc_now,
        ),
        staff_pages=create_staff_pages(
            settings=settings,
            oversight=oversight,
            hospital=own.id,
            key=key,
            region=region_now,
            naming=naming,
            database=database,
            audit=audit,
            archive=archive,
            client=client,
            deliveries=deliveries,
            desk=desk,
            hospital_name=name_of,
            unreachable=lookup.unreachable,
            clock=utc_now,
            arrivals=intake.store,
            pulls=pulls,
            today=intake.today,
            log_ins=log_ins,
        ),
        oversight=oversight,
        stuck=lambda: {**withdrawals.stuck, **copies.stuck},
        hospital_name=name_of,
        refused=refused,
    )
    return Node(
        settings=settings,
        regions=regions,
        region_watcher=RegionWatcher(
            regions,
            Path(settings.RegionFile),
            {"the hub": ask_hub(client)},
            poll_s=settings.Hub.RegionSeconds,
        ),
        naming=naming,
        database=database,
        audit=audit,
        lookup=lookup,
        fetch=fetch,
        pulls=pulls,
        outbound=outbound,
        retention=Retention(
            store=store,
            archive=archive,
            copies=copies,
            clock=utc_now,
            guest_days=settings.Retention.GuestDays,
            sweep_s=settings.Retention.SweepSeconds,
        ),
        feed=feed,
        arrivals=Arrivals(naming=naming, archive=archive, fetch=fetch),
        intake=intake,
        pages=pages,
        listener=Listener(
            guard,
            address=settings.Federation.ListenAddress,
            port=settings.Federation.Port,
            threads=settings.Federation.Threads,
            limit_bytes=limit,
            certificate_file=settings.Federation.TlsCertificateFile,
            key_file=settings.Federation.TlsPrivateKeyFile,
            settings="Usmed.Federation",
        ),
        client=client,
        tickets=tickets,
        deliveries=deliveries,
        accesses=AccessFeed(
            hospital=own.id, wanted=lambda: bool(region_now().portal), database=database, client=client, clock=utc_now
        ),
        withdrawals=withdrawals,
        oversight=oversight,
        refused=refused,
        log_ins=log_ins,
    )


def _refusals(audit: AuditLog) -> Callable[[str, str, str], None]:
    """Return what writes a refusal down: from which address, by whom if that is proved, and why."""

    def refused(remote: str, sender: str, reason: str) -> None:
        try:
            audit.append(
                AuditEvent(
                    at=utc_now(),
                    event=AuditEventType.REFUSED,
                    agent=sender or remote,
                    outcome=Outcome.DENIED,
                    reason=reason,
                    detail={"address": remote},
                )
            )
        except UsmedError as error:
            log.error("a refusal could not be recorded: %s", error)

    return refused


def _membership(settings: Settings, region: RegionManifest) -> tuple[RegionManifest, Hospital, OKPKey]:
    """Return the region, this hospital in it, and its private key.

    Raises:
        ConfigurationError: they do not fit together.
    """
    key = load_private_key(Path(settings.PrivateKeyFile))
    own = region.hospitals.get(settings.Hospital)
    problems = [
        f"{SECTION}.Foreign.{kind}.{name}: there is no hospital {hospital!r} in {settings.RegionFile}"
        for kind in Kind
        for name, hospital in getattr(settings.Foreign, kind.value).items()
        if hospital not in region.hospitals
    ]
    if own is None:
        problems.append(f"{SECTION}.Hospital: there is no hospital {settings.Hospital!r} in {settings.RegionFile}")
    elif public_key_text(key) != public_key_text(own.key):
        problems.append(
            f"{SECTION}.PrivateKeyFile: does not belong to the public_key of {own.id!r} in {settings.RegionFile}"
        )
    if own is None or problems:
        raise ConfigurationError("Orthanc's configuration", problems)
    return region, own, key


def utc_now() -> datetime:
    """Return the time, aware, in UTC."""
    return datetime.now(UTC)
