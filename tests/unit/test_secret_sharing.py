"""Shares of a secret: any k give it back, fewer or altered ones do not, and who altered one is named."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from usmed.domain.errors import PeerDataError
from usmed.domain.secret_sharing import (
    Release,
    SecretRecord,
    Share,
    SharesMissingError,
    combine,
    commitment,
    enough_to_drop,
    parse_secret,
    read_share,
)
from usmed.platform.sealing import announce, new_receiver, public_x25519, read_announcement, seal, unseal
from usmed.platform.secret_client import Level, SecretHealth, split

SALT = b"0123456789abcdef"
SECRET = bytes(range(32))


def shared(secret: bytes, threshold: int, count: int) -> tuple[SecretRecord, list[Share]]:
    shares = split(secret, threshold, [f"keys-{number}" for number in range(1, count + 1)])
    record = SecretRecord(
        "iasi/research", 1, "moldova", threshold, frozenset({"iasi", "bacau"}), Release.AUTOMATIC, SALT,
        commitment(SALT, secret), {one.server: (one.index, commitment(SALT, one.data)) for one in shares},
        datetime(2026, 11, 21, tzinfo=UTC),
    )  # fmt: skip
    return record, shares


@st.composite
def cases(draw: st.DrawFn) -> tuple[SecretRecord, list[Share], bytes, list[Share]]:
    count = draw(st.integers(1, 7))
    threshold = draw(st.integers(1, count))
    secret = draw(st.binary(min_size=32, max_size=32))
    record, shares = shared(secret, threshold, count)
    return record, shares, secret, draw(st.lists(st.sampled_from(shares), unique=True))


@given(cases())
def test_k_shares_give_the_secret_and_fewer_give_nothing(case: tuple[Any, ...]) -> None:
    record, _, secret, chosen = case
    if len(chosen) >= record.threshold:
        found = combine(record, chosen)
        assert (found.secret, found.altered) == (secret, ())
    else:
        with pytest.raises(SharesMissingError, match=f"has {len(chosen)} of the {record.threshold}"):
            combine(record, chosen)


@given(cases(), st.data())
def test_an_altered_share_never_gives_another_secret_and_is_named(case: tuple[Any, ...], data: st.DataObject) -> None:
    record, shares, secret, _ = case
    victims = data.draw(st.lists(st.sampled_from(shares), unique=True, min_size=1))
    position, mask = data.draw(st.integers(0, 31)), data.draw(st.integers(1, 255))

    def altered(one: Share) -> Share:
        spoiled = bytearray(one.data)
        spoiled[position] ^= mask
        return replace(one, data=bytes(spoiled))

    given_ = [altered(one) if one in victims else one for one in shares]
    names = sorted(one.server for one in victims)
    if len(shares) - len(victims) >= record.threshold:
        found = combine(record, given_)
        assert (found.secret, list(found.altered)) == (secret, names)
    else:
        with pytest.raises(SharesMissingError, match=f"altered: {', '.join(names)}"):
            combine(record, given_)


def test_fewer_than_k_shares_say_nothing() -> None:
    """Each of two splits of one secret has other shares; one share alone fits any secret."""
    (_, first), (_, second) = shared(SECRET, 2, 3), shared(SECRET, 2, 3)
    assert all(one.data != other.data for one, other in zip(first, second, strict=True))
    assert all(one.data[:16] != SECRET[:16] and one.data[16:] != SECRET[16:] for one in first)


def test_shares_of_two_versions_do_not_mix() -> None:
    (record, first), (_, second) = shared(SECRET, 2, 3), shared(SECRET, 2, 3)
    with pytest.raises(SharesMissingError, match="altered: keys-2; missing: keys-3"):
        combine(record, [first[0], second[1]])


def test_a_record_whose_secret_is_another_is_refused() -> None:
    record, shares = shared(SECRET, 2, 3)
    with pytest.raises(PeerDataError, match="another secret"):
        combine(replace(record, digest=commitment(SALT, bytes(32))), shares)
    with pytest.raises(SharesMissingError):
        combine(record, [shares[0], replace(shares[0], server="keys-2")])
    with pytest.raises(SharesMissingError):
        combine(record, [shares[0], replace(shares[1], data=shares[1].data + b"x")])


def test_a_record_is_read_as_it_was_written() -> None:
    record, _ = shared(SECRET, 2, 3)
    assert parse_secret(record.to_json()) == record


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "x"}, {"more": 1}, {"id": "research"}, {"id": "iasi/"}, {"id": "iasi/Ă"}, {"id": 1}, {"version": 0},
        {"version": True}, {"version": 2**31 + 1}, {"region": 1}, {"threshold": 4}, {"threshold": 0}, {"nodes": []},
        {"nodes": ["iasi", "iasi"]}, {"nodes": ["iasi", "bacau"]}, {"nodes": "iasi"}, {"release": "never"},
        {"release": []}, {"salt": ""}, {"salt": 1}, {"salt": "AAAA"}, {"sha256": "ab"}, {"shares": []}, {"shares": {}},
        {"shares": [{"server": "keys-1", "index": 1}]}, {"iat": -1}, {"iat": 1.5}, {"iat": 2**60},
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    record, _ = shared(SECRET, 2, 3)
    with pytest.raises(PeerDataError):
        parse_secret({**record.to_json(), **change})
    for spoil in ("server", "index"):
        document = record.to_json()
        document["shares"][1][spoil] = document["shares"][0][spoil]
        with pytest.raises(PeerDataError):
            parse_secret(document)


@pytest.mark.parametrize(
    "document",
    [None, {}, {"id": "iasi/research", "version": 2, "index": 1, "share": "AA"},
     {"id": "iasi/research", "version": 1, "index": "1", "share": "AA"},
     {"id": "iasi/research", "version": 1, "index": 1, "share": "A" * 65},
     {"id": "iasi/research", "version": 1, "index": 1, "share": 5}],
)  # fmt: skip
def test_what_is_no_share_is_refused(document: Any) -> None:
    record, _ = shared(SECRET, 2, 3)
    with pytest.raises(PeerDataError):
        read_share(document, record, "keys-1")


@pytest.mark.parametrize(("servers", "threshold", "enough"), [(3, 2, 2), (5, 3, 3), (2, 2, 2), (5, 2, 4), (1, 1, 1)])
def test_the_old_goes_only_when_it_cannot_come_back_and_the_new_can(servers: int, threshold: int, enough: int) -> None:
    assert enough_to_drop(servers, threshold) == enough
    assert servers - enough < threshold
    assert enough >= threshold


@pytest.mark.parametrize(
    ("live", "level"), [(5, Level.WHOLE), (4, Level.WARNING), (3, Level.CRITICAL), (2, Level.LOST), (0, Level.LOST)]
)
def test_how_safe_a_secret_is(live: int, level: Level) -> None:
    assert SecretHealth("iasi/research", 1, live, 3, 5, ()).level is level


def test_what_is_sealed_opens_for_its_receiver_only() -> None:
    receiver, other = new_receiver(), new_receiver()
    public = public_x25519(receiver.as_dict(private=False)["x"])
    token = seal(b'{"a":1}', public)
    assert unseal(token, receiver) == {"a": 1}
    head, *rest = token.split(".")
    broken = ".".join([head, *rest[:-1], ("A" if rest[-1][0] != "A" else "B") + rest[-1][1:]])
    for bad in (broken, "", "a.b.c", None, 7, token + "x", "A" * 9000, ".".join([*token.split(".")[:4]])):
        with pytest.raises(PeerDataError):
            unseal(bad, receiver)
    with pytest.raises(PeerDataError):
        unseal(token, other)
    with pytest.raises(PeerDataError):
        unseal(seal(b"\xff", public), receiver)
    for text in ("", "AA", 5, None):
        with pytest.raises(PeerDataError):
            public_x25519(text)


def test_an_encryption_key_is_announced_by_its_server_only() -> None:
    keys = {name: OKPKey.generate_key("Ed25519", private=True) for name in ("keys-1", "keys-2")}
    receiver = new_receiver()
    token = announce(keys["keys-1"], "keys-1", receiver)
    assert read_announcement(token, keys.get, "keys-1").as_dict(private=False)["x"] == (
        receiver.as_dict(private=False)["x"]
    )
    for bad in (announce(keys["keys-2"], "keys-1", receiver), announce(keys["keys-1"], "keys-2", receiver), "x", None):
        with pytest.raises(PeerDataError):
            read_announcement(bad, keys.get, "keys-1")
