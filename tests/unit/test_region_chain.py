"""Signed region manifests: who may change the region, and that it never goes back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from usmed.domain.errors import ConfigurationError, PeerDataError
from usmed.domain.quorum import QuorumError, assemble, sign
from usmed.domain.region import parse_region
from usmed.domain.region_chain import ManifestRefusedError, TrustedRegion, accept
from usmed.platform.keys import public_key_text

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
NAMES = ["keys-1", "keys-2", "keys-3", "keys-4"]
SERVERS = {name: OKPKey.generate_key("Ed25519", private=True) for name in NAMES}
ADMINISTRATORS = {name: OKPKey.generate_key("Ed25519", private=True) for name in NAMES}
HUB, HOSPITAL = (OKPKey.generate_key("Ed25519", private=True) for _ in range(2))


def manifest(version: int = 1, servers: list[str] | None = None, threshold: int = 2, **changes: Any) -> dict[str, Any]:
    servers = NAMES[:3] if servers is None else servers
    document = {
        "version": version,
        "region": "moldova",
        "name": "Regiunea Moldova",
        "issued": "2026-11-22T09:00:00Z",
        "expires": "2027-02-22T09:00:00Z",
        "hub": {"address": "https://hub:8443", "public_key": public_key_text(HUB)},
        "hospitals": [
            {
                "id": "parhon", "name": "Spitalul „C.I. Parhon”", "address": "https://10.0.0.1:8043",
                "public_key": public_key_text(HOSPITAL), "issuers": ["PARHON"],
            }
        ],
        "threshold": threshold,
        "key_servers": [
            {
                "id": name, "name": name.upper(), "address": f"https://{name}:8044",
                "public_key": public_key_text(SERVERS[name]),
                "administrator": {"name": f"A. {name}", "public_key": public_key_text(ADMINISTRATORS[name])},
            }
            for name in servers
        ],
        **changes,
    }  # fmt: skip
    return {name: value for name, value in document.items() if value is not None}


def signed(document: Any, *names: str) -> dict[str, Any]:
    return assemble(document, [sign(ADMINISTRATORS[name], signer=name, document=document) for name in names])


@pytest.fixture(scope="module")
def first() -> TrustedRegion:
    return accept(signed(manifest(), "keys-1", "keys-2"), "region.json", None, NOW)


def test_key_servers_are_read(first: TrustedRegion) -> None:
    region = first.manifest
    assert (region.threshold, list(region.key_servers)) == (2, NAMES[:3])
    server = region.key_servers["keys-2"]
    assert (server.name, server.administrator, server.address) == ("KEYS-2", "A. keys-2", "https://keys-2:8044")
    key, administrator = region.key_server_key("keys-2"), region.administrator_key("keys-2")
    assert key is not None
    assert administrator is not None
    assert public_key_text(key) == public_key_text(SERVERS["keys-2"])
    assert public_key_text(administrator) == public_key_text(ADMINISTRATORS["keys-2"])
    assert region.key_of("keys-2") is key
    for stranger in ("parhon", "hub", "keys-4", ""):
        assert region.key_server_key(stranger) is None
        assert region.administrator_key(stranger) is None


def test_the_next_version_follows(first: TrustedRegion) -> None:
    second = accept(signed(manifest(2), "keys-3", "keys-1"), "region.json", first, NOW)
    assert second.manifest.version == 2
    # The same again is no change.
    assert accept(signed(manifest(2), "keys-1", "keys-2"), "region.json", second, NOW).digest == second.digest


def test_key_servers_are_replaced_with_the_consent_of_both_sides(first: TrustedRegion) -> None:
    changed = manifest(2, ["keys-2", "keys-3", "keys-4"])
    assert accept(signed(changed, "keys-2", "keys-3"), "region.json", first, NOW).manifest.version == 2
    # Two of the new three, of whom one was there before.
    with pytest.raises(QuorumError, match="version 2, as the administrators of version 1"):
        accept(signed(changed, "keys-2", "keys-4"), "region.json", first, NOW)
    # Two of the old three, of whom one stays.
    with pytest.raises(QuorumError, match="version 2, has 1 of the 2"):
        accept(signed(changed, "keys-1", "keys-2"), "region.json", first, NOW)


def test_a_threshold_is_raised_only_by_that_many(first: TrustedRegion) -> None:
    with pytest.raises(QuorumError, match="2 of the 3"):
        accept(signed(manifest(2, threshold=3), "keys-1", "keys-2"), "region.json", first, NOW)
    assert accept(signed(manifest(2, threshold=3), *NAMES[:3]), "region.json", first, NOW).manifest.threshold == 3


def test_a_threshold_is_lowered_only_by_as_many_as_it_was(first: TrustedRegion) -> None:
    with pytest.raises(QuorumError):
        accept(signed(manifest(2, threshold=1), "keys-1"), "region.json", first, NOW)


def by_servers(document: Any) -> dict[str, Any]:
    return assemble(document, [sign(SERVERS[name], signer=name, document=document) for name in NAMES[:2]])


REFUSED: list[tuple[str, Callable[[], Any], str]] = [
    ("rollback", lambda: signed(manifest(1, name="X"), "keys-1", "keys-2"), "version 1 cannot follow version 1"),
    ("a gap", lambda: signed(manifest(3), "keys-1", "keys-2"), "version 3 cannot follow version 1"),
    ("another region", lambda: signed(manifest(2, region="sud"), "keys-1", "keys-2"), "region 'sud'"),
    ("expired", lambda: signed(manifest(2, expires="2026-11-22T10:00:00Z"), *NAMES[:2]), "expired at 2026-11-22 10:00"),
    ("k-1 signatures", lambda: signed(manifest(2), "keys-1"), "has 1 of the 2"),
    ("the servers' own keys", lambda: by_servers(manifest(2)), "has 0 of the 2"),
    ("a stranger", lambda: signed(manifest(2), "keys-1", "keys-4"), "has 1 of the 2"),
]


@pytest.mark.parametrize(("make", "reason"), [one[1:] for one in REFUSED], ids=[one[0] for one in REFUSED])
def test_what_is_not_believed(first: TrustedRegion, make: Callable[[], Any], reason: str) -> None:
    with pytest.raises((ManifestRefusedError, QuorumError), match=reason):
        accept(make(), "region.json", first, NOW)


def test_a_frozen_region_ends(first: TrustedRegion) -> None:
    """Whoever keeps new manifests away only wins until the old one expires."""
    late = first.manifest.expires + timedelta(seconds=1)
    with pytest.raises(ManifestRefusedError, match="expired"):
        accept(signed(manifest(), "keys-1", "keys-2"), "region.json", first, late)


def test_a_document_that_is_none() -> None:
    for wrong in (None, [], "x", {}, manifest(), {"payload": "e30", "signatures": []}):
        with pytest.raises(PeerDataError):
            accept(wrong, "region.json", None, NOW)
    for missing in ("version", "expires", "key_servers", "threshold"):
        document = {name: value for name, value in manifest().items() if name != missing}
        with pytest.raises(ConfigurationError, match=rf"\$\.{missing}: is missing"):
            accept(signed(document, "keys-1", "keys-2"), "region.json", None, NOW)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"threshold": 4}, "$.threshold: must be 1 to 3, the number of key servers"),
    ({"threshold": 0}, "$.threshold: must be 1 to 3"),
    ({"threshold": "2"}, "$.threshold: must be a int"),
    ({"threshold": None}, "$.threshold: is missing"),
    ({"key_servers": None}, "$.key_servers: is missing"),
    ({"key_servers": []}, "$.key_servers: names no key server"),
    ({"expires": "2026-11-22T08:00:00Z"}, "$.expires: is not after $.issued"),
    ({"expires": "soon"}, "$.expires: must be a time with its zone"),
    ({"servers": ["keys-1", "keys-1"]}, "$.key_servers[1].id: 'keys-1' is there twice"),
]


@pytest.mark.parametrize(("changes", "fault"), FAULTS)
def test_faults_of_key_servers_are_told(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_region(manifest(**changes), "region.yaml")
    assert any(one.startswith(fault) for one in raised.value.problems), raised.value.problems


def test_two_voices_with_one_key_are_a_fault() -> None:
    for where in ("server", "administrator", "hospital"):
        document = manifest()
        stolen = document["key_servers"][0]["public_key"]
        if where == "server":
            document["key_servers"][1]["public_key"] = stolen
        elif where == "administrator":
            document["key_servers"][1]["administrator"]["public_key"] = stolen
        else:
            document["hospitals"][0]["public_key"] = stolen
        with pytest.raises(ConfigurationError, match="have the same public key"):
            parse_region(document, "region.yaml")


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES), min_size=1), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_only_a_threshold_of_both_versions_changes_the_region(
    signers: set[str], servers: set[str], threshold: int
) -> None:
    before = accept(signed(manifest(), "keys-1", "keys-2"), "region.json", None, NOW)
    if threshold > len(servers) or not signers:
        return
    document = manifest(2, sorted(servers), threshold)
    enough = len(signers & set(NAMES[:3])) >= 2 and len(signers & servers) >= threshold
    try:
        accept(signed(document, *sorted(signers)), "region.json", before, NOW)
    except QuorumError:
        assert not enough
    else:
        assert enough
