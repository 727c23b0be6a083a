"""One sequence of bytes for one JSON value, and JSON from outside read strictly."""

import base64
import json
import math
from contextlib import suppress
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from usmed.domain.canonical import (
    MAXIMUM_DEPTH,
    base64url,
    base64url_decode,
    canonical_json,
    parse_json,
    sha256_hex,
)
from usmed.domain.errors import PeerDataError

LIMIT = 1 << 16


def test_the_example_of_the_standard() -> None:
    # RFC 8785 §3.2.2 and §3.2.4, without the numbers that have 17 digits.
    value = {"string": '€$\nA\'B"\\\\"/', "literals": [None, True, False], "numbers": [1e30, 4.50, 2e-3, 1e-27]}
    expected = '{"literals":[null,true,false],"numbers":[1e+30,4.5,0.002,1e-27],"string":"€$\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical_json(value) == expected.encode()


def test_members_are_sorted_by_utf_16_units() -> None:
    # RFC 8785 §3.2.3: the emoji's first unit is 0xD83D, before U+FB33.
    value = {"€": 1, "\r": 2, "\ufb33": 3, "1": 4, "😀": 5, "\x80": 6, "ö": 7}
    assert list(json.loads(canonical_json(value))) == ["\r", "1", "\x80", "ö", "€", "😀", "\ufb33"]


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53, -(2**53), {"a": object()}, b"bytes", {1: 2}, "\ud800"])
def test_what_json_cannot_carry_exactly_is_refused(value: Any) -> None:
    with pytest.raises(PeerDataError, match="canonical JSON"):
        canonical_json(value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    # An integral float of 2^53 or more would come back as an integer that is refused.
    | st.floats(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Compare JSON values; an integral float may come back as an integer."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_a_value_and_its_bytes_stand_for_each_other(value: Any) -> None:
    data = canonical_json(value)
    again = parse_json(data, limit_bytes=LIMIT)
    assert same(again, value)
    assert canonical_json(again) == data


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_the_short_way_gives_the_bytes_of_the_library(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(PeerDataError):
        parse_json(data, limit_bytes=50)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"[1] 2", "not JSON"),
        (b"\xff\xfe1\x00", "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'{"a": 1, "a": 2}', "names a member twice"),
        (b'{"b": {"a": 1, "\\u0061": 2}}', "names a member twice"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "Infinity is not JSON"),
        (b"[1e999]", "too large"),
        (b"[-1e999]", "too large"),
        (b"1" * 5000, "not JSON"),
        (b"[" * (MAXIMUM_DEPTH + 1) + b"]" * (MAXIMUM_DEPTH + 1), "nested deeper than 32"),
        (b"[" * 30000 + b"]" * 30000, "nested"),
        (b'"\\ud800"', "half a character"),
        (b'{"\\udfff": 1}', "half a character"),
        (b'["' + b"a" * LIMIT + b'"]', "over the limit"),
    ],
    ids=lambda one: str(one)[:30],
)
def test_what_is_not_strict_json_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(PeerDataError, match=message):
        parse_json(data, limit_bytes=LIMIT)


@pytest.mark.parametrize("data", [b'"\\ud83d\\ude00"', b'"\\\\ud800"', b"[" * 32 + b"]" * 32, b" 1 ", b"1e308"])
def test_what_only_looks_like_it_is_read(data: bytes) -> None:
    assert parse_json(data, limit_bytes=LIMIT) == json.loads(data)


def test_sha256() -> None:
    # FIPS 180-4's own example.
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_base64url_has_one_form(data: bytes) -> None:
    text = base64url(data)
    assert base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == data
    assert base64url_decode(text) == data


@pytest.mark.parametrize("text", ["QQ==", "Q", "QR", "Q Q", "+/+/", "QQ\n", "é", "QQQ=", "QUJ!", "*QUJD"])
def test_another_form_of_base64url_is_refused(text: str) -> None:
    # "QR" decodes to the same byte as "QQ": two texts for one value could pass as two.
    with pytest.raises(PeerDataError, match="not base64url"):
        base64url_decode(text)
