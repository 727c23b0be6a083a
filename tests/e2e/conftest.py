"""The region that the tests of this folder share: four hospitals, their hub, and a stranger outside."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.dcmtk import WORKSTATION, Receiver, receiver
from e2e.studies import Study
from support.postgresql import new_database, running_postgresql
from support.region import AUTH, Hospital, Hub, Region, eventually, free_port, running_region

type Placed = tuple[Hospital, Study]


@dataclass(frozen=True)
class World:
    """The running region.

    Attributes:
        a, b, c: hospitals that fetch only when somebody asks for a study, so that a test sees what was there before.
        d: a hospital that fetches whatever a lookup finds, as by default.
        outside: a plain Orthanc that belongs to nobody of the region. Every hospital knows it as the modality, the
            peer and the DICOMweb server `stranger` (nothing said about it), `partner` (said to be C's) and
            `inhouse` (listed as its own).
        third: a storescp that every hospital lists as its own modality `third`.
    """

    region: Region
    a: Hospital
    b: Hospital
    c: Hospital
    d: Hospital
    outside: Hospital
    third: Receiver

    @property
    def hub(self) -> Hub:
        """Return the hub."""
        return self.region.hub

    def place(self, placed: Iterable[Placed], store: Callable[[Hospital, list[bytes]], None] | None = None) -> None:
        """Store studies, and wait until the hub knows them."""
        everything = list(placed)
        for hospital in {id(one): one for one, _ in everything}.values():
            files = [file for one, study in everything if one is hospital for file in study.files()]
            if store is not None:
                store(hospital, files)
            else:
                for file in files:
                    hospital.store(file)
        wanted = {(hospital.id, study.uid) for hospital, study in everything}
        eventually(lambda: wanted <= self.known(), 30, "the hub knows the studies")

    def known(self) -> set[tuple[str, str]]:
        """Return which studies the hub knows, as (hospital's id, Study Instance UID)."""
        path = self.hub.database_url.removeprefix("sqlite:///")
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return set(connection.execute("SELECT hospital, study_instance_uid FROM study"))
        finally:
            connection.close()

    def names(self) -> set[str]:
        """Return what the hub was told that patients are called."""
        path = self.hub.database_url.removeprefix("sqlite:///")
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return {name for (name,) in connection.execute("SELECT name FROM chart")}
        finally:
            connection.close()

    def forget_outside(self) -> None:
        """Empty the stranger's archive."""
        for one in self.outside.get("/patients").json():
            self.outside.session.delete(f"{self.outside.url}/patients/{one}", timeout=30).raise_for_status()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start the region; B keeps its own tables in PostgreSQL, the others in SQLite."""
    folder = tmp_path_factory.mktemp("region")
    third_port = free_port()
    outside = Hospital("outside", "Un străin", "OUTSIDE", folder / "outside", address="127.0.0.9", plain=True)

    def hospital(hospital_id: str, name: str, issuer: str, address: str, **options: Any) -> Hospital:
        automatic = options.pop("automatic", "click")
        return Hospital(
            hospital_id,
            name,
            issuer,
            folder / hospital_id,
            address=address,
            section=_section(automatic),
            modalities=_modalities(outside, third_port),
            orthanc=_others(outside),
            **options,
        )

    with running_postgresql() as server:
        a = hospital("spiridon", "Spitalul Clinic „Sf. Spiridon” Iași", "SPIRIDON", "127.0.0.1")
        b = hospital(
            "parhon", "Spitalul „Parhon”", "PARHON", "127.0.0.2", settings={"USMED_DATABASE_URL": new_database(server)}
        )
        c = hospital("regional", "Institutul Regional", "REGIONAL", "127.0.0.3")
        d = hospital("neuro", "Neurochirurgie", "NEURO", "127.0.0.4", automatic="lookup")
        with (
            receiver("THIRD", third_port, folder / "third") as third,
            running_region(folder, [a, b, c, d, outside], Hub(folder / "hub")) as region,
        ):
            yield World(region, a, b, c, d, outside, third)


def _section(automatic: str) -> dict[str, Mapping[str, Any]]:
    inhouse, partner = ["inhouse"], {"partner": "regional"}
    return {
        "Pull": {"Automatic": automatic},
        # What is tested here is what is answered; how long it may take is tested elsewhere, on a quiet machine.
        "Lookup": {"DeadlineSeconds": 10, "CircuitSeconds": 0},
        "Hub": {"ConsentSeconds": 1},
        "Own": {"Modalities": ["workstation", "third", "inhouse"], "Peers": inhouse, "DicomWebServers": inhouse},
        "Foreign": {
            "Modalities": partner,
            "Peers": partner,
            "DicomWebServers": {**partner, "announced": "regional"},
        },
    }


def _modalities(outside: Hospital, third_port: int) -> dict[str, Any]:
    def modality(aet: str, host: str, port: int, **options: Any) -> dict[str, Any]:
        return {"AET": aet, "Host": host, "Port": port, **options}

    return {
        "workstation": modality(WORKSTATION, "127.0.0.1", 11112),
        "third": modality("THIRD", "127.0.0.1", third_port),
        "inhouse": modality("INHOUSE", outside.address, outside.dicom_port),
        "stranger": modality("STRANGER", outside.address, outside.dicom_port, AllowGet=False),
        "partner": modality("PARTNER", outside.address, outside.dicom_port, AllowGet=False),
    }


def _others(outside: Hospital) -> dict[str, Any]:
    user, password = AUTH
    names = ("inhouse", "stranger", "partner")
    dicomweb = {
        "Enable": True,
        "Root": "/dicom-web/",
        "EnableWado": True,
        "WadoRoot": "/wado",
        "Servers": {one: [f"{outside.url}/dicom-web/", user, password] for one in names},
    }
    return {"OrthancPeers": {one: [f"{outside.url}/", user, password] for one in names}, "DicomWeb": dicomweb}
