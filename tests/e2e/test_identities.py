"""One person, another number at every hospital: found and filed under B's number, nothing else changed."""

import io
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset

from e2e import dcmtk
from e2e.conftest import World
from e2e.studies import NATIONAL_ISSUER, Patient, Study, differing, national_number
from support.region import Hospital, eventually, permit

JSON = {"Content-Type": "application/json"}
CNP = national_number(500)
AT_A, AT_B = (Patient(number, name="Bălan^Ioana^^^").also(NATIONAL_ISSUER, CNP) for number in ("SP-500/24", "PA-500"))
OURS = Study("identity-b", AT_B)
KINDS = {
    "CT, explicit": "CT_small.dcm",
    "MR, implicit": "MR_small_implicit.dcm",
    "MR, big endian": "MR_small_bigendian.dcm",
    "deflated": "image_dfl.dcm",
    "JPEG 2000": "JPEG2000.dcm",
    "JPEG-LS": "MR_small_jpeg_ls_lossless.dcm",
    "RLE, two frames": "SC_rgb_rle_2frame.dcm",
    "JPEG": "SC_rgb_jpeg_dcmtk.dcm",
    "structured report": "reportsi.dcm",
    "waveform": "waveform_ecg.dcm",
    "radiotherapy plan": "rtplan.dcm",
    "segmentation": "liver_1frame.dcm",
    "trailing padding": "MR_small_padded.dcm",
}
"""Real objects of many kinds; all become one study."""
CHARACTER_SETS = {"ISO_IR 100": "Müller^Jürgen", "ISO_IR 101": "Bălan^Ioana", "ISO_IR 192": "Țurcanu^Ștefan"}
THEIRS = Study("identity-a", AT_A)
CHANGED = {"PatientID", "IssuerOfPatientID", "OtherPatientIDsSequence", "OriginalAttributesSequence"}


def _objects() -> dict[str, bytes]:
    objects = {}
    for index, (kind, name) in enumerate(KINDS.items()):
        dataset = _read(Path(str(get_testdata_file(name))).read_bytes())
        dataset.PatientName = "BALAN^IOANA"
        objects[kind] = _as_theirs(dataset, index)
    for index, (character_set, name) in enumerate(CHARACTER_SETS.items(), start=len(KINDS)):
        dataset = _read(Path(str(get_testdata_file("CT_small.dcm"))).read_bytes())
        dataset.SpecificCharacterSet, dataset.PatientName = character_set, name
        objects[character_set] = _as_theirs(dataset, index)
    return objects


def _as_theirs(dataset: FileDataset, index: int) -> bytes:
    dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = AT_A.number, AT_A.birth_date, AT_A.sex
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID = CNP, NATIONAL_ISSUER
    dataset.OtherPatientIDsSequence = [other]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = THEIRS.uid, THEIRS.series_uid(index)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = THEIRS.sop_uid(index, 1)
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def _read(file: bytes) -> FileDataset:
    return pydicom.dcmread(io.BytesIO(file))


@pytest.fixture(scope="module")
def copies(world: World) -> dict[str, tuple[bytes, bytes]]:
    """Have B fetch the study; return for each kind of object A's file and B's."""
    objects = _objects()
    world.place([(world.b, OURS)])
    for file in objects.values():
        world.a.store(file)
    eventually(lambda: (world.a.id, THEIRS.uid) in world.known(), 30, "the hub knows the study")
    world.region.consent(permit(NATIONAL_ISSUER, CNP, recipients=[world.b.id, world.c.id]))
    fetch(world.b, THEIRS)
    pairs = {}
    for kind, file in objects.items():
        uid = str(_read(file).SOPInstanceUID)
        pairs[kind] = (file_of(world.a, uid), file_of(world.b, uid))
        assert pairs[kind][0] == file
    return pairs


def fetch(hospital: Hospital, study: Study) -> None:
    """Have a hospital fetch a study, and wait for it."""
    answer = hospital.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON)
    assert answer.ok, answer.text
    path = f"/usmed/transfers/{study.uid}"
    eventually(lambda: not hospital.get(path).json()["Unfinished"], 30, "the transfer")
    assert hospital.get(path).json()["State"] == "complete", hospital.get(path).json()["Reason"]


