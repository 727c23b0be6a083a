"""Orthanc's entry point of a hospital node: set `"Python": {"Path": ".../hospital.py"}`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from usmed.hospital.orthanc_host.entry import start

start()
