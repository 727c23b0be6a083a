"""Asks the administrators of the key servers for what they have to approve, and tells how that stands.

An operation is proposed to every key server, each of which lets its own administrator decide. When k of them have
approved it, what they signed is what other requests carry (`Standing.statement`).
"""

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from usmed.domain.approval import (
    LONGEST_LIFE,
    Kind,
    Operation,
    State,
    approved_document,
    is_over,
    parse_operation,
    short_digest,
)
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.quorum import Signature, assemble, read_signature
from usmed.platform.key_servers import KeyServers
from usmed.platform.signed_http import Identity

POLL_S = 30.0
_FINAL = frozenset({State.REFUSED, State.EXPIRED})


@dataclass(frozen=True, slots=True)
class Standing:
    """How an operation stands.

    Attributes:
        operation: what was proposed. Keep it (`to_json`, `parse_operation`) to ask again after a restart.
        states: where it stands, by key server.
        signatures: of those that have approved it.
        failed: why the other servers did not say how it stands.
        threshold: how many have to approve it.
        servers: how many there are.
    """

    operation: Operation
    states: Mapping[str, State]
    signatures: tuple[Signature, ...]
    failed: Mapping[str, str]
    threshold: int
    servers: int

    @property
    def is_approved(self) -> bool:
        """Tell whether enough servers have approved it."""
        return len(self.signatures) >= max(1, self.threshold)

    @property
    def is_hopeless(self) -> bool:
        """Tell whether so many have refused it, or let it expire, that enough cannot approve it any more."""
        final = sum(state in _FINAL for state in self.states.values())
        return self.servers - final < self.threshold

    def statement(self) -> dict[str, Any]:
        """Return what the servers that approved it have signed: a general JWS."""
        return assemble(approved_document(self.operation.digest), self.signatures)

    def __str__(self) -> str:
        """Return the sixteen characters that administrators compare, and what each server says."""
        told = {**{server: state.value for server, state in self.states.items()}, **self.failed}
        servers = "; ".join(f"{server}: {what}" for server, what in sorted(told.items()))
        needed = f"{len(self.signatures)} of the {self.threshold} key servers that it needs have approved it"
        return f"operation {short_digest(self.operation.digest)}: {needed} ({servers})"


class ApprovalClient:
    """What one hospital asks administrators for.

    Args:
        identity: who asks.
        servers: the key servers.
        clock: tells the time.
    """

    def __init__(self, identity: Identity, servers: KeyServers, clock: Callable[[], datetime]) -> None:
        self._identity = identity
        self._servers = servers
        self._clock = clock

    def propose(
        self, kind: Kind, particulars: Mapping[str, str | int], *, life: timedelta = LONGEST_LIFE
    ) -> Standing:
        """Propose a new operation to every key server.

        Args:
            kind: what is asked for.
            particulars: all that administrators have to know, the reason among them.
            life: how long it may be decided and carried out.

        Raises:
            PeerDataError: these are not the particulars of that kind.
        """
        issued = self._clock().replace(microsecond=0)
        nonce = secrets.token_urlsafe(18)
        operation = Operation(kind, self._identity.id, nonce, particulars, issued, issued + life)
        # What every server would refuse is found here.
        return self._standing(parse_operation(operation.to_json()), self._propose)

    def standing(self, operation: Operation) -> Standing:
        """Ask how an operation stands. A server that was away when it was proposed gets it now."""
        return self._standing(operation, self._state)

    def wait(self, operation: Operation, stop: threading.Event, *, poll_s: float = POLL_S) -> Standing:
        """Ask again and again until an operation is approved, cannot be any more, or is over, or until told to stop."""
        while True:
            standing = self.standing(operation)
            if standing.is_approved or standing.is_hopeless or is_over(operation, self._clock()) or stop.wait(poll_s):
                return standing

    def _standing(self, operation: Operation, ask: Callable[[str, Operation], Any]) -> Standing:
        region = self._servers.region()
        told, failed = self._servers.each(lambda server: self._read(server, operation, ask(server, operation)))
        signatures = [signature for _, (_, signature) in sorted(told.items())]
        return Standing(
            operation,
            {server: state for server, (state, _) in sorted(told.items())},
            tuple(one for one in signatures if one is not None),
            failed,
            region.threshold,
            len(region.key_servers),
        )

    def _propose(self, server: str, operation: Operation) -> Any:
        return self._servers.ask(server, "/v1/approvals", {"operation": operation.to_json()})

    def _state(self, server: str, operation: Operation) -> Any:
        try:
            return self._servers.ask(server, "/v1/approvals/state", {"nonce": operation.nonce})
        except RefusedError as error:
            if error.code != "unknown":
                raise
        return self._propose(server, operation)

    def _read(self, server: str, operation: Operation, answer: Any) -> tuple[State, Signature | None]:
        if not isinstance(answer, dict) or set(answer) - {"signature"} != {"digest", "short", "state"}:
            raise PeerDataError("the answer has exactly the members digest, short and state, and perhaps signature")
        if answer["digest"] != operation.digest:
            raise PeerDataError("it holds another operation under this nonce")
        try:
            state = State(answer["state"])
        except ValueError as error:
            raise PeerDataError("it names no state of an operation") from error
        if state is not State.APPROVED:
            return state, None
        key = self._servers.region().key_server_key(server)
        if key is None:
            raise PeerDataError("it is no key server any more")
        document = approved_document(operation.digest)
        return state, read_signature(answer.get("signature"), document=document, key=key, signer=server)
