"""Signed region manifests for tests, and a region with key servers to make them of."""

from collections.abc import Mapping
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.canonical import parse_json
from usmed.domain.quorum import assemble, sign
from usmed.domain.region import HUB, parse_region
from usmed.platform.keys import public_key_text
from usmed.platform.region_file import RegionFile, signed_bytes

SERVERS = ["keys-1", "keys-2", "keys-3"]


def sign_region(document: dict[str, Any], administrators: Mapping[str, OKPKey]) -> bytes:
    """Return the file of a region manifest that these administrators have signed.

    Args:
        document: the manifest, JSON values only: times are text, such as `2026-11-22T09:00:00Z`.
        administrators: private keys, by the id of the key server that each of them runs.
    """
    signatures = [sign(key, signer=one, document=document) for one, key in administrators.items()]
    return signed_bytes(assemble(document, signatures))


def new_key() -> OKPKey:
    """Make a private key."""
    return OKPKey.generate_key("Ed25519", private=True)


class SignedRegion:
    """Makes manifests of one region: two of three administrators have to sign."""

    def __init__(self) -> None:
        self.administrators = {name: new_key() for name in [*SERVERS, "keys-4"]}
        self.keys = {name: new_key() for name in (HUB, "iasi", "bacau", *SERVERS, "keys-4")}

    def document(self, version: int = 1, servers: list[str] | None = None, **changes: Any) -> dict[str, Any]:
        """Return a manifest's document."""
        return {
            "version": version, "region": "moldova", "name": "Regiunea Moldova", "issued": "2026-11-21T09:00:00Z",
            "expires": "2027-02-21T09:00:00Z", "threshold": 2,
            "hub": {"address": "https://hub:8443", "public_key": public_key_text(self.keys[HUB])},
            "hospitals": [
                {"id": one, "name": one, "address": f"https://{one}:8043",
                 "public_key": public_key_text(self.keys[one]), "issuers": [one.upper()]}
                for one in ("iasi", "bacau")
            ],
            "key_servers": [
                {"id": one, "name": one, "address": f"https://{one}:8044",
                 "public_key": public_key_text(self.keys[one]),
                 "administrator": {"name": one, "public_key": public_key_text(self.administrators[one])}}
                for one in servers or SERVERS
            ],
            **changes,
        }  # fmt: skip

    def signed(
        self, version: int = 1, *signers: str, document: dict[str, Any] | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Return a signed manifest, by the first two administrators unless others are named."""
        return dict(parse_json(self.data(version, *signers, document=document, **changes), limit_bytes=1 << 22))

    def data(self, version: int = 1, *signers: str, document: dict[str, Any] | None = None, **changes: Any) -> bytes:
        """Return the file of a signed manifest."""
        document = document or self.document(version, **changes)
        return sign_region(document, {name: self.administrators[name] for name in signers or SERVERS[:2]})

    def file(self, version: int = 1) -> RegionFile:
        """Return what a file of this version says."""
        return RegionFile(parse_region(self.document(version), "test"), self.signed(version))
