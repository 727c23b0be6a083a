"""Which region manifest is believed: signed by enough key administrators, never older than one seen, not expired.

In the manner of TUF's root metadata (specification 1.0.33, §5.3): a new version needs a threshold of signatures by the
administrators of the version before it and of its own, so that neither a minority nor a removed administrator can
change the region; rollback and freeze are refused. The first version is believed because somebody put it there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from usmed.domain.canonical import sha256_hex
from usmed.domain.errors import PeerDataError
from usmed.domain.quorum import Quorum, require, verify_quorum
from usmed.domain.region import RegionManifest, parse_region

LIMIT_BYTES = 1 << 20


class ManifestRefusedError(PeerDataError):
    """A signed manifest that is not believed; the message says why."""


@dataclass(frozen=True, slots=True)
class TrustedRegion:
    """A manifest that is believed, and the SHA-256 of the bytes that were signed."""

    manifest: RegionManifest
    digest: str


def accept(signed: Any, source: str, trusted: TrustedRegion | None, now: datetime) -> TrustedRegion:
    """Return the region of a signed manifest if it may take the place of the trusted one.

    Args:
        signed: the parsed general JWS.
        source: where it came from, for messages.
        trusted: the region in use; None for the first.
        now: aware UTC.

    Raises:
        ManifestRefusedError: another region, a rollback, a gap, two manifests of one version, or expired.
        QuorumError: too few signatures, by the administrators of either version.
        PeerDataError: not such a document.
        ConfigurationError: a faulty manifest, with every fault and its path.
    """
    followed = follow(signed, source, trusted)
    _check_end(followed.manifest, source, now)
    return followed


def accept_chain(
    versions: Sequence[Any], source: str, trusted: TrustedRegion | None, now: datetime
) -> list[TrustedRegion]:
    """Return the regions of signed manifests of which each follows the one before it, the first the trusted one.

    Whoever was away for long has to pass versions that expired meanwhile; only the last must not have (TUF, §5.3.10).

    Raises:
        As `accept`; then none of them is believed.
    """
    chain: list[TrustedRegion] = []
    for one in versions:
        chain.append(follow(one, source, chain[-1] if chain else trusted))
    if chain:
        _check_end(chain[-1].manifest, source, now)
    return chain


def follow(signed: Any, source: str, trusted: TrustedRegion | None) -> TrustedRegion:
    """Do what `accept` does, whether or not the manifest has expired: a version in between, or the first one.

    Where the first one stands expired is no harm before newer ones are asked for (TUF, §5.2).

    Raises:
        As `accept`, but for a manifest that has expired.
    """
    # Read before it is verified, to learn the keys; nothing of it is believed until the signatures are.
    unverified = verify_quorum(signed, lambda _: None, threshold=1, limit_bytes=LIMIT_BYTES)
    digest = sha256_hex(unverified.payload)
    manifest = parse_region(unverified.document, source)
    require(signatures(signed, manifest), f"{source}: the region manifest, version {manifest.version},")
    if trusted is not None and digest != trusted.digest:
        _check_succession(signed, source, manifest, trusted.manifest)
    return TrustedRegion(manifest, digest)


def signatures(signed: Any, judges: RegionManifest) -> Quorum:
    """Return which administrators of `judges` have signed a manifest, and how many more have to.

    Raises:
        PeerDataError: not such a document.
    """
    return verify_quorum(signed, judges.administrator_key, threshold=judges.threshold, limit_bytes=LIMIT_BYTES)


def _check_end(manifest: RegionManifest, source: str, now: datetime) -> None:
    if manifest.is_expired(now):
        end = f"{manifest.expires:%Y-%m-%d %H:%M} UTC"
        raise ManifestRefusedError(f"{source}: the region manifest, version {manifest.version}, expired at {end}")


def _check_succession(signed: Any, source: str, manifest: RegionManifest, before: RegionManifest) -> None:
    if manifest.region != before.region:
        raise ManifestRefusedError(f"{source}: it is of the region {manifest.region!r}, not {before.region!r}")
    if manifest.version != before.version + 1:
        raise ManifestRefusedError(
            f"{source}: version {manifest.version} cannot follow version {before.version}, every version is needed"
        )
    require(
        signatures(signed, before),
        f"{source}: the region manifest, version {manifest.version}, as the administrators of version {before.version}"
        " see it,",
    )
