"""The DICOM systems that Orthanc knows, remembered for a moment: every C-FIND asks for them."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from usmed.hospital.orthanc_host import rest

FRESH_S = 5.0
"""Changes come through our own route, which tells; this is for a change that would come another way."""


class Modalities:
    """Answers who an AE title belongs to.

    Args:
        own: names, in Orthanc's configuration, of this hospital's systems.
    """

    def __init__(self, own: Sequence[str]) -> None:
        self._own = frozenset(own)
        self._lock = threading.Lock()
        self._changes = 0
        self._known: tuple[float, Mapping[str, Any]] | None = None

    def is_own(self, aet: str) -> bool:
        """Tell whether an AE title is one of this hospital's systems."""
        return any(one["AET"] == aet and name in self._own for name, one in self._all().items())

    def changed(self) -> None:
        """A modality was added, altered or removed."""
        with self._lock:
            self._changes += 1
            self._known = None

    def _all(self) -> Mapping[str, Any]:
        with self._lock:
            known, changes = self._known, self._changes
        if known is not None and time.monotonic() - known[0] < FRESH_S:
            return known[1]
        asked = time.monotonic()
        found: Mapping[str, Any] = rest.get_json("/modalities?expand")
        with self._lock:
            # What was read before a change is not kept beyond it.
            if changes == self._changes:
                self._known = (asked, found)
        return found
