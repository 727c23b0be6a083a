"""This server's shares of secrets: taken in from their owner, released to whom the owner named, dropped when replaced.

A share is kept as it came, encrypted to this server's encryption key, which is encrypted itself under the passphrase:
a copy of the database holds no share. Each step is in the audit log before it is answered.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from joserfc.jwk import OKPKey

from usmed.domain.approval import Kind, approved_operation, short_digest
from usmed.domain.audit import AuditEvent, AuditEventType, Detail, Outcome
from usmed.domain.canonical import canonical_json, parse_json
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.quorum import QuorumError, require, sign, verify_quorum
from usmed.domain.region import Hospital, RegionManifest
from usmed.domain.secret_sharing import (
    LIMIT_BYTES,
    RECEIPT_TYPE,
    Release,
    SecretRecord,
    enough_to_drop,
    fault_of,
    is_secret_id,
    parse_secret,
    read_share,
    read_unverified,
    receipt_document,
    share_document,
)
from usmed.keyserver.approvals import Approvals, HeldOperation
from usmed.platform.audit_log import append_in
from usmed.platform.sealing import announce, public_x25519, seal, unseal
from usmed.platform.storage import Database

NOT_PERMITTED, NEEDS_APPROVAL = "not-permitted", "needs-approval"
EXISTS, LOST, NO_KEY = "exists", "share-lost", "no-encryption-key"
MAXIMUM_VERSIONS = 8
"""How many versions of one secret are kept: more means that their owner never drops the old ones."""

MAXIMUM_SECRETS = 1000
"""How many secrets one hospital may have here."""

_share = sa.table("secret_share", *map(sa.column, ("id", "version", "signed", "share", "key_thumbprint", "received")))


class SecretShares:
    """The use cases around shares of one key server.

    Args:
        id, key: the server's id and signing key.
        encryption_key: its private X25519 key; None if it holds no shares.
        approvals: what administrators allow for secrets that are not released at once.
    """

    def __init__(
        self,
        *,
        id: str,
        key: OKPKey,
        encryption_key: OKPKey | None,
        region: Callable[[], RegionManifest],
        approvals: Approvals,
        database: Database,
        clock: Callable[[], datetime],
    ) -> None:
        self._id = id
        self._key = key
        self._encryption_key = encryption_key
        self._region = region
        self._approvals = approvals
        self._database = database
        self._clock = clock

    def announcement(self) -> dict[str, str]:
        """Return the public key to which shares are encrypted, signed by this server."""
        return {"key": announce(self._key, self._id, self._own_key())}

    def put(self, sender: Hospital, body: dict[str, Any]) -> dict[str, Any]:
        """Take in this server's share.

        Args:
            sender: the secret's owner, verified.
            body: `secret`, the record signed by the owner; `share`, encrypted to this server.

        Returns:
            This server's signature over the receipt.

        Raises:
            PeerDataError: not such a record, or the share is not the one that the record commits to.
            RefusedError: `exists`: another record under this id and version, or a newer one, is held.
        """
        record = self._read(sender, body["secret"])
        share = read_share(unseal(body["share"], self._own_key()), record, self._id)
        if fault := fault_of(record, share):
            raise PeerDataError(fault)
        signed, now = canonical_json(body["secret"]).decode("utf-8"), self._clock()
        row = {
            "id": record.id,
            "version": record.version,
            "signed": signed,
            "share": body["share"],
            "key_thumbprint": self._own_key().thumbprint(),
            "received": int(now.timestamp()),
        }
        with self._database.write() as connection:
            held = {one.version: one for one in self._versions(connection, record.id)}
            known = held.get(record.version)
            if known is not None and _held(known)[0] != record:
                raise RefusedError(EXISTS, f"another record of {record.id}, version {record.version}, is held already")
            if known is None:
                self._check_room(connection, record, held)
            # Put again it replaces what a lost encryption key has made unreadable.
            insert = self._database.insert(_share).values(row)
            connection.execute(insert.on_conflict_do_update(index_elements=["id", "version"], set_=row))
            append_in(connection, [self._event(sender.id, record, "share taken in")])
        document = receipt_document(record)
        return {"receipt": sign(self._key, signer=self._id, document=document).to_json()}

    def release(self, sender: Hospital, body: dict[str, Any]) -> dict[str, Any]:
        """Give this server's share to a hospital that may have it.

        Args:
            sender: who asks, verified.
            body: `id` of the secret; `to`, the public X25519 key that the share is encrypted to; `approval`, for a
                secret that needs one: what the key servers signed that approved its release to this hospital.

        Returns:
            Every version that is held, newest first: the owner's record, and the share.

        Raises:
            RefusedError: `not-permitted` (no such secret here, or not for this hospital), `needs-approval`, or
                `share-lost` (this server cannot open its share any more).
            PeerDataError: not such a question.
        """
        id, receiver, own = body["id"], public_x25519(body["to"]), self._own_key()
        if not isinstance(id, str) or not is_secret_id(id):
            raise PeerDataError("id: must be owner/name")
        digest = self._operation(sender, id, body["approval"]) if "approval" in body else ""
        versions = []
        with self._database.write() as connection:
            rows = self._versions(connection, id)
            newest = _held(rows[0])[0] if rows else None
            # The newest decides: an older version must not be a way around a policy that became stricter.
            permitted = newest is not None and sender.id in newest.nodes
            automatic = newest is not None and newest.release is Release.AUTOMATIC
            approval = self._approval(connection, sender, id, digest) if digest or not automatic else None
            if permitted and (automatic or approval) and newest is not None:
                for row in rows:
                    record, signed = _held(row)
                    # Nor a newer one around the policy under which an older one was given away.
                    free = record.release is Release.AUTOMATIC or approval is not None
                    if free and sender.id in record.nodes and row.key_thumbprint == own.thumbprint():
                        versions.append((record, signed, read_share(unseal(row.share, own), record, self._id)))
                if versions:
                    used = self._approvals.note_use(connection, approval, self._clock()) if approval else []
                    append_in(connection, [*used, self._event(sender.id, newest, "share released", approval)])
        if not permitted:
            reason = f"there is no secret {id} here, or it is not for {sender.id}"
            raise self._refused(sender, id, NOT_PERMITTED, reason, digest)
        if not automatic and not approval:
            raise self._refused(sender, id, NEEDS_APPROVAL, self._wanted(sender, id, digest), digest)
        if not versions:
            reason = f"{self._id} cannot open its share of {id} any more: share it anew"
            raise self._refused(sender, id, LOST, reason, digest)
        return {
            "versions": [
                {"secret": signed, "share": seal(share_document(record, share), receiver)}
                for record, signed, share in versions
            ]
        }

    def held(self, sender: Hospital) -> dict[str, Any]:
        """Return the secrets of which this server can give a share: those that the sender owns or may have."""
        own = self._own_key().thumbprint()
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_share).order_by(_share.c.id, _share.c.version)).all()
        found = [_held(row)[0] for row in rows if row.key_thumbprint == own]
        return {
            "secrets": [
                {"id": one.id, "version": one.version, "threshold": one.threshold, "servers": sorted(one.shares)}
                for one in found
                if sender.id == one.owner or sender.id in one.nodes
            ]
        }

    def settle(self, sender: Hospital, body: dict[str, Any]) -> dict[str, Any]:
        """Drop the older versions of a secret, once enough servers hold the newer one.

        Args:
            sender: the secret's owner, verified.
            body: `receipts`: the receipt, signed by servers that hold the newer version (a general JWS).

        Returns:
            How many versions were dropped here.

        Raises:
            PeerDataError: not such a receipt, or signed by too few.
        """
        region = self._region()
        enough = enough_to_drop(len(region.key_servers), region.threshold)
        quorum = verify_quorum(
            body["receipts"], region.key_server_key, threshold=enough, limit_bytes=LIMIT_BYTES
        )
        require(quorum, "the receipt of the newer version")
        document = quorum.document
        if not isinstance(document, dict) or set(document) != {"typ", "id", "version", "sha256"}:
            raise PeerDataError("a receipt has exactly the members typ, id, version and sha256")
        id, version = document["id"], document["version"]
        if document["typ"] != RECEIPT_TYPE or not isinstance(id, str) or type(version) is not int:
            raise PeerDataError("the document is no receipt")
        if id.partition("/")[0] != sender.id:
            raise self._refused(sender, id, NOT_PERMITTED, f"{id} is not a secret of {sender.id}")
        with self._database.write() as connection:
            old = sa.delete(_share).where(_share.c.id == id, _share.c.version < version)
            dropped = connection.execute(old).rowcount
            if dropped:
                what = "older shares dropped"
                detail: dict[str, Detail] = {"what": what, "secret": id, "version": version, "dropped": dropped}
                append_in(connection, [AuditEvent(self._clock(), AuditEventType.SHARE, sender.id, detail=detail)])
        return {"dropped": dropped}

    def _own_key(self) -> OKPKey:
        if self._encryption_key is None:
            raise RefusedError(NO_KEY, f"{self._id} has no encryption key, and holds no shares")
        return self._encryption_key

    def _operation(self, sender: Hospital, id: str, approval: Any) -> str:
        """Return the digest of the operation that k key servers say is approved.

        Raises:
            RefusedError: `needs-approval`: fewer do.
            PeerDataError: not such a statement.
        """
        region = self._region()
        try:
            digest = approved_operation(approval, region.key_server_key, threshold=region.threshold)
        except QuorumError as error:
            raise self._refused(sender, id, NEEDS_APPROVAL, str(error)) from error
        # So that what was over stays over, also for a clock that goes back.
        self._approvals.expire()
        return digest

    def _approval(self, connection: sa.Connection, sender: Hospital, id: str, digest: str) -> HeldOperation | None:
        particulars = {"secret": id, "node": sender.id}
        return self._approvals.granted(
            connection, digest, requester=sender.id, kind=Kind.SECRET_RELEASE, particulars=particulars,
            now=self._clock(),
        )  # fmt: skip

    def _wanted(self, sender: Hospital, id: str, digest: str) -> str:
        """Say what lacks for the release of a secret that needs approval."""
        if digest:
            return f"{self._id} holds no approved operation {short_digest(digest)} to release {id} to {sender.id}"
        return (
            f"{id} is released only after administrators agreed: propose the operation {Kind.SECRET_RELEASE} to every"
            f" key server (POST /v1/approvals), have administrators of {self._region().threshold} of them approve it,"
            " and ask again with what these servers signed"
        )

    def _read(self, sender: Hospital, signed: Any) -> SecretRecord:
        region = self._region()
        quorum = verify_quorum(signed, {sender.id: sender.key}.get, threshold=1, limit_bytes=LIMIT_BYTES)
        require(quorum, "the secret's record")
        record = parse_secret(quorum.document)
        if record.owner != sender.id:
            raise PeerDataError(f"{record.id} is not a secret of {sender.id}")
        if record.region != region.region:
            raise PeerDataError(f"the secret is of the region {record.region!r}, not {region.region!r}")
        if record.threshold != region.threshold or set(record.shares) != set(region.key_servers):
            # An owner who shares one of one would make any single administrator able to take it.
            raise PeerDataError("a secret is shared among all key servers of the region, with the region's threshold")
        if strangers := sorted(record.nodes - set(region.hospitals)):
            raise PeerDataError(f"{', '.join(strangers)} is no hospital of the region")
        return record

    def _check_room(self, connection: sa.Connection, record: SecretRecord, held: dict[int, Any]) -> None:
        if held and max(held) > record.version:
            raise RefusedError(EXISTS, f"a newer version of {record.id} is held already")
        if len(held) >= MAXIMUM_VERSIONS:
            raise RefusedError(EXISTS, f"{MAXIMUM_VERSIONS} versions of {record.id} are held: settle them first")
        mine = sa.select(sa.func.count(sa.distinct(_share.c.id))).where(_share.c.id.startswith(f"{record.owner}/"))
        if not held and int(connection.scalar(mine) or 0) >= MAXIMUM_SECRETS:
            raise RefusedError(EXISTS, f"{record.owner} has {MAXIMUM_SECRETS} secrets here already")

    def _versions(self, connection: sa.Connection, id: str) -> list[Any]:
        query = sa.select(_share).where(_share.c.id == id).order_by(_share.c.version.desc())
        return list(connection.execute(query).all())

    def _refused(self, sender: Hospital, id: str, code: str, reason: str, operation: str = "") -> RefusedError:
        """Write the refusal down; the caller raises what is returned."""
        detail: dict[str, Detail] = {"what": "share refused", "secret": id[:128]}
        event = AuditEvent(
            self._clock(),
            AuditEventType.SHARE,
            sender.id,
            outcome=Outcome.DENIED,
            reason=f"{code}: {reason}",
            detail={**detail, **({"operation": operation} if operation else {})},
        )
        with self._database.write() as connection:
            append_in(connection, [event])
        return RefusedError(code, reason)

    def _event(
        self, agent: str, record: SecretRecord, what: str, approval: HeldOperation | None = None
    ) -> AuditEvent:
        detail: dict[str, Detail] = {"what": what, "secret": record.id, "version": record.version}
        if approval:
            detail["operation"] = approval.digest
        return AuditEvent(self._clock(), AuditEventType.SHARE, agent, detail=detail)


def _held(row: Any) -> tuple[SecretRecord, Any]:
    """Read a record as it is held. Its signature was checked when it came: the owner's key may have changed since."""
    signed = parse_json(row.signed.encode("utf-8"), limit_bytes=2 * LIMIT_BYTES)
    return read_unverified(signed), signed
