"""scripts/sample-data: the objects are valid, the numbers and letters right, and the consents say what we claim."""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.data
import pytest
from stdnum.ro import cnp

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts" / "lib"))

from sample_data import head, objects, persons, template, text  # noqa: E402
from sample_data.errors import SampleDataError, TemplateMissingError  # noqa: E402

from usmed.domain.consent import AccessRequest, Consent, Purpose, StudyFacts, decide  # noqa: E402
from usmed.domain.fhir_consent import consent_from_fhir  # noqa: E402

SCRIPT = REPOSITORY / "scripts" / "sample-data"
LAYERS = 176
MARK = (3, 5, 100)
"""The one voxel of the made-up template with the value 4000."""

# What dciodvfy finds in the source files themselves, too: two errors in the ECG; it cannot read 32-bit doses at all.
NOT_CLEAN = {"ecg", "rt-dose"}


def nifti(
    shape: tuple[int, ...] = (20, 24, LAYERS),
    *,
    matrix: Sequence[Sequence[float]] = ((1, 0, 0), (0, 1, 0), (0, 0, 1.5)),
    datatype: int = 4,
    slope: float = 0.0,
    largest: int = 4000,
) -> bytes:
    """Make a NIfTI-1 file by the letter of nifti1.h, with a marked voxel."""
    rng = np.random.default_rng(7)
    voxels = rng.integers(0, 256, size=shape).astype("<i2")
    voxels[MARK] = largest
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, len(shape), *shape, *(1,) * (7 - len(shape)))
    struct.pack_into("<2h", header, 70, datatype, 16)
    struct.pack_into("<3f", header, 108, 352.0, slope, 0.0)
    struct.pack_into("<2h", header, 252, 0, 2)
    rows = [(*row, origin) for row, origin in zip(matrix, (-9.0, -13.0, -70.0), strict=True)]
    struct.pack_into("<12f", header, 280, *(value for row in rows for value in row))
    header[344:348] = b"n+1\0"
    return bytes(header) + voxels.tobytes(order="F")


def run_script(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/sample-data without any pip setting of this machine."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=inherited | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
    )


@pytest.fixture(scope="module")
def template_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "brain.nii.gz"
    path.write_bytes(gzip.compress(nifti()))
    return path


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory, template_file: Path) -> Path:
    """The whole output folder, made once."""
    out = tmp_path_factory.mktemp("sample") / "out"
    finished = run_script("--out", out, "--template", template_file)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return out


@pytest.fixture(scope="module")
def index(region: Path) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((region / "index.json").read_text(encoding="utf-8"))
    return contents


