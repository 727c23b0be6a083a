"""Scans of consents on paper: taken only if they are what a scanner makes; looked into by a process of its own."""

import json
import logging
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.paper import LARGEST_SCAN_BYTES, MOST_PAGES

_log = logging.getLogger(__name__)

TIMEOUT_S = 45.0
_PROGRAM = Path(__file__).with_name("scan_check.py")

FAULTS = {
    "no-pdf": "this file is no PDF: scan the paper as PDF (the scanner can do that), and choose that file",
    "broken": "this PDF does not open: it may have been cut off; scan the paper again",
    "encrypted": "this PDF wants a password: save it without one, or scan the paper again",
    "no-pages": "this PDF has no pages: scan the paper again",
    "active": "this PDF does more than show pages (a program, a form, or another file in it): a scan does not; print it"
    " and scan the paper",
    "too-much": "this PDF is made of too many parts to be a scan: print it and scan the paper",
}


class UnfitScan(PeerDataError):
    """A file is no scan of a sheet of paper; `code` says why, in a word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = f"scan-{code}"


@dataclass(frozen=True, slots=True)
class Scan:
    """A PDF that was looked into."""

    content: bytes
    pages: int


def look_into(content: bytes) -> Scan:
    """Check that a file is the scan of a sheet of paper.

    Raises:
        UnfitScan: it is not; the message says what to do.
        RefusedError: `no-reader`: this node cannot tell.
    """
    if not content:
        raise UnfitScan("none", "there is no file: choose the scan")
    if len(content) > LARGEST_SCAN_BYTES:
        raise UnfitScan(
            "large",
            f"the scan has more than {LARGEST_SCAN_BYTES >> 20} MB: scan it with fewer dots (200 dpi, black and white)",
        )
    python = shutil.which("python3") or "/usr/bin/python3"
    try:
        done = subprocess.run(
            [python, "-I", str(_PROGRAM)], input=content, capture_output=True, timeout=TIMEOUT_S, check=False
        )
        said: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"fault": "too-much"}
    except subprocess.TimeoutExpired:
        said = {"fault": "too-much"}
    except (OSError, ValueError) as error:
        _log.error("scans cannot be looked into: %s", type(error).__name__)
        said = {"fault": "no-reader"}
    if said.get("fault") == "no-reader":
        raise RefusedError("no-reader", "this node cannot read PDF files: install python3-pypdf (docs/how-to)")
    if "fault" in said:
        raise UnfitScan(said["fault"], FAULTS[said["fault"]])
    if said["pages"] > MOST_PAGES:
        message = f"the scan has {said['pages']} pages: {MOST_PAGES} at most; scan the consent alone"
        raise UnfitScan("pages", message)
    return Scan(content, said["pages"])
