"""Signed region manifests for tests."""

from collections.abc import Mapping
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.quorum import assemble, sign
from usmed.platform.region_file import signed_bytes


def sign_region(document: dict[str, Any], administrators: Mapping[str, OKPKey]) -> bytes:
    """Return the file of a region manifest that these administrators have signed.

    Args:
        document: the manifest, JSON values only: times are text, such as `2026-11-22T09:00:00Z`.
        administrators: private keys, by the id of the key server that each of them runs.
    """
    signatures = [sign(key, signer=one, document=document) for one, key in administrators.items()]
    return signed_bytes(assemble(document, signatures))
