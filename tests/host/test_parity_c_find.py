"""C-FIND: with the plugin a lookup of local studies answers as without it."""

from collections.abc import Callable

import pytest

from host.archive_data import uid
from host.conftest import Found, Pair, in_any_order

STUDY_KEYS = ("PatientName", "PatientID", "StudyDate", "StudyTime", "StudyDescription", "ModalitiesInStudy",
              "StudyInstanceUID", "AccessionNumber")  # fmt: skip

QUERIES: list[tuple[str | None, tuple[str, ...]]] = [
    # levels, universal matching
    ("PATIENT", ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")),
    ("STUDY", STUDY_KEYS),
    ("SERIES", ("SeriesInstanceUID", "Modality", "SeriesDescription", "StudyInstanceUID")),
    ("IMAGE", ("SOPInstanceUID", "InstanceNumber", "SOPClassUID")),
    ("STUDY", ()),
    # one patient, and the ones whose numbers look alike
    ("PATIENT", ("PatientID=1234", "PatientName")),
    ("STUDY", ("PatientID=1234", *STUDY_KEYS[2:])),
    ("STUDY", ("PatientID=_1234", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=%1234", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=01234", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=ab-12", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=AB-12", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=Ab-12", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=ID 77", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=77", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=88", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=nobody", "PatientName", "StudyInstanceUID")),
    ("STUDY", ("PatientID=2800101221145", "PatientName", "StudyInstanceUID", "StudyDate")),
    ("SERIES", ("PatientID=1234", "SeriesInstanceUID", "Modality")),
    ("IMAGE", ("PatientID=1234", "SOPInstanceUID", "SeriesInstanceUID")),
    # names: any case, patterns
    ("PATIENT", ("PatientName=Popescu^Ana", "PatientID")),
    ("PATIENT", ("PatientName=POPESCU^ANA", "PatientID")),
    ("PATIENT", ("PatientName=popescu*", "PatientID")),
    ("PATIENT", ("PatientName=Pop?scu^*", "PatientID")),
    ("STUDY", ("PatientName=popescu^ana", "PatientID=1234", "StudyInstanceUID")),
    ("STUDY", ("PatientName=popescu*", "PatientID=_1234", "StudyInstanceUID")),
    ("STUDY", ("PatientName=popescu*", "AccessionNumber=a1", "StudyInstanceUID")),
    ("STUDY", ("PatientName=popescu*", "AccessionNumber=A1", "StudyInstanceUID")),
    ("STUDY", ("PatientName=doe^j*", "StudyDescription=cap*", "StudyInstanceUID")),
    ("STUDY", ("ReferringPhysicianName=REF*", "StudyInstanceUID")),
    # patterns
    ("STUDY", ("PatientID=12*", "StudyInstanceUID")),
    ("STUDY", ("PatientID=?1234", "StudyInstanceUID", "PatientID")),
    ("STUDY", ("PatientID=*", "StudyInstanceUID")),
    ("STUDY", ("AccessionNumber=A?", "StudyInstanceUID")),
    ("STUDY", ("AccessionNumber=A*1", "StudyInstanceUID")),
    ("STUDY", ("StudyDescription=*contrast", "StudyInstanceUID")),
    # lists
    ("STUDY", ("PatientID=1234\\79", "StudyInstanceUID", "PatientName")),
    ("STUDY", (f"StudyInstanceUID={uid(1)}\\{uid(6)}\\{uid(99)}", "PatientID")),
    ("SERIES", (f"SeriesInstanceUID={uid(1, 2)}\\{uid(8, 1)}", "Modality")),
    # ranges
    ("STUDY", ("StudyDate=20200101-20201231", "StudyInstanceUID")),
    ("STUDY", ("StudyDate=-20180505", "StudyInstanceUID")),
    ("STUDY", ("StudyDate=20230101-", "StudyInstanceUID")),
    ("STUDY", ("StudyDate=20200101", "StudyInstanceUID")),
    ("STUDY", ("StudyTime=100000-120000", "StudyInstanceUID")),
    ("STUDY", ("StudyDate=20240101-20240131", "PatientID=P-1", "StudyInstanceUID")),
    # one study
    ("STUDY", (f"StudyInstanceUID={uid(8)}", "PatientName", "PatientID", "ModalitiesInStudy")),
    ("SERIES", (f"StudyInstanceUID={uid(8)}", "SeriesInstanceUID", "Modality", "SeriesNumber")),
    ("IMAGE", (f"StudyInstanceUID={uid(1)}", f"SeriesInstanceUID={uid(1, 1)}", "SOPInstanceUID", "InstanceNumber")),
    ("IMAGE", (f"SOPInstanceUID={uid(1, 1, 2)}", "InstanceNumber")),
    ("STUDY", ("AccessionNumber=A1", "PatientID", "StudyInstanceUID")),
    ("STUDY", ("AccessionNumber=A22", "PatientID", "StudyInstanceUID")),
    # what Orthanc computes
    ("PATIENT", ("PatientID=1234", "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries",
                 "NumberOfPatientRelatedInstances")),
    ("STUDY", ("PatientID=1234", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "SOPClassesInStudy")),
    ("SERIES", (f"StudyInstanceUID={uid(1)}", "NumberOfSeriesRelatedInstances", "SeriesNumber")),
    ("STUDY", ("ModalitiesInStudy=PT", "StudyInstanceUID", "PatientID")),
    ("STUDY", ("ModalitiesInStudy=CT\\MR", "StudyInstanceUID")),
    ("STUDY", ("ModalitiesInStudy=C*", "StudyInstanceUID")),
    ("STUDY", ("ModalitiesInStudy=ct", "StudyInstanceUID")),
    ("STUDY", ("TimezoneOffsetFromUTC", "StudyInstanceUID", "PatientID=1234")),
    ("STUDY", ("SpecificCharacterSet", "StudyInstanceUID", "PatientID=ab-12")),
    ("SERIES", ("Modality=MR", "SeriesInstanceUID", "BodyPartExamined", "SeriesDate")),
    # attributes of another level, attributes that no index holds, values of other kinds
    ("STUDY", ("Modality", "SeriesDescription", "StudyInstanceUID", "PatientID=1234")),
    ("STUDY", ("PatientSex=F", "StudyInstanceUID")),
    ("PATIENT", ("StudyDate", "PatientID=1234")),
    ("SERIES", ("SliceThickness", "ImageType", "SeriesInstanceUID", "PatientID=1234")),
    ("IMAGE", ("Rows", "Columns", "FrameIncrementPointer", "SOPInstanceUID", f"StudyInstanceUID={uid(1)}")),
    ("IMAGE", ("SliceThickness=2.5", "SOPInstanceUID", f"StudyInstanceUID={uid(1)}")),
    ("STUDY", ("PatientComments", "InstitutionName", "IssuerOfPatientID", "PatientID=83")),
    ("STUDY", ("IssuerOfPatientID=NODE", "PatientID=83", "StudyInstanceUID")),
    ("STUDY", ("IssuerOfPatientID=OTHER", "PatientID=83", "StudyInstanceUID")),
    ("STUDY", ("PatientComments=a comment", "StudyInstanceUID")),
    ("STUDY", ("StudyID", "PatientID=77", "StudyDate")),
    ("STUDY", ("PatientBirthDate", "PatientID=84", "StudyDescription")),
    # sequences, private and unknown elements
    ("STUDY", ("RequestAttributesSequence", "PatientID=82", "StudyInstanceUID")),
    ("STUDY", ("ProcedureCodeSequence[0].CodeValue", "PatientID=82")),
    ("STUDY", ("OtherPatientIDsSequence", "PatientID=83")),
    ("STUDY", ("0029,0010=USMED TEST", "0029,1010", "PatientID=89")),
    ("STUDY", ("0029,1010", "PatientID=89")),
    ("STUDY", ("5533,0011", "PatientID=1234")),
    ("STUDY", ("0008,9999", "PatientID=1234")),
    # other spellings of a level
    ("study", ("PatientID=1234",)),
    ("STUDIES", ("PatientID=1234",)),
    ("INSTANCE", ("PatientID=1234", "SOPInstanceUID")),
    # what is no lookup
    ("FOO", ("PatientID=1234",)),
    (None, ("PatientID=1234",)),
    ("STUDY", ("StudyDate=yesterday", "StudyInstanceUID")),
    ("STUDY", ("StudyInstanceUID=not a uid", "PatientID")),
    ("STUDY", ("0008,0000=5", "PatientID=1234")),
    ("STUDY", ("PatientID=86", "PatientName")),
]  # fmt: skip


COUNTS: dict[tuple[str | None, tuple[str, ...]], int] = {}


def same(plain: Found, node: Found) -> None:
    assert node.status == plain.status
    assert in_any_order(node.answers) == in_any_order(plain.answers)


@pytest.mark.parametrize(("level", "keys"), QUERIES, ids=lambda one: str(one)[:70])
def test_a_lookup_answers_as_without_the_plugin(
    level: str | None, keys: tuple[str, ...], pair: Pair, find: Callable[..., Found]
) -> None:
    plain, node = (find(one, level, *keys) for one in pair)
    same(plain, node)
    COUNTS[level, keys] = len(node.answers)


def test_the_queries_found_something() -> None:
    """Two empty answers are alike too."""
    if len(COUNTS) < len(QUERIES):
        pytest.skip("only some of the queries were run")
    assert sum(count > 0 for count in COUNTS.values()) > 65
    assert max(COUNTS.values()) > 30


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller*"),
        ("ISO_IR 101", "Ştefănescu*"),
        ("ISO_IR 101", "ştefănescu^ţuţa"),
        ("ISO_IR 192", "Ștefănescu*"),
        ("ISO_IR 192", "Ştefănescu*"),
        ("ISO_IR 192", "ștefănescu^ȚUȚA"),
        ("ISO_IR 192", "王*"),
        ("ISO_IR 144", "Иванов*"),
        ("ISO_IR 101", "Brânzei*"),
    ],
)
def test_names_in_the_queries_own_character_set(
    charset: str, name: str, pair: Pair, find: Callable[..., Found]
) -> None:
    codec = {"ISO_IR 100": "latin-1", "ISO_IR 101": "iso8859-2", "ISO_IR 144": "iso8859-5", "ISO_IR 192": "utf-8"}[
        charset
    ]
    keys = (f"SpecificCharacterSet={charset}", b"PatientName=" + name.encode(codec), "PatientID", "StudyInstanceUID")
    plain, node = (find(one, "STUDY", *keys) for one in pair)
    same(plain, node)
    assert plain.answers


def test_a_name_without_a_character_set_is_read_as_the_archive_is_set(pair: Pair, find: Callable[..., Found]) -> None:
    for name in ("Müller*", "Ștefănescu*"):
        same(*(find(one, "STUDY", b"PatientName=" + name.encode(), "PatientID") for one in pair))
        same(*(find(one, "STUDY", b"PatientName=" + name.encode("iso8859-2", "replace"), "PatientID") for one in pair))


def test_a_number_with_diacritics(pair: Pair, find: Callable[..., Found]) -> None:
    for charset, codec in (("ISO_IR 100", "latin-1"), ("ISO_IR 192", "utf-8")):
        keys = (f"SpecificCharacterSet={charset}", b"PatientID=" + "Müller-1".encode(codec), "StudyInstanceUID")
        plain, node = (find(one, "STUDY", *keys) for one in pair)
        same(plain, node)
        assert len(node.answers) == 1


@pytest.mark.parametrize("model", ["-P", "-S", "-O", "-W"])
def test_every_information_model(model: str, pair: Pair, find: Callable[..., Found]) -> None:
    for level in ("PATIENT", "STUDY", "SERIES"):
        same(*(find(one, level, "PatientID=1234", "StudyInstanceUID", model=model) for one in pair))


def test_a_caller_that_is_not_listed_is_refused(pair: Pair, find: Callable[..., Found]) -> None:
    plain, node = (find(one, "STUDY", "PatientID=1234", aet="STRANGER") for one in pair)
    same(plain, node)
    assert plain.status != "Success"


def test_what_differs_on_purpose(pair: Pair, find: Callable[..., Found]) -> None:
    """PS3.4 C.4.1.1.3.2: Orthanc leaves both empty when they are asked for; here they tell where a study is."""
    keys = ("InstanceAvailability", "RetrieveAETitle", "PatientID=1234")
    plain, node = (find(one, "STUDY", *keys).answers[0] for one in pair)
    assert (plain["(0008,0054)"], plain["(0008,0056)"]) == (("AE", "''"), ("CS", "''"))
    assert (node["(0008,0054)"], node["(0008,0056)"]) == (("AE", "'ARCHIVE'"), ("CS", "'ONLINE'"))
    assert len(find(pair.node, "STUDY", "InstanceAvailability=ONLINE", "PatientID=1234").answers) == 2
    assert find(pair.node, "STUDY", "InstanceAvailability=NEARLINE", "PatientID=1234").answers == []
    assert find(pair.node, "STUDY", "RetrieveAETitle=ELSEWHERE", "PatientID=1234").answers == []


def test_other_settings_of_orthanc(other_pair: Pair, find: Callable[..., Found]) -> None:
    """CaseSensitivePN and DefaultEncoding."""
    for name in ("Popescu^Ana", "popescu^ana", "POPESCU^ANA", "popescu*", "Popescu^D*"):
        same(*(find(one, "STUDY", f"PatientName={name}", "PatientID") for one in other_pair))
    for number in ("1234", "Müller-1", "ID 77", "AB-12"):
        key = b"PatientID=" + number.encode("latin-1")
        plain, node = (find(one, "STUDY", key, "PatientName", "StudyDescription") for one in other_pair)
        same(plain, node)
        assert node.answers[0]["(0008,0005)"] == ("CS", "'ISO_IR 100'")
