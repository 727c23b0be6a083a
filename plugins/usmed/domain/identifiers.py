"""Who is meant: patient identifiers, and the identifiers by which Orthanc names its resources.

Two identifiers are the same only when issuer and value are equal character by character. Nothing here folds
case, strips leading zeros or reads wildcards: two patients whose numbers look alike stay two patients.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from stdnum.exceptions import ValidationError
from stdnum.ro import cnp

from usmed.domain.errors import PeerDataError

MAXIMUM_LENGTH = 64
"""Longest value of VR LO, in characters (PS3.5 §6.2)."""

WILDCARDS = frozenset("*?")
"""The wild card characters of C-FIND (PS3.4 C.2.2.2.4)."""


@dataclass(frozen=True, order=True, slots=True)
class PatientIdentifier:
    """A patient's number together with who assigned it (PatientID with IssuerOfPatientID; an IHE PIX identifier)."""

    issuer: str
    value: str

    def __str__(self) -> str:
        return f"{self.issuer}:{self.value}"


def patient_identifier(issuer: object, value: object) -> PatientIdentifier:
    """Make an identifier from what came from outside.

    Leading and trailing spaces are padding of VR LO and carry no meaning (PS3.5 §6.2); everything else counts.

    Raises:
        PeerDataError: empty, over 64 characters, a control character, or a backslash (it separates values).
    """
    parts = []
    for name, part in (("issuer", issuer), ("value", value)):
        if not isinstance(part, str):
            raise PeerDataError(f"a patient identifier's {name} is not text")
        text = part.strip(" ")
        if not text or len(text) > MAXIMUM_LENGTH:
            raise PeerDataError(f"a patient identifier's {name} has {len(text)} characters, not 1 to {MAXIMUM_LENGTH}")
        if _FORBIDDEN.search(text):
            raise PeerDataError(f"a patient identifier's {name} holds a character that VR LO forbids")
        parts.append(text)
    return PatientIdentifier(*parts)


# Control characters, the backslash, and halves of characters: `is_text`, for a whole value at once.
_FORBIDDEN = re.compile("[\\x00-\\x1f\\x7f\\\\\\ud800-\\udfff]")


def is_text(character: str) -> bool:
    """Tell whether a character can stand in a text value of DICOM: no control character, none that is half a one."""
    code = ord(character)
    # A lone surrogate is half a character: JSON can escape one, UTF-8 cannot carry it.
    return code >= 32 and code != 127 and not 0xD800 <= code <= 0xDFFF


@dataclass(frozen=True, slots=True)
class NationalNumber:
    """The region's national number: its issuer, and which of stdnum's checks knows it (`ro.cnp`)."""

    issuer: str
    kind: str = "ro.cnp"

    def accepts(self, value: str, birth_date: str = "", sex: str = "") -> bool:
        """Tell whether `value` is a valid national number that agrees with the demographics.

        Args:
            value: the number.
            birth_date: DICOM DA (YYYYMMDD), or empty when unknown.
            sex: DICOM PatientSex (M, F, O), or empty when unknown.
        """
        return _is_cnp(value.strip(" "), birth_date, sex)


@lru_cache(maxsize=4096)
def _is_cnp(text: str, birth_date: str, sex: str) -> bool:
    """Remembered, because every lookup asks, often about the same patients."""
    try:
        # compact() would drop spaces inside; a number that needs it is not the number as written.
        if cnp.validate(text) != text:
            return False
        born = cnp.get_birth_date(text)
    except ValidationError:
        return False
    # The first digit gives sex and century; 7, 8 (residents) leave the century open, 9 both.
    known = slice(2 if text[0] in "789" else 0, None)
    if birth_date and born.strftime("%Y%m%d")[known] != birth_date[known]:
        return False
    return sex not in ("M", "F") or text[0] == "9" or sex == ("M" if int(text[0]) % 2 else "F")


def is_single_value(value: str) -> bool:
    """Tell whether a C-FIND key names exactly one value: not universal, no wild card, no list (PS3.4 C.2.2.2)."""
    return bool(value.strip(" ")) and "\\" not in value and not WILDCARDS.intersection(value)


def is_uid(value: object) -> bool:
    """Tell whether `value` is text of the form of a UID (PS3.5 §9.1): digits and dots, at most 64."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAXIMUM_LENGTH
        and all(part.isascii() and part.isdigit() for part in value.split("."))
    )


def orthanc_id(*dicom_identifiers: str) -> str:
    """Return the identifier that Orthanc derives for a resource.

    Args:
        dicom_identifiers: PatientID, then as far down as the level asks: StudyInstanceUID, SeriesInstanceUID,
            SOPInstanceUID.

    Source: Orthanc Book, "Orthanc identifiers": SHA-1 over the values joined by `|`, in five groups of eight.
    """
    # Orthanc cuts the padding behind a value, but a leading space makes it another patient.
    text = "|".join(part.rstrip(" \0") for part in dicom_identifiers)
    # SHA-1 is Orthanc's choice of a name, not a protection.
    digest = hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest()
    return "-".join(digest[i : i + 8] for i in range(0, 40, 8))


@dataclass(frozen=True, slots=True)
class Naming:
    """How this hospital reads a bare PatientID: the issuer of its own numbers, and the national number."""

    own_issuer: str
    national: NationalNumber | None

    def identify(self, value: str, issuer: str = "", birth_date: str = "", sex: str = "") -> PatientIdentifier:
        """Qualify a PatientID as it stands in this hospital's DICOM.

        Args:
            value: PatientID.
            issuer: IssuerOfPatientID if the object or query has one; without it the number is the national
                number when it is a valid one that fits the demographics, else one of the hospital's own.
            birth_date, sex: PatientBirthDate and PatientSex as DICOM writes them, or empty.

        Raises:
            PeerDataError: no usable identifier.
        """
        if issuer.strip(" "):
            return patient_identifier(issuer, value)
        if self.national is not None and self.national.accepts(value, birth_date, sex):
            return patient_identifier(self.national.issuer, value)
        return patient_identifier(self.own_issuer, value)

    def local_patient_id(self, identifiers: Iterable[PatientIdentifier]) -> str:
        """Choose the PatientID under which this hospital knows, or shall file, the person.

        The hospital's own number comes first, then the national number; a number that only a foreign hospital
        assigned is written with its issuer, so that it can never equal one of ours.

        Raises:
            PeerDataError: no identifier at all.
        """
        ranked = sorted(identifiers, key=self._rank)
        if not ranked:
            raise PeerDataError("no identifier to file the patient under")
        first = ranked[0]
        if self._rank(first)[0] < 2:
            return first.value
        qualified = f"{first.value}@{first.issuer}"
        if len(qualified) > MAXIMUM_LENGTH:
            raise PeerDataError("the foreign number with its issuer is longer than PatientID may be")
        return qualified

    def _rank(self, identifier: PatientIdentifier) -> tuple[int, str, str]:
        if identifier.issuer == self.own_issuer:
            return (0, identifier.issuer, identifier.value)
        if self.national is not None and identifier.issuer == self.national.issuer:
            return (1, identifier.issuer, identifier.value)
        return (2, identifier.issuer, identifier.value)
