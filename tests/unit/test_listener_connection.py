"""Where a request ends, and when no second one is taken from its connection."""

import pytest

from usmed.platform.listener_connection import HEAD_BYTES, request_size

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("received", "size", "more"),
    [
        (b"", None, True),
        (GET, None, True),
        (GET + b"\r\n", len(GET) + 2, True),
        (GET + b"\r\nGET /next", len(GET) + 2, True),
        (POST + b"Content-Length: 5\r\n\r\n", len(POST) + 26, True),
        (POST + b"content-length:\t5 \r\nX: y\r\n\r\nabc", len(POST) + 33, True),
        (POST + b"X-Content-Length: 5\r\n\r\n", len(POST) + 23, True),
        # Whoever else reads such a request may find its end elsewhere: its connection ends with it.
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", len(POST) + 40, False),
        (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", len(POST) + 40, False),
        (POST + b"Content-Length: +5\r\n\r\n", len(POST) + 22, False),
        (POST + b"Content-Length: 5, 5\r\n\r\n", len(POST) + 24, False),
        (POST + b"Content-Length:\r\n 5\r\n\r\n", len(POST) + 23, False),
        (POST + b"Content-Length : x\r\n\r\n", len(POST) + 22, False),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", len(POST) + 30, False),
        (POST + b"Content-Length: 5\r\ntransfer-encoding: x\r\n\r\n", len(POST) + 43, False),
        # Too large: its body is not waited for.
        (POST + b"Content-Length: 1001\r\n\r\n", len(POST) + 24, False),
        (POST + b"Content-Length: 1000\r\n\r\n", len(POST) + 24 + 1000, True),
        (b"x" * HEAD_BYTES, None, True),
        (b"x" * (HEAD_BYTES + 1), HEAD_BYTES + 1, False),
    ],
)
def test_where_a_request_ends(received: bytes, size: int | None, more: bool) -> None:
    assert request_size(bytearray(received), 1000) == (size, more)
