"""Orthanc's entry point of a hospital node: set `"Python": {"Path": ".../hospital.py"}`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from usmed.hospital.orthanc_host.version import check_version

check_version()

from usmed.hospital.orthanc_host.lean import import_lean  # noqa: E402

import_lean()

from usmed.hospital.orthanc_host.entry import start  # noqa: E402 - what it imports an old Orthanc need not have

start()
