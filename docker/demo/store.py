#!/usr/bin/env python3
"""Send the sample studies to the hospitals' Orthancs as modalities do: by C-STORE (DCMTK's dcmsend)."""

import json
import subprocess
import sys
from pathlib import Path

SAMPLE = Path("/sample/data")
HOSPITALS = {
    "sf-spiridon": ("hospital-a", "SPIRIDON"),
    "parhon": ("hospital-b", "PARHON"),
    "regional": ("hospital-c", "REGIONAL"),
}
"""Id in the region manifest: host name and AE title."""


def main() -> int:
    """Send everything; return 0 if every instance was accepted."""
    studies = json.loads((SAMPLE / "index.json").read_text(encoding="utf-8"))["studies"]
    code = 0
    for hospital, (host, aet) in HOSPITALS.items():
        files = [str(SAMPLE / name) for study in studies if study["hospital"] == hospital for name in study["files"]]
        command = ["dcmsend", "--aetitle", "MODALITY", "--call", aet, "--no-uid-checks", host, "4242", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{hospital}: {len(files)} instances, {'stored' if done.returncode == 0 else done.stderr}")
        code = code or done.returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