def file_of(hospital: Hospital, sop_instance_uid: str) -> bytes:
    """Return the one file that a hospital's archive has of an instance."""
    (found,) = hospital.post("/tools/lookup", data=sop_instance_uid).json()
    return hospital.get(f"/instances/{found['ID']}/file").content


each_kind = pytest.mark.parametrize("kind", [*KINDS, *CHARACTER_SETS])


@each_kind
def test_a_copy_is_filed_under_bs_number_and_tells_the_original(
    copies: dict[str, tuple[bytes, bytes]], kind: str
) -> None:
    copy = _read(copies[kind][1])
    assert copy.PatientID == AT_B.number
    numbers = {(one.get("IssuerOfPatientID", ""), one.PatientID) for one in copy.OtherPatientIDsSequence}
    assert numbers == {(NATIONAL_ISSUER, CNP), ("SPIRIDON", AT_A.number)}
    original = copy.OriginalAttributesSequence[-1]
    (before,) = original.ModifiedAttributesSequence
    assert before.PatientID == AT_A.number
    assert original.ReasonForTheAttributeModification == "COERCE"
    assert original.ModifyingSystem
    assert original.SourceOfPreviousValues


@each_kind
def test_nothing_else_of_a_copy_has_changed(copies: dict[str, tuple[bytes, bytes]], kind: str) -> None:
    original, copy = (_read(file) for file in copies[kind])
    assert differing(original, copy) <= CHANGED
    assert differing(original.file_meta, copy.file_meta) <= {"FileMetaInformationGroupLength"}
    assert original.get("PixelData") == copy.get("PixelData")
    if "PixelData" in original:
        # Byte by byte as it stands in the file, which for a deflated one is only after inflating it.
        assert copy.PixelData in copies[kind][1] or kind in ("deflated", "MR, big endian")
    assert str(copy.PatientName) == str(original.PatientName)


@each_kind
def test_dciodvfy_finds_nothing_in_a_copy_that_was_not_in_the_original(
    copies: dict[str, tuple[bytes, bytes]], kind: str, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("original.dcm", "copy.dcm")]
    for path, content in zip(files, copies[kind], strict=True):
        path.write_bytes(content)
    original, copy = (dcmtk.errors_of(path) for path in files)
    assert copy - original == set()


def test_b_lists_it_under_its_own_number(world: World, copies: dict[str, tuple[bytes, bytes]]) -> None:
    found = dcmtk.find(
        world.b, "STUDY", {"PatientID": AT_B.number, "StudyInstanceUID": "", "NumberOfStudyRelatedInstances": ""}
    )
    assert {str(one.StudyInstanceUID): one.NumberOfStudyRelatedInstances for one in found.answers} == {
        OURS.uid: len(OURS.sop_uids),
        THEIRS.uid: len(copies),
    }
    (patient,) = dcmtk.find(world.b, "PATIENT", {"PatientID": AT_B.number, "PatientName": ""}, model="-P").answers
    assert patient.PatientName == AT_B.name


@pytest.mark.parametrize("label", ["C-FIND first", "REST first"])
def test_by_whichever_number_it_is_asked_for_the_same_study_opens(world: World, label: str) -> None:
    """The national number and A's number lead to the copy that is filed under B's number."""
    person = 511 + (label == "REST first")
    cnp = national_number(person)
    theirs = Study(f"numbers-a {label}", Patient(f"SP-{person}").also(NATIONAL_ISSUER, cnp), series=2)
    ours = Study(f"numbers-b {label}", Patient(f"PA-{person}").also(NATIONAL_ISSUER, cnp))
    world.place([(world.a, theirs), (world.b, ours)])
    world.region.consent(permit(NATIONAL_ISSUER, cnp))
    asked = ({"PatientID": cnp}, {"PatientID": f"SP-{person}", "IssuerOfPatientID": "SPIRIDON"},
             {"PatientID": f"PA-{person}"})  # fmt: skip
    for _ in range(2):
        # Before it is here, and after.
        for keys in asked:
            found = dcmtk.find(world.b, "STUDY", {**keys, "StudyInstanceUID": ""})
            assert theirs.uid in found.studies
            assert found.values("PatientID") == [keys["PatientID"]] * len(found.answers)
            listed = {
                one["MainDicomTags"]["StudyInstanceUID"]: one["ID"] for one in world.b.find("Study", keys)
            }
            assert listed.keys() == found.studies
            if label == "REST first":
                opened = world.b.get(f"/studies/{listed[theirs.uid]}").json()
                assert opened["MainDicomTags"]["StudyInstanceUID"] == theirs.uid
                assert opened["PatientMainDicomTags"]["PatientID"] == f"PA-{person}"
        if label == "C-FIND first":
            for keys in asked:
                world.third.empty()
                if "IssuerOfPatientID" in keys:
                    # A C-MOVE names no issuer, so B's archive reads a bare number as its own.
                    continue
                dcmtk.move(world.b, "THIRD", "PATIENT", keys, model="-P")
                sent = dcmtk.sop_uids(world.third.received())
                assert set(theirs.sop_uids) <= set(sent)
                assert {one.PatientID for one in world.third.received()} == {f"PA-{person}"}
    world.third.empty()


