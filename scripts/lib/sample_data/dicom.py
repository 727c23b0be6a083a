"""What every object of a sample study has in common: its UIDs and its patient, study and series modules."""

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from sample_data.persons import HOSPITALS, NATIONAL_ISSUER, Study
from sample_data.text import in_character_set

_STUDY_TIME = "101500"


def uid(*entropy: str) -> UID:
    """Derive a UID: the same words give the same UID at every run."""
    return generate_uid(entropy_srcs=["USMED sample data", *entropy])


def study_instance_uid(study: Study) -> UID:
    """Return the study's StudyInstanceUID."""
    return uid(study.key)


def describe(dataset: Dataset, study: Study, *, modality: str, series_number: int, series_description: str) -> None:
    """Set the attributes that say whose object this is and where it belongs.

    Args:
        dataset: the object; SOPClassUID, the instance and its content are the caller's.
        study: what it is part of.
        modality: Modality.
        series_number: SeriesNumber; there is one series per number.
        series_description: SeriesDescription, in Romanian.

    Raises:
        SampleDataError: a text has no form in the study's character set.
    """

    def text(value: str) -> str:
        return in_character_set(value, study.character_set)

    person, hospital = study.person, HOSPITALS[study.hospital]
    day = f"{study.study_date:%Y%m%d}"
    born = study.birth_date or person.birth_date
    if study.character_set:
        dataset.SpecificCharacterSet = study.character_set

    dataset.PatientName = text(person.name)
    dataset.PatientID = study.patient_id
    if study.issuer:
        dataset.IssuerOfPatientID = study.issuer
    dataset.PatientBirthDate = f"{born:%Y%m%d}"
    dataset.PatientSex = person.sex
    dataset.PatientComments = text("Persoană fictivă, date de demonstrație")
    if study.states_cnp:
        other = Dataset()
        other.PatientID = person.cnp
        other.IssuerOfPatientID = NATIONAL_ISSUER
        other.TypeOfPatientID = "TEXT"
        dataset.OtherPatientIDsSequence = [other]

    dataset.StudyInstanceUID = study_instance_uid(study)
    dataset.StudyDate = dataset.SeriesDate = day
    dataset.StudyTime = dataset.SeriesTime = _STUDY_TIME
    dataset.StudyID = study.accession_number
    dataset.AccessionNumber = study.accession_number
    dataset.ReferringPhysicianName = text("Văleanu^Radu^^Dr.")
    dataset.StudyDescription = text(study.description)
    years = (
        study.study_date.year - born.year - ((study.study_date.month, study.study_date.day) < (born.month, born.day))
    )
    dataset.PatientAge = f"{years:03}Y"

    dataset.Modality = modality
    dataset.SeriesInstanceUID = uid(study.key, "series", str(series_number))
    dataset.SeriesNumber = series_number
    dataset.SeriesDescription = text(series_description)
    if study.body_part:
        dataset.BodyPartExamined = study.body_part

    dataset.InstitutionName = text(hospital.name)


def name_instance(dataset: Dataset, study: Study, instance: str, transfer_syntax: UID = ExplicitVRLittleEndian) -> None:
    """Set SOPInstanceUID and the file meta information (PS3.10 7.1).

    Args:
        dataset: the object, with its SOPClassUID.
        study: what it is part of.
        instance: names the object within the study.
        transfer_syntax: how its pixel data are encoded.
    """
    dataset.SOPInstanceUID = uid(study.key, "instance", instance)
    # NEMA's files carry a TIFF header in the preamble (PS3.10 7.1), with offsets that are no longer right.
    dataset.preamble = bytes(128)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
