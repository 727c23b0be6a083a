"""What becomes of an HL7 message: taken durably and then acknowledged, or refused, written down and said why.

All that a message changes is written in one transaction with its digest and its audit record. So AA means done, a
message that a sender repeats is done once, and none that was acknowledged is lost, whatever is killed when. The message
itself, which carries names, is kept nowhere (docs/adr/0033).
"""

import ipaddress
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from usmed.domain.adt import Adt, Authorities, Event, read_adt
from usmed.domain.audit import AuditEvent, AuditEventType, Detail, Outcome
from usmed.domain.hl7_message import (
    ErrorCode,
    Header,
    Message,
    MessageError,
    acknowledge,
    read_header,
    read_message,
)
from usmed.domain.mllp import Block, Stray, TooLarge, Whole, block
from usmed.hospital.arrival_store import ArrivalStore
from usmed.platform.audit_log import AuditLog, append_in
from usmed.platform.storage import Database, StorageError

log = logging.getLogger(__name__)

AGENT = "hl7"
_REFUSALS_A_MINUTE = 600
"""How many refusals of one address are written down in a minute: a broken sender must not fill the disk."""


class Feed(Protocol):
    """What a listener gives blocks to."""

    def accepts(self, address: str) -> bool:
        """Tell whether anybody may send from an address."""
        ...

    def receive(self, came: Block, address: str) -> bytes | None:
        """Return what is sent back."""
        ...

    def broke_off(self, address: str, reason: str) -> None:
        """Take notice of a connection that ended in the middle of a message."""
        ...


@dataclass(frozen=True, slots=True)
class Senders:
    """Who may send: `APPLICATION^FACILITY` (MSH-3, MSH-4) and from which address or network."""

    networks: Mapping[str, ipaddress.IPv4Network | ipaddress.IPv6Network]

    def any_from(self, address: str) -> bool:
        """Tell whether somebody may send from there."""
        return any(_inside(address, one) for one in self.networks.values())

    def is_one(self, sender: str, address: str) -> bool:
        """Tell whether this sender may send from there."""
        network = self.networks.get(sender)
        return network is not None and _inside(address, network)


def _inside(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    here = ipaddress.ip_address(address)
    mapped = here.ipv4_mapped if isinstance(here, ipaddress.IPv6Address) else None
    return (mapped or here) in network


class Hl7Feed:
    """Takes messages. Safe to use from many threads."""

    def __init__(
        self,
        *,
        senders: Senders,
        authorities: Authorities,
        processing_id: str,
        character_set: str,
        database: Database,
        store: ArrivalStore,
        audit: AuditLog,
        clock: Callable[[], datetime],
        today: Callable[[], date],
        arrived: Callable[[], None],
    ) -> None:
        self._senders = senders
        self._authorities = authorities
        self._processing_id = processing_id
        self._character_set = character_set
        self._database = database
        self._store = store
        self._audit = audit
        self._clock = clock
        self._today = today
        self._arrived = arrived
        self._lock = threading.Lock()
        self._refusals: dict[str, tuple[int, int]] = {}

    def accepts(self, address: str) -> bool:
        """Tell whether anybody may send from an address; who may not is written down."""
        if self._senders.any_from(address):
            return True
        self._refused(None, address, "no sender of HL7 messages is known at this address")
        return False

    def broke_off(self, address: str, reason: str) -> None:
        """Write down that a connection ended in the middle of a message: it was not acknowledged, and comes again."""
        self._refused(None, address, reason)

    def receive(self, came: Block, address: str) -> bytes | None:
        """Take a block.

        Args:
            came: what the line brought.
            address: from where.

        Returns:
            The acknowledgement as a block; None where there is nothing to acknowledge.
        """
        header: Header | None = None
        fault: MessageError | None = None
        if isinstance(came, Stray):
            self._refused(None, address, f"{came.size_bytes} bytes outside of an MLLP block, or of one begun anew")
            return None
        try:
            header = read_header(came.head if isinstance(came, TooLarge) else came.content)
            self._take(came, header, address)
        except MessageError as error:
            fault = error
            self._refused(header, address, str(error), code=error.code.value, location=error.location)
        except StorageError as error:
            log.error("an HL7 message could not be kept: %s", error)
            fault = MessageError(ErrorCode.INTERNAL, "", "it cannot be kept now: send it again later")
        own_id = secrets.token_hex(10)
        return block(acknowledge(header, fault, own_id=own_id, at=self._clock()))

    def _take(self, came: Whole | TooLarge, header: Header, address: str) -> None:
        if not self._senders.is_one(header.sender, address):
            # Before anything is said of its content.
            text = "this sender (MSH-3, MSH-4) is not known at this address"
            raise MessageError(ErrorCode.TABLE_VALUE, "MSH^1^3", text)
        if isinstance(came, TooLarge):
            raise MessageError(ErrorCode.DATA_TYPE, "", "the message is too large")
        message: Message = read_message(
            came.content, header, processing_id=self._processing_id, character_set=self._character_set
        )
        adt = read_adt(message, self._authorities, self._today())
        now = self._clock()
        with self._database.write() as connection:
            is_new = self._store.is_new_message(connection, came.content, now)
            if is_new:
                if adt.arrival is not None and adt.event is Event.ARRIVED:
                    self._store.arrive(connection, adt.arrival)
                elif adt.event is Event.UPDATED:
                    self._store.update(connection, adt.person, self._today())
                for merge in adt.merges:
                    self._store.note_merge(connection, merge, now)
                append_in(connection, self._records(adt, header, address, now))
        if is_new and adt.event is Event.ARRIVED:
            self._arrived()

    def _records(self, adt: Adt, header: Header, address: str, now: datetime) -> list[AuditEvent]:
        base: dict[str, Detail] = {"what": f"ADT^{header.event}", "control_id": header.control_id, "address": address}
        agent = f"{AGENT} {header.sender}"
        if adt.event is Event.MERGED:
            return [
                AuditEvent(
                    now,
                    AuditEventType.IDENTITY,
                    agent,
                    patient=str(one.surviving),
                    reason="the hospital information system says that these are one patient: nothing was joined",
                    detail={**base, "prior": ", ".join(map(str, sorted(one.prior)))},
                )
                for one in adt.merges
            ]
        return [AuditEvent(now, AuditEventType.FEED, agent, patient=str(adt.person.identifier), detail=base)]

    def _refused(self, header: Header | None, address: str, reason: str, **detail: str) -> None:
        minute = int(self._clock().timestamp()) // 60
        with self._lock:
            last, count = self._refusals.get(address, (minute, 0))
            count = count + 1 if last == minute else 1
            if len(self._refusals) > 1000:
                self._refusals.clear()
            self._refusals[address] = (minute, count)
        if count > _REFUSALS_A_MINUTE:
            return
        if count == _REFUSALS_A_MINUTE:
            reason += "; further ones of this minute are not written down"
        said: dict[str, Detail] = {"address": address, **detail}
        if header is not None:
            said |= {"what": f"{header.component(9, 1)[:8]}^{header.event[:8]}", "control_id": header.control_id[:199]}
        event = AuditEvent(
            self._clock(),
            AuditEventType.REFUSED,
            f"{AGENT} {header.sender}" if header is not None else AGENT,
            outcome=Outcome.DENIED,
            reason=reason,
            detail=said,
        )
        try:
            self._audit.append(event)
        except StorageError as error:
            log.error("a refused HL7 message could not be recorded: %s", error)
