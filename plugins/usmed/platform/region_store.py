"""Which region manifest this process believes now, and remembers to have believed: it never goes back to an older one.

What may follow what is decided in `domain/region_chain.py`; where newer versions come from, in `region_watch.py`.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from usmed.domain.audit import AuditEvent, AuditEventType, Outcome
from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.errors import ConfigurationError, PeerDataError
from usmed.domain.quorum import verify_quorum
from usmed.domain.region import RegionManifest
from usmed.domain.region_chain import (
    LIMIT_BYTES,
    ManifestRefusedError,
    TrustedRegion,
    accept_chain,
    follow,
    signatures,
)
from usmed.platform.audit_log import AuditLog, append_in
from usmed.platform.region_file import RegionFile
from usmed.platform.storage import Database, open_database

log = logging.getLogger(__name__)

STORED_BYTES = 4 * LIMIT_BYTES
REFUSALS_REMEMBERED = 256
LOGGED_CHARACTERS = 500
PAGE_BYTES = 2 << 20
"""How many bytes of signed manifests one answer carries, one manifest at least."""

_version = sa.table("region_version", *map(sa.column, ("version", "digest", "signed", "believed")))


@dataclass(frozen=True, slots=True)
class _Stored:
    version: int
    digest: str
    signed: str


class RegionStore:
    """The region manifest that is believed. Safe to use from many threads.

    Args:
        database: keeps every version that was believed.
        audit: records each acceptance and refusal.
        agent: who this process is, for the audit log.
        file: the manifest given at installation. The first time it is believed; ever after it is one more offer.

    Raises:
        ConfigurationError: what is stored cannot be read.
        StorageError: the database fails.
    """

    def __init__(
        self, database: Database, audit: AuditLog, clock: Callable[[], datetime], *, agent: str, file: RegionFile
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._agent = agent
        self._lock = threading.Lock()
        self._refusals: OrderedDict[tuple[str, str], None] = OrderedDict()
        source = "the file of the region manifest"
        # The one manifest that is believed because somebody has put it there; unless another process is faster.
        self._trusted = _trusted(_newest(database)) or self._begin(file.signed, source)
        self.offer_file(file, source)

    def current(self) -> RegionManifest:
        """Return the manifest that is believed, also when it `is_expired`. Cheap."""
        return self._trusted.manifest

    def now(self) -> datetime:
        """Return the time by this store's clock."""
        return self._clock()

    def offer(self, versions: Sequence[Any], source: str) -> bool:
        """Take signed manifests that come from anybody, if they may follow; tell whether one was taken.

        A refusal is logged and recorded, once for each reason and source: who is asked again and again says the same.

        Args:
            versions: parsed signed manifests, oldest first, without gaps. Those believed before are passed over.
            source: where they come from, for people.

        Raises:
            StorageError: the database fails.
        """
        try:
            return self.take(versions, source)
        except (PeerDataError, ConfigurationError) as error:
            self._refuse(source, str(error))
            return False

    def take(self, versions: Sequence[Any], source: str) -> bool:
        """Do what `offer` does, but leave the refusal to the caller.

        Raises:
            ManifestRefusedError: it may not follow.
            QuorumError: too few signatures, by the administrators of either version.
            PeerDataError, ConfigurationError: no manifest, or a faulty one.
            StorageError: the database fails.
        """
        with self._lock:
            return self._take(versions, source)

    def offer_file(self, file: RegionFile, source: str) -> bool:
        """Take what the file on this machine says, if it may follow; tell whether it was taken.

        Raises:
            StorageError: the database fails.
        """
        return self.offer([file.signed], source)

    def after(self, version: int) -> list[Any]:
        """Return the signed manifests after a version, oldest first; not all at once if they are large."""
        query = sa.select(_version.c.signed).where(_version.c.version > version).order_by(_version.c.version)
        found: list[Any] = []
        size = 0
        with self._database.read() as connection:
            for text in connection.scalars(query):
                size += len(text)
                if found and size > PAGE_BYTES:
                    break
                found.append(parse_json(text.encode("utf-8"), limit_bytes=STORED_BYTES))
        return found

    def _begin(self, signed: Any, source: str) -> TrustedRegion:
        """Believe the first signed manifest. The file was verified when it was read."""
        first = follow(signed, source, None)
        if self._store([(first, signed)], source, None):
            return first
        stored = _trusted(_newest(self._database))
        assert stored is not None
        return stored

    def _take(self, versions: Sequence[Any], source: str) -> bool:
        for _ in range(2):
            trusted = self._trusted
            new = self._unknown(versions, source, trusted)
            if not new:
                return False
            # Before the transaction: nobody's garbage holds up those who write.
            accepted = accept_chain(new, source, trusted, self._clock())
            if self._store(list(zip(accepted, new, strict=True)), source, trusted):
                self._trusted = accepted[-1]
                return True
            # Another process of this actor has taken one meanwhile.
            stored = _trusted(_newest(self._database))
            assert stored is not None
            self._trusted = stored
        return False

    def _unknown(self, versions: Sequence[Any], source: str, trusted: TrustedRegion) -> list[Any]:
        """Pass over versions that were believed before.

        Raises:
            ManifestRefusedError: one has the number, but not the bytes, of one believed before, or is older than all.
        """
        unknown: list[Any] = []
        for one in versions:
            quorum = verify_quorum(one, lambda _: None, threshold=1, limit_bytes=LIMIT_BYTES)
            number = quorum.document.get("version") if isinstance(quorum.document, dict) else None
            if unknown or type(number) is not int or number > trusted.manifest.version:
                unknown.append(one)
                continue
            digest = sha256_hex(quorum.payload)
            with self._database.read() as connection:
                known = connection.scalar(sa.select(_version.c.digest).where(_version.c.version == number))
            if known == digest:
                continue
            if known is None:
                reason = f"is older than the one in use, version {trusted.manifest.version}"
            else:
                reason = f"({digest[:16]}…) is another than the one believed before ({known[:16]}…)"
            raise ManifestRefusedError(f"{source}: the region manifest, version {number}, {reason}")
        return unknown

    def _store(self, chain: Sequence[tuple[TrustedRegion, Any]], source: str, before: TrustedRegion | None) -> bool:
        """Make a chain durable with its records; False if another process was faster."""
        now = self._clock()
        with self._database.write() as connection:
            if _newest_in(connection) != (before.manifest.version if before else None):
                return False
            for region, signed in chain:
                connection.execute(
                    sa.insert(_version),
                    {
                        "version": region.manifest.version,
                        "digest": region.digest,
                        "signed": canonical_json(signed).decode("utf-8"),
                        "believed": int(now.timestamp()),
                    },
                )
            append_in(connection, [self._believed(*one, source, now) for one in chain])
        log.warning("region manifest: version %d is in use, from %s", chain[-1][0].manifest.version, source)
        return True

    def _believed(self, region: TrustedRegion, signed: Any, source: str, now: datetime) -> AuditEvent:
        signers = signatures(signed, region.manifest).signers
        return AuditEvent(
            now,
            AuditEventType.CONFIGURATION,
            self._agent,
            detail={
                "what": "region manifest",
                "version": region.manifest.version,
                "sha256": region.digest,
                "signed_by": sorted(signers),
                "source": source,
            },
        )

    def _refuse(self, source: str, reason: str) -> None:
        if (source, reason) in self._refusals:
            return
        self._refusals[source, reason] = None
        if len(self._refusals) > REFUSALS_REMEMBERED:
            self._refusals.popitem(last=False)
        log.warning("region manifest refused: %s", " ".join(reason.split())[:LOGGED_CHARACTERS])
        detail = {"what": "region manifest", "source": source}
        event = AuditEvent(
            self._clock(),
            AuditEventType.CONFIGURATION,
            self._agent,
            outcome=Outcome.DENIED,
            reason=reason,
            detail=detail,
        )
        self._audit.append(event).wait()


