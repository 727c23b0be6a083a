#!/usr/bin/env python3
"""Send the sample studies to the hospitals' Orthancs as modalities do: by C-STORE (DCMTK's dcmsend)."""

import subprocess
import sys

from region import HOSPITALS, SAMPLE, STUDIES
from workstation import DICOM_PORT


def main() -> int:
    """Send everything; return 0 if every instance was accepted."""
    code = 0
    for hospital in HOSPITALS:
        files = [str(SAMPLE / name) for study in STUDIES if study["hospital"] == hospital.id for name in study["files"]]
        command = ["dcmsend", "--aetitle", "MODALITY", "--call", hospital.aet, "--no-uid-checks"]
        done = subprocess.run(
            [*command, hospital.host, DICOM_PORT, *files], capture_output=True, text=True, check=False
        )
        print(f"{hospital.id}: {len(files)} instances, {'stored' if done.returncode == 0 else done.stderr}")
        code = code or done.returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
