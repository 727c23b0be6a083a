"""Nonces of signed requests: each is accepted once, whichever thread, process or restart it meets."""

from datetime import datetime, timedelta

import sqlalchemy as sa

from usmed.domain.request_signature import CLOCK_TOLERANCE
from usmed.platform.storage import Database, Statement

MEMORY = 2 * CLOCK_TOLERANCE
"""How long a nonce is remembered after it was issued: both clocks may be off by the tolerance."""

_PRUNE_EVERY = timedelta(seconds=1)
_ACCEPT = Statement(
    sa.text(
        "INSERT INTO nonce (sender, jti, expires) VALUES (:sender, :jti, :expires) ON CONFLICT DO NOTHING RETURNING jti"
    )
)
# Often and a little: whoever comes when it is due waits for it. More come in a second than go only for a while.
_PRUNE = Statement(
    sa.text(
        "DELETE FROM nonce WHERE (sender, jti) IN (SELECT sender, jti FROM nonce WHERE expires < :now LIMIT 2000)"
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
        if self._pruned_at is None or abs(now - self._pruned_at) > _PRUNE_EVERY:
            self._pruned_at = now
            self._database.change(_PRUNE, {"now": int(now.timestamp())})
        expires = max(issued, now) + MEMORY
        row = {"sender": sender, "jti": jti, "expires": int(expires.timestamp()) + 1}
        return bool(self._database.change(_ACCEPT, row))
