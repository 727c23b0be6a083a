"""Asks the region's key servers side by side: what everything that needs several of them is built on."""

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from usmed.domain.errors import RefusedError, UsmedError
from usmed.domain.region import RegionManifest
from usmed.platform.signed_http import Post

DEADLINE_S = 5.0
ANSWER_BYTES = 1 << 20


class KeyServers:
    """The key servers as one hospital reaches them.

    Args:
        region: the manifest in force.
        post: how they are reached (`SignedClient.post`).
    """

    def __init__(self, region: Callable[[], RegionManifest], post: Post) -> None:
        self.region = region
        self._post = post

    def ask(self, server: str, path: str, document: Any) -> Any:
        """Ask one.

        Raises:
            TransportError, PeerDataError, RefusedError: as `SignedClient.post`.
        """
        return self._post(server, path, document, deadline_s=DEADLINE_S, limit_bytes=ANSWER_BYTES)

    def each[T](
        self, ask: Callable[[str], T], servers: Collection[str] | None = None
    ) -> tuple[dict[str, T], dict[str, str]]:
        """Ask these, or all, side by side.

        Returns:
            What they answered, and why others did not: a refusal's code, a colon, and its words.
        """
        names = sorted(self.region().key_servers if servers is None else servers)
        answers: dict[str, T] = {}
        failed: dict[str, str] = {}

        def one(server: str) -> None:
            try:
                answers[server] = ask(server)
            except RefusedError as error:
                failed[server] = f"{error.code}: {error}"
            except UsmedError as error:
                failed[server] = str(error)

        with ThreadPoolExecutor(max(1, len(names))) as pool:
            list(pool.map(one, names))
        return answers, failed
