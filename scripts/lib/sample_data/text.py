"""Romanian text in the character sets that DICOM offers.

UTF-8 (ISO_IR 192) has every letter. ISO 8859-16, made for Romanian, has no Defined Term in DICOM (PS3.3
C.12.1.1.2), so an 8-bit object is ISO_IR 101 (ISO 8859-2), which has only the letters with a cedilla, Ş ş Ţ
ţ. Romanian practice before Unicode wrote these for Ș ș Ț ț, and so do we. The default repertoire has no
diacritics.
"""

import unicodedata

from sample_data.errors import SampleDataError
from sample_data.persons import DEFAULT_REPERTOIRE, LATIN_2, UTF_8

_CODECS = {UTF_8: "utf-8", LATIN_2: "iso8859-2", DEFAULT_REPERTOIRE: "ascii"}
_COMMA_TO_CEDILLA = str.maketrans("ȘșȚț", "ŞşŢţ")
_CEDILLA_TO_COMMA = str.maketrans("ŞşŢţ", "ȘșȚț")


def in_character_set(text: str, character_set: str) -> str:
    """Return `text` as an object of this SpecificCharacterSet writes it.

    Args:
        text: correct Romanian, letters with a comma below.
        character_set: one of `persons.UTF_8`, `LATIN_2`, `DEFAULT_REPERTOIRE`.

    Raises:
        SampleDataError: a character that the set has no form of.
    """
    if character_set == LATIN_2:
        text = text.translate(_COMMA_TO_CEDILLA)
    elif character_set == DEFAULT_REPERTOIRE:
        text = without_diacritics(text)
    try:
        text.encode(_CODECS[character_set])
    except UnicodeEncodeError as error:
        raise SampleDataError(f"{text!r} cannot be written in {character_set or 'the default repertoire'}") from error
    return text


def with_comma_below(text: str) -> str:
    """Undo what `in_character_set` did for ISO_IR 101: the cedilla forms become the correct letters."""
    return text.translate(_CEDILLA_TO_COMMA)


def without_diacritics(text: str) -> str:
    """Return the base letters, as people type them: Ștefănescu becomes Stefanescu."""
    return "".join(letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter))