@pytest.fixture(scope="module")
def datasets(region: Path, index: dict[str, Any]) -> dict[str, list[pydicom.Dataset]]:
    """By study key, its objects."""
    return {study["key"]: [pydicom.dcmread(region / file) for file in study["files"]] for study in index["studies"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the MR head ---------------------------------------------------------------------------------------------------


def head_of(datasets: dict[str, list[pydicom.Dataset]]) -> list[pydicom.Dataset]:
    (key,) = [study.key for study in persons.STUDIES if head.NAME in study.objects]
    return datasets[key]


def test_head_is_one_series_of_at_least_170_distinct_images(datasets: dict[str, list[pydicom.Dataset]]) -> None:
    images = head_of(datasets)
    assert len(images) == LAYERS >= 170
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({image[keyword].value for image in images}) == 1, keyword
    assert len({image.SOPInstanceUID for image in images}) == LAYERS
    assert [image.InstanceNumber for image in images] == list(range(1, LAYERS + 1))
    heights = [image.ImagePositionPatient[2] for image in images]
    assert np.allclose(np.diff(np.array(heights, dtype=float)), 1.5)


def test_a_voxel_lies_where_the_template_has_it(datasets: dict[str, list[pydicom.Dataset]]) -> None:
    found = []
    for image in head_of(datasets):
        for row, column in np.argwhere(image.pixel_array == 4000):
            # PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1
            orientation = np.array(image.ImageOrientationPatient, dtype=float)
            position = (
                np.array(image.ImagePositionPatient, dtype=float)
                + orientation[:3] * float(image.PixelSpacing[1]) * column
                + orientation[3:] * float(image.PixelSpacing[0]) * row
            )
            found.append(position)
    right, forward, up = -9 + MARK[0], -13 + MARK[1], -70 + 1.5 * MARK[2]
    assert len(found) == 1
    assert found[0] == pytest.approx([-right, -forward, up])


def test_the_real_template_gives_a_head_of_189_images() -> None:
    """Needs the template on this machine: in the cache, or named by USMED_TEST_TEMPLATE; never the network."""

    def no_network(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise OSError("this test does not download")

    named = os.environ.get("USMED_TEST_TEMPLATE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "usmed"
    try:
        data = template.obtain(cache, Path(named) if named else None, run=no_network)
    except TemplateMissingError:
        pytest.skip(
            "the MNI152 template is not on this machine; run scripts/sample-data once, or set USMED_TEST_TEMPLATE"
        )
    volume = template.read_volume(data)
    (study,) = [study for study in persons.STUDIES if head.NAME in study.objects]
    images = [image for _, image in head.images(study, volume, small=False)]
    assert len(images) == 189
    assert (images[0].Rows, images[0].Columns) == (233, 197)
    # The anterior commissure, the origin of MNI space, is tissue, and far outside the head is nothing.
    origin = next(image for image in images if image.ImagePositionPatient[2] == 0)
    assert origin.ImagePositionPatient[:2] == [-98, -98]
    assert origin.pixel_array[98, 98] > 50
    assert origin.pixel_array[0, 0] == 0
    # Front is up in an axial image: the brain reaches further from the origin to the back (72 mm forward, 106 back).
    rows = np.flatnonzero(origin.pixel_array.any(axis=1))
    assert 98 - rows[0] < rows[-1] - 98


# --- every object --------------------------------------------------------------------------------------------------


def test_uids_are_valid_and_no_object_has_another_ones(datasets: dict[str, list[pydicom.Dataset]]) -> None:
    every = [dataset for group in datasets.values() for dataset in group]
    assert max(Counter(dataset.SOPInstanceUID for dataset in every).values()) == 1
    for dataset in every:
        assert dataset.SOPInstanceUID.is_valid
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.preamble == bytes(128)
    studies = Counter(group[0].StudyInstanceUID for group in datasets.values())
    assert max(studies.values()) == 1


def test_a_second_run_makes_the_same_bytes(region: Path, template_file: Path, tmp_path: Path) -> None:
    again = run_script("--out", tmp_path / "again", "--template", template_file)
    assert again.returncode == 0
    assert contents(tmp_path / "again") == contents(region)


def test_a_run_into_its_own_folder_completes_it(region: Path, template_file: Path, tmp_path: Path) -> None:
    shutil.copytree(region, tmp_path / "out")
    (tmp_path / "out" / "README.txt").unlink()
    (tmp_path / "out" / "parhon" / "p01-20230620-us-node.dcm").write_bytes(b"half")
    assert run_script("--out", tmp_path / "out", "--template", template_file).returncode == 0
    assert contents(tmp_path / "out") == contents(region)


def test_small_is_a_part_of_the_same_objects(region: Path, template_file: Path, tmp_path: Path) -> None:
    assert run_script("--out", tmp_path / "small", "--small", "--template", template_file).returncode == 0
    small = {name: data for name, data in contents(tmp_path / "small").items() if name.endswith(".dcm")}
    whole = {name: data for name, data in contents(region).items() if name.endswith(".dcm")}
    assert small.items() < whole.items()
    assert len(whole) - len(small) == LAYERS - LAYERS // head.SMALL_STEP


def test_at_least_six_patients_over_three_hospitals(index: dict[str, Any]) -> None:
    assert {study["hospital"] for study in index["studies"]} == {"sf-spiridon", "parhon", "regional"}
    assert len({study["person"] for study in index["studies"]}) >= 6
    per_person = Counter(study["person"] for study in index["studies"])
    assert sum(count >= 2 for count in per_person.values()) >= 6
    assert len({study["study_date"][:4] for study in index["studies"]}) >= 5
    modalities = {modality for study in index["studies"] for modality in study["modalities"]}
    assert modalities >= {"CT", "MR", "US", "ECG", "NM", "RTPLAN", "RTDOSE"}


def test_the_index_says_what_is_in_the_objects(
    index: dict[str, Any], datasets: dict[str, list[pydicom.Dataset]]
) -> None:
    for study in index["studies"]:
        for dataset in datasets[study["key"]]:
            assert dataset.StudyInstanceUID == study["study_instance_uid"]
            assert dataset.StudyDate == study["study_date"]
            assert dataset.AccessionNumber == study["accession_number"]
            assert dataset.Modality in study["modalities"]
            assert dataset.PatientID == study["patient_id"].rstrip(" ")
            assert dataset.get("IssuerOfPatientID", "") == study["issuer_of_patient_id"]
            assert dataset.get("SpecificCharacterSet", "") == study["specific_character_set"]


def test_nothing_of_the_people_behind_the_examples_remains(
    region: Path, index: dict[str, Any], datasets: dict[str, list[pydicom.Dataset]]
) -> None:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    keywords = (
        *("InstitutionName", "InstitutionAddress", "StationName", "DeviceSerialNumber", "AccessionNumber", "StudyID"),
        *("PatientID", "PatientName", "PatientAddress", "AdmissionID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("SOPInstanceUID", "FrameOfReferenceUID"),
    )
    checked = 0
    for study in index["studies"]:
        for file, dataset in zip(study["files"], datasets[study["key"]], strict=True):
            name = re.sub(r"^\w+-\d+-(.*)\.dcm$", r"\1", Path(file).name)
            if name not in objects.SOURCES:
                continue
            source = pydicom.dcmread(folder / objects.SOURCES[name].file)
            data = (region / file).read_bytes()
            for keyword in keywords:
                was = str(source.get(keyword, ""))
                # The maker's name stays, and MR_small's institution is its maker.
                if len(was) >= 5 and was not in source.Manufacturer:
                    assert was.encode() not in data, f"{file}: {keyword}"
                    checked += 1
            assert not any(element.tag.is_private for element in dataset.iterall())
    assert checked > 100


def test_the_dose_belongs_to_the_plan_beside_it(datasets: dict[str, list[pydicom.Dataset]]) -> None:
    ((plan, dose),) = [group for group in datasets.values() if group[0].Modality == "RTPLAN"]
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(region: Path, index: dict[str, Any]) -> None:
    checked = set()
    for study in index["studies"]:
        files = study["files"] if len(study["files"]) < 10 else study["files"][:: LAYERS // 3]
        for file in files:
            name = re.sub(r"^\w+-\d+-(.*?)(-\d{3})?\.dcm$", r"\1", Path(file).name)
            if name in NOT_CLEAN:
                continue
            # Its report is on standard error; the exit code says nothing of what it found.
            report = subprocess.run(["dciodvfy", "-new", region / file], capture_output=True, text=True, check=False)
            errors = [line for line in report.stderr.splitlines() if line.startswith(("Error", "Abort"))]
            assert errors == [], file
            assert re.search(r"^(CT|MR|US|SC)Image|^RTPlan", report.stderr, re.MULTILINE), report.stderr
            checked.add(name)
    assert checked == set(objects.SOURCES) - NOT_CLEAN | {head.NAME}


# --- letters -------------------------------------------------------------------------------------------------------


def test_names_decode_to_the_same_person_in_every_character_set(datasets: dict[str, list[pydicom.Dataset]]) -> None:
    forms: dict[str, set[str]] = {}
    for study in persons.STUDIES:
        for dataset in datasets[study.key][:3]:
            name = str(dataset.PatientName)
            if study.character_set == persons.UTF_8:
                assert name == study.person.name
            elif study.character_set == persons.LATIN_2:
                assert not set(name) & set("ȘșȚț")
                assert text.with_comma_below(name) == study.person.name
            else:
                assert name.isascii()
                assert name == text.without_diacritics(study.person.name)
            assert "\N{REPLACEMENT CHARACTER}" not in str(dataset.get("StudyDescription"))
            forms.setdefault(study.person.key, set()).add(study.character_set)
    # The same person in both, and letters that tell the sets apart.
    assert forms["p01"] == {persons.UTF_8, persons.LATIN_2} == forms["p02"]
    assert {letter for person in persons.PERSONS for letter in person.name} >= set("ȘșȚțăâî")


def test_the_bytes_are_those_of_the_declared_set(region: Path) -> None:
    utf_8 = (region / "sf-spiridon" / "p01-20221108-ct-spine.dcm").read_bytes()
    latin_2 = (region / "regional" / "p01-20200115-ecg.dcm").read_bytes()
    ascii_only = (region / "regional" / "p04-20230830-ct-spine.dcm").read_bytes()
    assert b"\xc8\x98tef\xc4\x83nescu^" in utf_8
    assert b"\xaatef\xe3nescu^" in latin_2
    assert b"Matasaru^Vasile" in ascii_only


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="dcmdump (dcmtk) is not installed")
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sf-spiridon/p01-20221108-ct-spine.dcm", "Ștefănescu^Ioana-Măriuca"),
        ("regional/p01-20200115-ecg.dcm", "Ştefănescu^Ioana-Măriuca"),
        ("parhon/p02-20210914-us-node.dcm", "Ţurcanu^Gheorghe"),
        ("regional/p04-20230830-ct-spine.dcm", "Matasaru^Vasile"),
    ],
)
def test_dcmdump_reads_the_names(region: Path, file: str, name: str) -> None:
    dump = subprocess.run(["dcmdump", "+U8", "+P", "0010,0010", region / file], capture_output=True, check=True)
    assert f"[{name}]" in dump.stdout.decode("utf-8")


def test_a_letter_without_a_form_is_refused() -> None:
    with pytest.raises(SampleDataError, match="cannot be written"):
        text.in_character_set("Ștefan ☺", persons.LATIN_2)


# --- numbers -------------------------------------------------------------------------------------------------------


def test_national_numbers_are_valid_consistent_and_nobodys() -> None:
    numbers = [person.cnp for person in persons.PERSONS]
    assert len(set(numbers)) == len(numbers)
    for person in persons.PERSONS:
        assert cnp.validate(person.cnp) == person.cnp
        assert person.cnp[1:7] == f"{person.birth_date:%y%m%d}"
        assert (int(person.cnp[0]) % 2 == 1) == (person.sex == "M")
        assert (person.cnp[0] in "56") == (person.birth_date.year >= 2000)
        # A serial that is never assigned, a county that no longer exists.
        assert person.cnp[7:12] == "48000"


def test_numbers_stand_where_each_hospital_writes_them(datasets: dict[str, list[pydicom.Dataset]]) -> None:
    for study in persons.STUDIES:
        dataset = datasets[study.key][0]
        others = [(item.IssuerOfPatientID, item.PatientID) for item in dataset.get("OtherPatientIDsSequence", ())]
        assert others == ([("RO-CNP", study.person.cnp)] if study.states_cnp else [])
    turcanu = {study.hospital: study.identifiers for study in persons.STUDIES if study.person == persons.TURCANU}
    national = ("RO-CNP", persons.TURCANU.cnp)
    assert turcanu == {
        "sf-spiridon": (("SF-SPIRIDON", "SP004512"), national),
        "parhon": (("PARHON", "77120"), national),
    }
    stated = {bool(study.issuer) for study in persons.STUDIES}
    assert stated == {True, False}


def test_look_alike_numbers_are_different_people(datasets: dict[str, list[pydicom.Dataset]]) -> None:
    owners: dict[tuple[str, str], set[str]] = {}
    for study in persons.STUDIES:
        owners.setdefault(study.identifiers[0], set()).add(study.person.key)
        assert datasets[study.key][0].PatientID == study.patient_id.rstrip(" ")
    assert all(len(people) == 1 for people in owners.values())
    assert {issuer for issuer, value in owners if value == "1234"} == {"SF-SPIRIDON", "PARHON", "REGIONAL"}
    regional = {value for issuer, value in owners if issuer == "REGIONAL"}
    assert regional >= {"1234", "01234", "1_34", "1%34", "12*4", "12?4", "AB17", "ab17"}
    padded = [study for study in persons.STUDIES if study.patient_id == " 1234"]
    assert [study.person.key for study in padded] == ["t03"]


def test_contradicting_birth_dates_and_a_shared_accession_number(
    index: dict[str, Any], datasets: dict[str, list[pydicom.Dataset]]
) -> None:
    born = {datasets[study.key][0].PatientBirthDate for study in persons.STUDIES if study.person == persons.DANILA}
    assert born == {"19710908", "19710809"}
    shared = index["shared_accession_number"]
    people = {study["person"] for study in index["studies"] if study["accession_number"] == shared}
    assert len(people) == 2
    every = Counter(study["accession_number"] for study in index["studies"])
    assert [number for number, count in every.items() if count > 1] == [shared]


# --- consents ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def consents(region: Path, index: dict[str, Any]) -> list[Consent]:
    return [
        consent_from_fhir(json.loads((region / entry["file"]).read_bytes()), id=entry["id"], version=1)
        for entry in index["consents"]
    ]


def consents_of(study: dict[str, Any], consents: list[Consent]) -> list[Consent]:
    stated = {(identifier["issuer"], identifier["value"]) for identifier in study["identifiers"]}
    return [
        consent
        for consent in consents
        if stated & {(identifier.issuer, identifier.value) for identifier in consent.patient}
    ]


def permitted(study: dict[str, Any], consents: list[Consent], purpose: Purpose, now: datetime) -> set[str]:
    facts = StudyFacts(
        study_instance_uid=study["study_instance_uid"],
        source=study["hospital"],
        modalities=frozenset(study["modalities"]),
        study_date=date.fromisoformat(study["study_date"]),
    )
    return {
        hospital
        for hospital in set(persons.HOSPITALS) - {study["hospital"]}
        if decide(consents_of(study, consents), AccessRequest(hospital, purpose), facts, now).permitted
    }


@pytest.mark.parametrize("now", [datetime(2024, 1, 1, tzinfo=UTC), datetime(2031, 7, 1, tzinfo=UTC)])
def test_consents_permit_exactly_what_the_index_claims(
    index: dict[str, Any], consents: list[Consent], now: datetime
) -> None:
    for study in index["studies"]:
        assert permitted(study, consents, Purpose.TREAT, now) == set(study["visible_to"]), study["key"]
        assert permitted(study, consents, Purpose.HRESCH, now) == set(), study["key"]


def test_each_consent_shows_something_of_its_own(index: dict[str, Any], consents: list[Consent]) -> None:
    now = datetime(2025, 6, 1, tzinfo=UTC)
    by_person: dict[str, list[dict[str, Any]]] = {}
    for study in index["studies"]:
        by_person.setdefault(study["person"], []).append(study)
    assert all(len(study["visible_to"]) == 2 for study in by_person["p01"])
    assert {hospital for study in by_person["p02"] for hospital in study["visible_to"]} == {"parhon"}
    assert [study["visible_to"] for study in by_person["p03"] if study["modalities"] == ["MR"]] == [[]]
    assert [study["visible_to"] for study in by_person["p03"] if study["modalities"] == ["CT"]] == [["parhon"]]
    assert all(consents_of(study, consents) == [] for study in by_person["p04"])
    # Expired: it spoke, and no longer does.
    for study in by_person["p05"]:
        assert len(permitted(study, consents, Purpose.TREAT, datetime(2023, 12, 31, 23, 59, tzinfo=UTC))) == 2
        assert permitted(study, consents, Purpose.TREAT, now) == set()
    assert not any("regional" in study["visible_to"] for study in by_person["p06"])
    assert {hospital for study in by_person["p06"] for hospital in study["visible_to"]} == {"parhon", "sf-spiridon"}


# --- when something is missing or wrong ----------------------------------------------------------------------------


def test_without_pypi_nothing_is_written_and_the_message_helps(tmp_path: Path) -> None:
    finished = run_script("--out", tmp_path / "out", "--cache", tmp_path / "cache", PIP_NO_INDEX="1")
    assert finished.returncode == 3
    assert "the MR head is missing" in finished.stderr
    assert "--template" in finished.stderr
    assert "--without-head" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "out").exists()


def test_without_head_makes_the_rest(region: Path, tmp_path: Path) -> None:
    finished = run_script("--out", tmp_path / "out", "--without-head")
    assert finished.returncode == 0
    assert "left out" in finished.stdout
    made = {name: data for name, data in contents(tmp_path / "out").items() if name.endswith(".dcm")}
    whole = contents(region)
    assert made == {name: whole[name] for name in whole if name.endswith(".dcm") and head.NAME not in name}


def test_a_folder_with_other_files_is_refused(region: Path, tmp_path: Path) -> None:
    (tmp_path / "parhon").mkdir()
    (tmp_path / "parhon" / "mine.dcm").write_bytes(b"mine")
    finished = run_script("--out", tmp_path, "--without-head")
    assert finished.returncode == 1
    assert "parhon/mine.dcm" in finished.stderr
    assert contents(tmp_path) == {"parhon/mine.dcm": b"mine"}


def test_an_unwritable_folder_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    finished = run_script("--out", tmp_path / "file" / "out", "--without-head")
    assert finished.returncode == 1
    assert "cannot be written" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"not a volume", "damaged"),
        (nifti()[:1000], "damaged"),
        (gzip.compress(nifti())[:1000], "damaged"),
        (b"\x1f\x8b" + bytes(100), "damaged"),
        (bytes(400), "not a little-endian NIfTI-1"),
        (nifti(datatype=128), "damaged or of an unknown kind"),
        (nifti((20, 24, LAYERS, 2)), "not three"),
        (nifti(matrix=((-1, 0, 0), (0, 1, 0), (0, 0, 1))), "right, forward, up"),
        (nifti(matrix=((1, 0.1, 0), (0, 1, 0), (0, 0, 1))), "right, forward, up"),
        (nifti(slope=0.5), "scaled"),
        (nifti(largest=5000), "0 to 4095"),
        (nifti(largest=-1), "0 to 4095"),
        (nifti((20, 24, 169)), "at least 170"),
    ],
)
def test_a_wrong_template_is_a_message(data: bytes, message: str, tmp_path: Path) -> None:
    (study,) = [study for study in persons.STUDIES if head.NAME in study.objects]
    with pytest.raises(SampleDataError, match=message):
        head.names(template.read_volume(data), small=False)
    assert study.objects == (head.NAME,)


