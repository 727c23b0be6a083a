"""The demonstration's hospitals, and what the sample data says that a lookup at each of them must list."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE = Path("/sample/data")
NATIONAL = "RO-CNP"
"""The issuer of the national number."""

Study = dict[str, Any]


@dataclass(frozen=True)
class Hospital:
    """A hospital of the demonstration: `letter` in the text, `host` in its network, and its workstation."""

    letter: str
    id: str
    host: str
    aet: str
    workstation: str
    port: int

    @property
    def url(self) -> str:
        """Return the address of its Orthanc."""
        return f"http://{self.host}:8042"

    @property
    def login(self) -> tuple[str, str]:
        """Return user and password of its Orthanc."""
        return "admin", os.environ[f"USMED_PASSWORD_{self.letter}"]


A = Hospital("A", "sf-spiridon", "hospital-a", "SPIRIDON", "WORKSTATION-A", 11112)
B = Hospital("B", "parhon", "hospital-b", "PARHON", "WORKSTATION-B", 11113)
C = Hospital("C", "regional", "hospital-c", "REGIONAL", "WORKSTATION-C", 11114)
HOSPITALS = (A, B, C)

INDEX = json.loads((SAMPLE / "index.json").read_text(encoding="utf-8"))
STUDIES: list[Study] = INDEX["studies"]


def study_of(person: str, hospital: Hospital, modality: str) -> Study:
    """Return the one sample study of a person at a hospital that has the modality."""
    (study,) = [
        study
        for study in STUDIES
        if study["person"] == person and study["hospital"] == hospital.id and modality in study["modalities"]
    ]
    return study


def number_of(person: str, hospital: Hospital) -> str:
    """Return the number a hospital knows a person by; the national number if it does not."""
    for study in STUDIES:
        if study["person"] == person and study["hospital"] == hospital.id:
            return str(study["patient_id"])
    (number,) = [one["national_number"] for one in INDEX["persons"] if one["key"] == person]
    return str(number)


def linked(hospital: Hospital, number: str) -> list[Study]:
    """Return the studies of the one person whom the number names at the hospital, wherever they are.

    Numbers are one person's when a study states both. The one exception is the sample region's contradiction: p07's
    study at Parhon states the national number with another birth date, so there that number links nothing.
    """
    (own,) = [one["issuer"] for one in INDEX["hospitals"] if one["id"] == hospital.id]
    known = {(own, number), (NATIONAL, number)}
    found_here: list[Study] = []
    while True:
        more = [study for study in STUDIES if study not in found_here and numbers_of(study) & known]
        if not more:
            return found_here
        found_here += more
        known = known.union(*map(numbers_of, more))


def numbers_of(study: Study) -> set[tuple[str, str]]:
    """Return the numbers that a study states, as issuer and value, as far as they link."""
    numbers = {(one["issuer"], one["value"]) for one in study["identifiers"]}
    if (study["person"], study["hospital"]) == ("p07", B.id):
        return {(issuer, value) for issuer, value in numbers if issuer != NATIONAL}
    return numbers


def listed(hospital: Hospital, number: str) -> set[str]:
    """Return what a lookup of a number at a hospital must list.

    The hospital's own studies with this very Patient ID, as plain Orthanc; of the others the person's that the
    patient lets this hospital have.
    """
    own = [one for one in STUDIES if one["hospital"] == hospital.id and one["patient_id"] == number]
    others = [one for one in linked(hospital, number) if hospital.id in one["visible_to"]]
    return {one["study_instance_uid"] for one in own + others}


def visible(hospital: Hospital, person: str) -> set[str]:
    """Return the person's studies that a lookup at the hospital must list."""
    return listed(hospital, number_of(person, hospital))


def lookups() -> dict[tuple[str, str], tuple[Hospital, set[str]]]:
    """Return, for each hospital and each number that a person may be looked up by there, what must be found."""
    table: dict[tuple[str, str], tuple[Hospital, set[str]]] = {}
    for hospital in HOSPITALS:
        for person in {study["person"] for study in STUDIES}:
            number = number_of(person, hospital)
            here = any(study["person"] == person and study["hospital"] == hospital.id for study in STUDIES)
            # A number with * or ? is a pattern in C-FIND (PS3.4 C.2.2.2.4), not one patient. A number that another
            # person has at this hospital says nothing about a person who was never here.
            if not re.search(r"[*?\\]", number) and (here or person.startswith("p")):
                table[hospital.id, number] = (hospital, listed(hospital, number))
    return table


def of_person(person: str, *hospitals: Hospital) -> set[str]:
    """Return a person's sample studies at these hospitals."""
    ids = {hospital.id for hospital in hospitals}
    return {study["study_instance_uid"] for study in STUDIES if study["person"] == person and study["hospital"] in ids}