def test_a_person_whom_b_does_not_know_is_filed_under_the_national_number(world: World) -> None:
    cnp = national_number(520)
    theirs = Study("stranger with cnp", Patient("SP-520").also(NATIONAL_ISSUER, cnp))
    world.place([(world.a, theirs)])
    world.region.consent(permit(NATIONAL_ISSUER, cnp))
    fetch(world.b, theirs)
    (found,) = world.b.find("Study", {"StudyInstanceUID": theirs.uid})
    assert found["PatientMainDicomTags"]["PatientID"] == cnp


def test_a_person_without_national_number_is_filed_under_the_number_with_its_issuer(world: World) -> None:
    """Whoever has that number at B stays somebody else."""
    theirs, ours = Study("stranger", Patient("521", name="Unu^A")), Study("namesake", Patient("521", name="Doi^B"))
    world.place([(world.a, theirs), (world.b, ours)])
    world.region.consent(permit("SPIRIDON", "521"), permit("PARHON", "521"))
    assert dcmtk.find(world.b, "STUDY", {"PatientID": "521", "StudyInstanceUID": ""}).studies == {ours.uid}
    keys = {"PatientID": "521", "IssuerOfPatientID": "SPIRIDON", "StudyInstanceUID": ""}
    assert dcmtk.find(world.b, "STUDY", keys).studies == {theirs.uid}
    fetch(world.b, theirs)
    (found,) = world.b.find("Study", {"StudyInstanceUID": theirs.uid})
    assert found["PatientMainDicomTags"]["PatientID"] == "521@SPIRIDON"
    assert dcmtk.find(world.b, "STUDY", {"PatientID": "521", "StudyInstanceUID": ""}).studies == {ours.uid}
    assert dcmtk.find(world.b, "STUDY", keys).studies == {theirs.uid}


def test_a_contradiction_in_birth_date_or_sex_joins_nobody(world: World) -> None:
    cnp = national_number(530)
    theirs = Study("contradiction a", Patient("SP-530", birth_date="").also(NATIONAL_ISSUER, cnp))
    other = Study("contradiction b", Patient("PA-530", birth_date="19710101").also(NATIONAL_ISSUER, cnp))
    world.place([(world.a, theirs), (world.b, other)])
    world.region.consent(permit(NATIONAL_ISSUER, cnp))
    found = dcmtk.find(world.b, "STUDY", {"PatientID": "PA-530", "StudyInstanceUID": ""})
    assert found.studies == {other.uid}
    listed = world.hub.command("patients", "contradictions").stdout
    assert f"{NATIONAL_ISSUER}:{cnp}" in listed


def test_the_hub_is_told_names_as_they_read_in_every_character_set(world: World) -> None:
    studies = [
        Study(f"name {index}", Patient(f"SP-{620 + index}", name=name), attributes={"SpecificCharacterSet": written})
        for index, (written, name) in enumerate(CHARACTER_SETS.items())
    ]
    world.place([(world.a, one) for one in studies])
    eventually(lambda: set(CHARACTER_SETS.values()) <= world.names(), 30, "the hub knows the names")
