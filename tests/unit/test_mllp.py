"""Blocks on a line: however the bytes come, and whatever a sender does wrong, the next message is whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usmed.domain.mllp import HEAD_BYTES, Blocks, Stray, TooLarge, Whole, block

LIMIT = 5000
MESSAGE = b"MSH|^~\\&|A|B\rPID|1\r"
OTHER = b"MSH|^~\\&|C|D\r"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (block(MESSAGE), [Whole(MESSAGE)]),
        (block(MESSAGE) + block(OTHER), [Whole(MESSAGE), Whole(OTHER)]),
        # a line feed more behind a block is nothing to speak of
        (block(MESSAGE) + b"\n" + block(OTHER), [Whole(MESSAGE), Whole(OTHER)]),
        (MESSAGE, [Stray(len(MESSAGE.strip()))]),
        (b"GET / HTTP/1.1\r\n\r\n" + block(MESSAGE), [Stray(14), Whole(MESSAGE)]),
        # cut short, and begun anew
        (b"\x0bMSH|^~\\&|A" + block(MESSAGE), [Stray(10), Whole(MESSAGE)]),
        # the end without its carriage return is none
        (b"\x0b" + OTHER + b"\x1c" + block(MESSAGE), [Stray(len(OTHER) + 1), Whole(MESSAGE)]),
        # embedded in a field: one message with what is none of its characters
        (block(b"MSH|a\x0bb\x1cc"), [Whole(b"MSH|a\x0bb\x1cc")]),
        (block(b""), [Whole(b"")]),
        (block(b"M" * LIMIT), [Whole(b"M" * LIMIT)]),
        (block(b"M" * (LIMIT + 1)) + block(OTHER), [TooLarge(b"M" * HEAD_BYTES), Whole(OTHER)]),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_blocks(data: bytes, expected: list[object], size: int) -> None:
    blocks, found = Blocks(LIMIT), []
    for start in range(0, len(data), size):
        found += blocks.feed(data[start : start + size])
    if any(isinstance(one, Stray) for one in expected) and size < 100:
        # What belongs to no block is told as it comes.
        assert sum(one.size_bytes for one in found if isinstance(one, Stray)) == sum(
            one.size_bytes for one in expected if isinstance(one, Stray)
        ) or size < len(data)
        assert [one for one in found if not isinstance(one, Stray)] == [
            one for one in expected if not isinstance(one, Stray)
        ]
    else:
        assert found == expected
    assert not blocks.begun


def test_a_sender_without_an_end_fills_no_memory() -> None:
    blocks = Blocks(LIMIT)
    assert blocks.feed(b"\x0b") == []
    for _ in range(100):
        assert blocks.feed(b"x" * 10_000) == []
    assert blocks.begun
    assert len(blocks._received) < 2
    assert blocks.feed(b"\x1c") == []
    assert blocks.feed(b"\r" + block(OTHER)) == [TooLarge(b"x" * HEAD_BYTES), Whole(OTHER)]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_whatever_came_before_the_next_message_is_whole(noise: bytes, size: int) -> None:
    blocks, found = Blocks(LIMIT), []
    # An end closes whatever the noise has begun.
    data = noise + b"\x1c\r" + block(MESSAGE)
    for start in range(0, len(data), size):
        found += blocks.feed(data[start : start + size])
    assert found[-1] == Whole(MESSAGE)
    assert not blocks.begun
