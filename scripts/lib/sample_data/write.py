"""The output folder: `<hospital>/*.dcm`, `consents/*.json`, `index.json` for programs, `README.txt` for all.

Nothing is ever deleted. README.txt is written last: where it stands, the folder is complete.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from sample_data import head, objects
from sample_data.consents import all_consents
from sample_data.dicom import study_instance_uid
from sample_data.errors import SampleDataError
from sample_data.persons import HOSPITALS, PERSONS, SHARED_ACCESSION_NUMBER, STUDIES, Study
from sample_data.template import Volume

INDEX = "index.json"
README = "README.txt"

_LICENCES = """\
The persons are invented and their national numbers belong to nobody. The images are real:

MR head: average of 152 heads, MNI152 (ICBM 2009a nonlinear symmetric), from the nilearn package.
  Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute,
  McGill University. Permission to use, copy, modify, and distribute this software and its documentation
  for any purpose and without fee is hereby granted, provided that the above copyright notice appear in all
  copies. The authors and McGill University make no representations about the suitability of this software
  for any purpose. It is provided "as is" without express or implied warranty. The authors are not
  responsible for any data loss, equipment damage, property loss, or injury to subjects or patients
  resulting from the use or misuse of this software package.
All others: example files of pydicom (MIT licence; the abdomen from GDCM, BSD licence).
docs/reference/sample-data.md of USMED has the full texts.
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What a run wrote.

    Attributes:
        instances: DICOM objects.
        studies, consents: how many of each.
        missing: studies left out because there is no template for the MR head.
    """

    instances: int
    studies: int
    consents: int
    missing: list[str] = field(default_factory=list)


def write_all(out: Path, volume: Volume | None, *, small: bool) -> Written:
    """Write the whole sample region.

    Args:
        out: the folder; new, empty, or with nothing in it but what this run writes.
        volume: the template for the MR head; None leaves that study out.
        small: only some of the MR head's images.

    Raises:
        SampleDataError: the folder holds other files, or cannot be written.
    """
    studies = [study for study in STUDIES if volume is not None or head.NAME not in study.objects]
    names = {study.key: _names(study, volume, small) for study in studies}
    consents = all_consents()
    planned = {Path(study.hospital, _file(study, name)) for study in studies for name in names[study.key]}
    planned |= {_consent_file(consent) for consent in consents} | {Path(INDEX), Path(README)}
    try:
        _refuse_others(out, planned)
        for folder in (*HOSPITALS, "consents"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        entries = [_write_study(out, study, volume, small) for study in studies]
        for consent in consents:
            _write_json(out / _consent_file(consent), consent)
        _write_json(out / INDEX, _index(entries, consents))
        (out / README).write_text(_readme(entries, consents), encoding="utf-8")
    except OSError as error:
        raise SampleDataError(f"{out} cannot be written: {error}") from error
    missing = [study.key for study in STUDIES if study not in studies]
    return Written(sum(len(entry["files"]) for entry in entries), len(entries), len(consents), missing)


def _refuse_others(out: Path, planned: set[Path]) -> None:
    others = [path for path in sorted(out.rglob("*")) if path.is_file() and path.relative_to(out) not in planned]
    if others:
        raise SampleDataError(
            f"{out} holds {len(others)} file(s) that this run does not write, such as "
            f"{others[0].relative_to(out)}. Give a new or an empty folder."
        )


def _names(study: Study, volume: Volume | None, small: bool) -> list[str]:
    return objects.names(study) if volume is None or head.NAME not in study.objects else head.names(volume, small=small)


def _instances(study: Study, volume: Volume | None, small: bool) -> Iterator[tuple[str, Dataset]]:
    if volume is None or head.NAME not in study.objects:
        return objects.instances(study)
    return head.images(study, volume, small=small)


def _file(study: Study, name: str) -> str:
    return f"{study.person.key}-{study.study_date:%Y%m%d}-{name}.dcm"


def _consent_file(consent: dict[str, Any]) -> Path:
    return Path("consents", f"{consent['id']}.json")


def _write_study(out: Path, study: Study, volume: Volume | None, small: bool) -> dict[str, Any]:
    files, modalities = [], set()
    for name, dataset in _instances(study, volume, small):
        path = Path(study.hospital, _file(study, name))
        dataset.save_as(out / path, enforce_file_format=True)
        files.append(path.as_posix())
        modalities.add(str(dataset.Modality))
    return {
        "key": study.key,
        "person": study.person.key,
        "hospital": study.hospital,
        "study_instance_uid": str(study_instance_uid(study)),
        "patient_id": study.patient_id,
        "issuer_of_patient_id": study.issuer,
        "identifiers": [{"issuer": issuer, "value": value} for issuer, value in study.identifiers],
        "study_date": f"{study.study_date:%Y%m%d}",
        "description": study.description,
        "accession_number": study.accession_number,
        "modalities": sorted(modalities),
        "specific_character_set": study.character_set,
        "files": files,
        "visible_to": sorted(study.visible_to),
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _index(entries: list[dict[str, Any]], consents: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "hospitals": [
            {"id": hospital.id, "issuer": hospital.issuer, "name": hospital.name} for hospital in HOSPITALS.values()
        ],
        "persons": [
            {
                "key": person.key,
                "name": person.name,
                "birth_date": f"{person.birth_date:%Y%m%d}",
                "sex": person.sex,
                "national_number": person.cnp,
                "remark": person.remark,
            }
            for person in PERSONS
        ],
        "studies": entries,
        "consents": [
            {
                "id": consent["id"],
                "file": _consent_file(consent).as_posix(),
                "identifier": consent["patient"]["identifier"],
            }
            for consent in consents
        ],
        "shared_accession_number": SHARED_ACCESSION_NUMBER,
    }


def _readme(entries: list[dict[str, Any]], consents: list[dict[str, Any]]) -> str:
    lines = ["USMED sample data", "", _LICENCES, "Who is where, and which other hospitals may have it:", ""]
    for person in PERSONS:
        lines.append(f"{person.key}  {person.family_name} {person.given_name}, {person.sex}, born {person.birth_date}")
        lines.append(f"     CNP {person.cnp}; {person.remark}")
        for entry in entries:
            if entry["person"] == person.key:
                lines.append(
                    f"     {entry['hospital']:<12}{entry['study_date']}  {'+'.join(entry['modalities']):<15}"
                    f"{len(entry['files']):>4}  number {entry['patient_id']!r}  -> "
                    + (", ".join(entry["visible_to"]) or "nobody")
                )
        given = [consent["id"] for consent in consents if consent["id"].startswith(f"{person.key}-")]
        lines.append(f"     consents: {', '.join(given) or 'none'}")
        lines.append("")
    return "\n".join(lines)