def believed_region(database: Database, file: RegionFile) -> RegionManifest:
    """Return what a process that starts now on this database is going to believe, if the file is not refused.

    Raises:
        ConfigurationError: what is stored cannot be read.
        StorageError: the database fails.
    """
    trusted = _trusted(_newest(database))
    if trusted is None or file.manifest.version > trusted.manifest.version:
        return file.manifest
    return trusted.manifest


def starting_region(url: str, file: RegionFile) -> RegionManifest:
    """Return the same, for settings that are checked before the database is opened for good.

    Raises:
        ConfigurationError: no such URL, or what is stored cannot be read.
        StorageError: the database cannot be used.
    """
    database = open_database(url, [])
    try:
        return believed_region(database, file)
    finally:
        database.close()


def _newest(database: Database) -> _Stored | None:
    query = sa.select(_version.c.version, _version.c.digest, _version.c.signed)
    with database.read() as connection:
        row = connection.execute(query.order_by(_version.c.version.desc()).limit(1)).first()
    return _Stored(*row) if row else None


def _newest_in(connection: sa.Connection) -> int | None:
    found: int | None = connection.scalar(sa.select(sa.func.max(_version.c.version)))
    return found


def _trusted(stored: _Stored | None) -> TrustedRegion | None:
    if stored is None:
        return None
    source = f"the stored region manifest, version {stored.version}"
    try:
        trusted = follow(parse_json(stored.signed.encode("utf-8"), limit_bytes=STORED_BYTES), source, None)
    except PeerDataError as error:
        raise ConfigurationError(source, [str(error)]) from error
    if (trusted.digest, trusted.manifest.version) != (stored.digest, stored.version):
        raise ConfigurationError(source, ["is not the one that was believed: somebody has changed the database"])
    return trusted