def test_the_template_may_be_given_as_wheel_or_plain_file(tmp_path: Path) -> None:
    wheel = tmp_path / "nilearn.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(template.MEMBER, gzip.compress(nifti()))
    plain = tmp_path / "brain.nii"
    plain.write_bytes(nifti())
    from_wheel = template.read_volume(template.obtain(tmp_path, wheel))
    from_file = template.read_volume(template.obtain(tmp_path, plain))
    assert np.array_equal(from_wheel.voxels, from_file.voxels)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(SampleDataError, match="cannot be read"):
        template.obtain(tmp_path, wheel)
    with pytest.raises(SampleDataError, match="cannot be read"):
        template.obtain(tmp_path, tmp_path / "absent")


def test_a_downloaded_file_that_is_not_the_pinned_one_is_refused_and_not_kept(tmp_path: Path) -> None:
    def serves_another(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        assert "--require-hashes" in command
        with zipfile.ZipFile(folder / "nilearn-0.14.1-py3-none-any.whl", "w") as archive:
            archive.writestr(template.MEMBER, gzip.compress(nifti()))
        return subprocess.CompletedProcess(command, 0, "", "")

    with pytest.raises(TemplateMissingError, match="not the expected one"):
        template.obtain(tmp_path / "cache", None, run=serves_another)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_cache_is_not_used(tmp_path: Path) -> None:
    (tmp_path / Path(template.MEMBER).name).write_bytes(gzip.compress(nifti()))

    def fails(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: no route\nERROR: no distribution\n")

    with pytest.raises(TemplateMissingError, match="no route"):
        template.obtain(tmp_path, None, run=fails)


def test_the_reference_page_has_every_option_and_every_person() -> None:
    page = (REPOSITORY / "docs" / "reference" / "sample-data.md").read_text(encoding="utf-8")
    described = set(re.findall(r"--[a-z-]+", run_script("--help").stdout)) - {"--help"}
    assert described == {"--out", "--small", "--template", "--without-head", "--cache"}
    assert all(f"`{option}" in page for option in described)
    for person in persons.PERSONS:
        assert f"{person.family_name} {person.given_name}" in page
    for source in objects.SOURCES.values():
        assert f"`{source.file}`" in page
