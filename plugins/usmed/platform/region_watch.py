"""Takes up new region manifests while the process runs: from its file, and from those it is told to ask."""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from usmed.domain.errors import ConfigurationError, PeerDataError, UsmedError
from usmed.domain.region import HUB
from usmed.platform.region_file import read_region
from usmed.platform.region_store import RegionStore
from usmed.platform.signed_http import SignedClient

log = logging.getLogger(__name__)

FILE_S = 2.0
"""How often the file is looked at."""

POLL_S = 30.0
"""How often others are asked, unless it is set."""

DEADLINE_S = 10.0
LONGEST_CHAIN = 1000

type Source = Callable[[int], list[Any]]
"""Asks for the signed manifests after a version, oldest first; an empty list if there are none."""

REMINDER = timedelta(days=14)
"""How long before a manifest's end the log begins to say so."""

type _Stamp = tuple[int, int, int] | None


class RegionWatcher:
    """A thread that offers a region store what is new.

    Args:
        store: what is believed.
        path: the file of the region manifest.
        sources: whom to ask, by a name for people. One that does not answer is no reason for worry.
        poll_s: how often they are asked.
    """

    def __init__(
        self,
        store: RegionStore,
        path: Path,
        sources: Mapping[str, Source],
        *,
        poll_s: float = POLL_S,
        file_s: float = FILE_S,
    ) -> None:
        self._store = store
        self._path = path
        self._sources = dict(sources)
        self._poll_s = poll_s
        self._file_s = file_s
        self._silent: set[str] = set()
        self._stamp: _Stamp = None
        self._reread = True
        self._told: tuple[int, str] = (0, "")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="region-watch", daemon=True)

    def start(self) -> None:
        """Begin; the sources are asked at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 0.0) -> None:
        """End; `timeout_s` is how long a question under way may take to."""
        self._stop.set()
        if timeout_s and self._thread.is_alive():
            self._thread.join(timeout_s)

    def ask(self) -> None:
        """Ask every source once, and take what follows."""
        for name, source in self._sources.items():
            try:
                self._ask(name, source)
            except UsmedError as error:
                if name not in self._silent:
                    log.warning("%s gives no region manifests: %s", name, error)
                self._silent.add(name)
            else:
                if name in self._silent:
                    log.warning("%s gives region manifests again", name)
                self._silent.discard(name)

    def look(self) -> None:
        """Read the file if it has changed, and take it if it follows."""
        stamp = _stamp(self._path)
        if stamp == self._stamp and not self._reread:
            return
        self._stamp, self._reread = stamp, False
        try:
            self._store.offer_file(read_region(self._path), str(self._path))
        except ConfigurationError as error:
            # Half-written, perhaps: the next change is looked at again.
            log.warning("region manifest not taken up: %s", error)
        except UsmedError as error:
            self._reread = True
            log.warning("region manifest not taken up: %s", error)

    def remind(self) -> None:
        """Say in the log, once each, that the manifest in use ends soon or has ended."""
        region, now = self._store.current(), self._store.now()
        if region.expires - now > REMINDER:
            return
        state = "has expired: nothing is released between hospitals" if region.is_expired(now) else "ends soon"
        if self._told != (region.version, state):
            self._told = (region.version, state)
            log.warning(
                "region manifest: version %d %s (%s); its administrators have to sign a new one (usmed region renew)",
                region.version,
                state,
                region.expires.isoformat(),
            )

    def _ask(self, name: str, source: Source) -> None:
        for _ in range(LONGEST_CHAIN):
            versions = source(self._store.current().version)
            if not isinstance(versions, list):
                raise PeerDataError("the answer is no list of region manifests")
            if not versions or not self._store.offer(versions, name) or self._stop.is_set():
                return
            # A file that could not follow may be able to now.
            self._reread = True

    def _run(self) -> None:
        left_s = 0.0
        while True:
            try:
                if left_s <= 0:
                    left_s = self._poll_s
                    self.ask()
                self.look()
                self.remind()
            except Exception:
                # The thread's last line of defence: a region that hears of no change any more is worse.
                log.exception("looking for a new region manifest failed")
            wait_s = min(self._file_s, self._poll_s)
            left_s -= wait_s
            if self._stop.wait(wait_s):
                return


def ask_hub(client: SignedClient) -> Source:
    """Return a source that asks the hub."""

    def ask(version: int) -> list[Any]:
        answer = client.post(HUB, "/v1/region/after", {"version": version}, deadline_s=DEADLINE_S)
        versions = answer.get("versions") if isinstance(answer, dict) else None
        if not isinstance(versions, list):
            raise PeerDataError("the hub's answer is no list of region manifests")
        return versions

    return ask


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
