"""Nonces of signed requests: each is accepted once, whichever thread, process or restart it meets."""

from datetime import datetime

import sqlalchemy as sa

from usmed.domain.request_signature import CLOCK_TOLERANCE
from usmed.platform.storage import Database, Statement

MEMORY = 2 * CLOCK_TOLERANCE
"""How long a nonce is remembered after it was issued: both clocks may be off by the tolerance."""

_nonce = sa.table("nonce", sa.column("sender"), sa.column("jti"), sa.column("expires"))

_ACCEPT = Statement(
    sa.text(
        "INSERT INTO nonce (sender, jti, expires) VALUES (:sender, :jti, :expires) ON CONFLICT DO NOTHING RETURNING jti"
    )
)


class NonceStore:
    """The nonces that a database has seen."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pruned_at: datetime | None = None

    def accept(self, sender: str, jti: str, issued: datetime, now: datetime) -> bool:
        """Accept a nonce, durably, the first time it is seen.

        Args:
            sender: who signed the request; two senders may use the same nonce.
            jti: the nonce.
            issued: when the request was signed (aware UTC), already checked against the clock.
            now: aware UTC.

        Returns:
            True for exactly one of all calls with this sender and nonce.

        Raises:
            StorageError: the database fails; then the request must not be served.
        """
        expires = max(issued, now) + MEMORY
        row = {"sender": sender, "jti": jti, "expires": int(expires.timestamp()) + 1}
        prune = self._pruned_at is None or abs(now - self._pruned_at) > MEMORY

        def take(connection: sa.Connection) -> bool:
            if prune:
                self._pruned_at = now
                connection.execute(sa.delete(_nonce).where(_nonce.c.expires < int(now.timestamp())))
            return bool(_ACCEPT.run(connection, row))

        return self._database.together(take)
