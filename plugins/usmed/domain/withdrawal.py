"""When a change of a patient's will is done: no ticket without it can come to be, and no source heeds an old one.

Of n key servers k sign a ticket. Once n - k + 1 hold the change, no k without it can be found. A ticket that was signed
before lives on for a while: until every source knows the change, or until the last such ticket has expired.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from usmed.domain.consent_record import ConsentRecord
from usmed.domain.region import RegionManifest
from usmed.domain.ticket import CLOCK_TOLERANCE, LONGEST_LIFE, AccessTicket

LAST_TICKET = LONGEST_LIFE + 2 * CLOCK_TOLERANCE
"""From the signature of a ticket to the moment when no source heeds it: its life, and what the clocks may differ on
both sides."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a change has come.

    Attributes:
        needed: how many key servers must hold it.
        holding: key servers that hold it.
        waiting_for_servers: the others.
        waiting_for_hospitals: hospitals that do not know it yet.
        done: nothing is released against it any more, anywhere.
        certain_at: when it will be done even if those hospitals stay away; None as long as too few servers hold it.
    """

    needed: int
    holding: tuple[str, ...]
    waiting_for_servers: tuple[str, ...]
    waiting_for_hospitals: tuple[str, ...]
    done: bool
    certain_at: datetime | None


def progress(
    region: RegionManifest, servers: Mapping[str, datetime], hospitals: Mapping[str, datetime], now: datetime
) -> Progress:
    """Tell how far a change has come.

    Args:
        region: the region as it is now; who left it does not count.
        servers: key servers that hold the change, and since when.
        hospitals: hospitals that know it, and since when.
        now: aware UTC.
    """
    needed = len(region.key_servers) - region.threshold + 1
    times = sorted(servers[one] for one in region.key_servers if one in servers)
    certain_at = times[needed - 1] + LAST_TICKET if len(times) >= needed else None
    unaware = tuple(sorted(set(region.hospitals) - set(hospitals)))
    return Progress(
        needed=needed,
        holding=tuple(sorted(set(region.key_servers) & set(servers))),
        waiting_for_servers=tuple(sorted(set(region.key_servers) - set(servers))),
        waiting_for_hospitals=unaware,
        done=certain_at is not None and (not unaware or now >= certain_at),
        certain_at=certain_at,
    )


def overtaken(ticket: AccessTicket, told: Mapping[str, ConsentRecord]) -> str:
    """Return the id of a consent that changed after a ticket was signed on it; empty if none has.

    Args:
        ticket: a verified ticket.
        told: by id, the newest version that is known here of consents that were changed or taken back.
    """
    for one in ticket.consents:
        record = told.get(one.id)
        if record is not None and (not record.consent.active or record.consent.version > one.version):
            return one.id
    return ""


def takes_away(version: int, resource: Mapping[str, Any]) -> bool:
    """Tell whether hospitals have to know of a version of a consent: it is no first permission.

    Args:
        version: of the consent.
        resource: the FHIR R4 Consent.
    """
    return version > 1 or _denies(resource.get("provision", {}))


def _denies(provision: Any) -> bool:
    if not isinstance(provision, dict):
        return False
    return provision.get("type") == "deny" or any(map(_denies, provision.get("provision", [])))
