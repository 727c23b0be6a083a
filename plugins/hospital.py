"""Orthanc's entry point of a hospital node: set `"Python": {"Path": ".../hospital.py"}`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from usmed.hospital.orthanc_host.version import check_version

check_version()

import usmed.hospital.orthanc_host.lean_imports  # noqa: E402, F401 - before the libraries are imported otherwise
from usmed.hospital.orthanc_host.entry import start  # noqa: E402 - what it imports an old Orthanc need not have

start()
