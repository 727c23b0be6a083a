"""An archive in memory: studies, and the names on them."""

from dataclasses import dataclass, field
from typing import Any

from usmed.domain.lookup import Query
from usmed.hospital.archive import Match, Study


@dataclass
class Shelf:
    """What is asked of an archive about who a patient is."""

    studies: list[Study] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def put(self, number: str, name: str = "Popescu^Ion", **given: Any) -> Study:
        """Add a study."""
        uid = f"1.2.{len(self.studies) + 1}"
        values = {
            "issuer": "", "birth_date": "19630615", "sex": "M", "study_date": "20240115", "accession_number": "",
            "modalities": ("CT",), "labels": frozenset(), "instances": 1, "other_identifiers": (), **given,
        }  # fmt: skip
        study = Study(orthanc_id=f"o{uid}", study_instance_uid=uid, patient_id=number, **values)
        self.studies.append(study)
        self.names[uid] = name
        return study

    def studies_of_patient(self, patient_id: str) -> list[Study]:
        """Return every study with exactly this number."""
        return [one for one in self.studies if one.patient_id.strip(" ") == patient_id]

    def find(self, query: Query, *, labels: bool = False) -> list[Match]:
        """Return the names, also of studies that a pattern in the number would find."""
        return [
            Match(one.orthanc_id, {"StudyInstanceUID": uid, "PatientName": self.names[uid]}, one.labels)
            for one in self.studies
            for uid in [one.study_instance_uid]
        ]

    def parent_studies(self, resources: list[str]) -> list[Study]:
        """Return the studies of these resources: the patient's number stands for the patient."""
        return [one for one in self.studies if one.patient_id in resources]
