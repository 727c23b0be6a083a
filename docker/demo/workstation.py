"""What a radiologist's workstation has: DCMTK and plain HTTP."""

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import requests
from pydicom.dataset import Dataset
from region import Hospital

DICOM_PORT = "4242"
ARRIVING = "usmed-arriving"
"""The label of a study of which only a part is here."""


class UnexpectedError(Exception):
    """What happened is not what was expected; the text says what happened."""


def expect(condition: bool, happened: str) -> None:
    """Raise UnexpectedError with what happened unless the condition holds."""
    if not condition:
        raise UnexpectedError(happened)


def run(command: Iterable[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command of DCMTK to its end."""
    return subprocess.run(list(command), capture_output=True, text=True, timeout=120, check=False, errors="replace")


def keys(query: dict[str, str]) -> list[str]:
    """Return matching and return keys as DCMTK takes them."""
    return [part for keyword, value in query.items() for part in ("-k", f"{keyword}={value}")]


def of_study(uid: str) -> list[str]:
    """Return the keys that name one study."""
    return keys({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": uid})


def associate(hospital: Hospital) -> list[str]:
    """Return the AE titles of an association from the hospital's own workstation."""
    return ["-aet", hospital.workstation, "-aec", hospital.aet]


def find(hospital: Hospital, **query: str) -> list[Dataset]:
    """Ask by C-FIND at STUDY level; return the answers."""
    query = {
        "QueryRetrieveLevel": "STUDY",
        "StudyInstanceUID": "",
        "PatientName": "",
        "RetrieveAETitle": "",
        "InstanceAvailability": "",
        "NumberOfStudyRelatedInstances": "",
        "InstitutionName": "",
        **query,
    }
    with tempfile.TemporaryDirectory() as folder:
        command = ["findscu", "-S", "-X", "-od", folder, *associate(hospital), *keys(query)]
        done = run([*command, hospital.host, DICOM_PORT])
        expect(done.returncode == 0, f"findscu: {done.stderr[-200:]}")
        return [pydicom.dcmread(file, force=True) for file in sorted(Path(folder).glob("rsp*"))]


def found(hospital: Hospital, **query: str) -> set[str]:
    """Ask by C-FIND; return the Study Instance UIDs."""
    return {str(answer.StudyInstanceUID) for answer in find(hospital, **query)}


def get(hospital: Hospital, path: str, **options: Any) -> requests.Response:
    """Ask the hospital's Orthanc by HTTP."""
    return requests.get(hospital.url + path, auth=hospital.login, timeout=120, **options)


def post(hospital: Hospital, path: str, body: Any) -> requests.Response:
    """Send JSON to the hospital's Orthanc."""
    return requests.post(hospital.url + path, auth=hospital.login, json=body, timeout=120)


def move(hospital: Hospital, study: str) -> tuple[int, int, str]:
    """Have a study sent to the hospital's workstation by C-MOVE.

    Returns:
        how many instances arrived, how many the last response counts as completed, and its status.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["movescu", "-d", "-S", "+xa", "-aem", hospital.workstation, "+P", str(hospital.port), "-od", folder]
        command += [*associate(hospital), *of_study(study)]
        done = run([*command, hospital.host, DICOM_PORT])
        files = Path(folder).iterdir()
        arrived = {str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files}
    counts = re.findall(r"Completed Suboperations\s*:\s*(\d+)", done.stderr + done.stdout)
    status = re.findall(r"DIMSE Status\s*:\s*0x\w+: ([^:]*)", done.stderr + done.stdout)
    return len(arrived), int(counts[-1]) if counts else -1, status[-1] if status else f"exit code {done.returncode}"


def retrieve(hospital: Hospital, study: str) -> requests.Response:
    """Ask for a study by WADO-RS."""
    headers = {"Accept": 'multipart/related; type="application/dicom"'}
    return get(hospital, f"/dicom-web/studies/{study}", headers=headers)


def parts(answer: requests.Response) -> int:
    """Return how many DICOM objects a WADO-RS answer holds."""
    boundary = re.search(r'boundary="?([^";]+)', answer.headers.get("Content-Type", ""))
    return answer.content.count(b"--" + boundary[1].encode()) - 1 if boundary else 0


def files_of(hospital: Hospital, study: str) -> dict[str, str]:
    """Return the SHA-256 of the file of each SOP instance that the hospital's archive holds of a study."""
    query = {"Level": "Instance", "Query": {"StudyInstanceUID": study}, "Expand": True}
    found_here = {
        one["MainDicomTags"]["SOPInstanceUID"]: get(hospital, f"/instances/{one['ID']}/file")
        for one in post(hospital, "/tools/find", query).json()
    }
    return {uid: hashlib.sha256(file.content).hexdigest() for uid, file in found_here.items() if file.ok}


def local_studies(hospital: Hospital) -> set[str]:
    """Return the studies that are whole in the hospital's own archive."""
    studies = get(hospital, "/studies?expand").json()
    whole = [study for study in studies if ARRIVING not in study["Labels"]]
    return {study["MainDicomTags"]["StudyInstanceUID"] for study in whole}


def objects_of(hospital: Hospital, study: str) -> dict[str, Dataset]:
    """Return the DICOM objects that the hospital's archive holds of a study, by SOP Instance UID."""
    files = [
        get(hospital, f"/instances/{one}/file").content
        for one in post(hospital, "/tools/find", {"Level": "Instance", "Query": {"StudyInstanceUID": study}}).json()
    ]
    objects = [pydicom.dcmread(BytesIO(file)) for file in files]
    return {str(one.SOPInstanceUID): one for one in objects}
