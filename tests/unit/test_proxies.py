"""Whose address counts where a proxy stands in front of the hub: nobody chooses their own."""

from typing import Any

import pytest

from usmed.domain.errors import ConfigurationError
from usmed.hub.proxies import behind, read_proxies

PROXIES = read_proxies("10.0.0.1, 10.0.1.0/24 fd00::/8", "X")


def seen(remote: str, forwarded: str | None, proxies: Any = PROXIES) -> str:
    def application(environ: Any, _start: Any) -> list[bytes]:
        return [environ["REMOTE_ADDR"].encode()]

    environ: dict[str, Any] = {"REMOTE_ADDR": remote}
    if forwarded is not None:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded
    (answer,) = behind(application, proxies)(environ, lambda *_: lambda _data: None)
    return answer.decode()


@pytest.mark.parametrize(
    ("remote", "forwarded", "expected"),
    [
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.1.9", " 198.51.100.7 ", "198.51.100.7"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        # What the caller wrote itself stands further left.
        ("10.0.0.1", "203.0.113.1, 198.51.100.7", "198.51.100.7"),
        # Two proxies, one behind the other.
        ("10.0.0.1", "203.0.113.1, 198.51.100.7, 10.0.1.9", "198.51.100.7"),
        ("10.0.0.1", "10.0.1.9", "10.0.1.9"),
        # Nobody else is believed, and nonsense not at all.
        ("198.51.100.9", "203.0.113.1", "198.51.100.9"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.1, <script>", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("", "203.0.113.1", ""),
    ],
)
def test_the_last_address_that_is_no_proxys_counts(remote: str, forwarded: str | None, expected: str) -> None:
    assert seen(remote, forwarded) == expected


def test_without_the_setting_nobody_is_believed() -> None:
    assert seen("10.0.0.1", "203.0.113.1", read_proxies("", "X")) == "10.0.0.1"


@pytest.mark.parametrize("text", ["proxy.example", "10.0.0.0/33", "10.0.0.1/24", "10.0.0.1;10.0.0.2"])
def test_what_is_no_network_is_a_fault_of_the_settings(text: str) -> None:
    with pytest.raises(ConfigurationError, match="X: "):
        read_proxies(text, "X")
