"""Puts the pages for staff together: by the first part of their address below `/usmed/`, a blueprint each."""

import time
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from flask import Blueprint
from joserfc.jwk import OKPKey

from usmed.domain.identifiers import Naming
from usmed.domain.region import RegionManifest
from usmed.hospital.archive import Archive
from usmed.hospital.arrival_store import ArrivalStore
from usmed.hospital.arrivals_pages import Services as ArrivalsServices
from usmed.hospital.arrivals_pages import create_arrivals_pages
from usmed.hospital.audit_pages import AuditServices, create_audit_pages
from usmed.hospital.desk import Desk
from usmed.hospital.enrolment_pages import Services as EnrolmentServices
from usmed.hospital.enrolment_pages import create_enrolment_pages
from usmed.hospital.enrolments import Enrolments
from usmed.hospital.frame import Frame
from usmed.hospital.log_in_pages import create_log_in_pages
from usmed.hospital.node_metrics import node_metrics
from usmed.hospital.oversight import Oversight
from usmed.hospital.paper_pages import add_paper_pages
from usmed.hospital.patient_record import PatientRecords
from usmed.hospital.pulls import Pulls
from usmed.hospital.settings import LogInBy, Settings, StaffSettings
from usmed.hospital.staff.rules import personal, roles
from usmed.hospital.staff.sessions import NodeLogIns
from usmed.hospital.staff.store import StaffStore
from usmed.hospital.statistics_pages import StatisticsServices, create_statistics_pages
from usmed.platform.audit_log import AuditLog
from usmed.platform.deliveries import Deliveries
from usmed.platform.signed_http import SignedClient
from usmed.platform.storage import Database


def create_staff_pages(
    *,
    settings: Settings,
    oversight: Oversight,
    hospital: str,
    key: OKPKey,
    region: Callable[[], RegionManifest],
    naming: Naming,
    database: Database,
    audit: AuditLog,
    archive: Archive,
    client: SignedClient,
    deliveries: Deliveries,
    desk: Desk,
    hospital_name: Callable[[str], str],
    unreachable: Callable[[], Mapping[str, object]],
    clock: Callable[[], datetime],
    arrivals: ArrivalStore,
    pulls: Pulls,
    today: Callable[[], date],
    log_ins: NodeLogIns | None,
) -> dict[str, Blueprint]:
    """Return the pages for staff.

    Args:
        hospital: this one's id.
        key: its private key.
        unreachable: the hospitals that do not answer now.
        hospital_name: what people call a hospital, by its id.
        clock: aware UTC.
        today: the hospital's day.
        log_ins: who logs in here; None where Orthanc asks for the passwords.
    """

    def names() -> dict[str, str]:
        return {one: hospital_name(one) for one in region().hospitals}

    frame = Frame(hospital_name=lambda: hospital_name(hospital), audit=audit, clock=clock)
    arrivals_services = ArrivalsServices(
        store=arrivals,
        standing=pulls.standing,
        database=database,
        today=today,
        hospital_name=hospital_name,
        frame=frame,
    )
    enrolments = Enrolments(
        hospital=hospital,
        key=key,
        region=region,
        records=PatientRecords(archive, naming, lambda: region().spoken_for(hospital)),
        database=database,
        deliveries=deliveries,
        client=client,
        audit=audit,
        clock=clock,
    )
    services = EnrolmentServices(enrolments=enrolments, deliveries=deliveries, archive=archive, frame=frame)
    pages = create_enrolment_pages(services)
    add_paper_pages(pages, services, desk, names)
    zone = ZoneInfo(settings.Audit.Patterns.Zone)
    return {
        "arrivals": create_arrivals_pages(arrivals_services),
        "desk": pages,
        "audit": create_audit_pages(AuditServices(oversight.auditor, frame, naming, zone, names)),
        "": create_log_in_pages(frame, log_ins),
        "statistics": create_statistics_pages(
            StatisticsServices(oversight, frame, zone, names, node_metrics(oversight, audit, unreachable))
        ),
    }


def create_log_ins(
    staff: StaffSettings, database: Database, registered: Mapping[str, str], clock: Callable[[], datetime]
) -> NodeLogIns | None:
    """Return who lets people in where the node itself does; None where Orthanc asks for the passwords.

    Args:
        registered: names and passwords of Orthanc's configuration.
    """
    if staff.LogIn is LogInBy.ORTHANC:
        return None
    return NodeLogIns(
        roles=roles(staff.RolesFile)[0],
        personal=personal(),
        store=StaffStore(database),
        registered=registered,
        registered_roles=staff.Users,
        other=staff.OtherUsers,
        idle=timedelta(minutes=staff.IdleMinutes),
        monotonic=time.monotonic,
        clock=clock,
    )
