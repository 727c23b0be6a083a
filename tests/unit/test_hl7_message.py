"""Messages and acknowledgements: accepted, in error or rejected exactly as HL7 v2.5.1 chapter 2 has it."""

from datetime import UTC, datetime
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.hl7 import adt, read_ack
from usmed.domain.hl7_message import (
    CHARACTER_SETS,
    ErrorCode,
    Header,
    Message,
    MessageError,
    acknowledge,
    read_header,
    read_message,
)

AT = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)


def read(content: bytes, character_set: str = "UNICODE UTF-8") -> Message:
    return read_message(content, read_header(content), processing_id="P", character_set=character_set)


def answer(content: bytes, character_set: str = "UNICODE UTF-8") -> tuple[str, str, str, str]:
    """Return MSA-1, MSA-2, the error's code and place, as a node would answer."""
    header: Header | None = None
    fault: MessageError | None = None
    try:
        header = read_header(content)
        read_message(content, header, processing_id="P", character_set=character_set)
    except MessageError as error:
        fault = error
    ack = read_ack(acknowledge(header, fault, own_id="9", at=AT))
    return ack.code, ack.control_id, ack.error, ack.place


CASES = [
    (adt(), ("AA", "1", "", "")),
    (adt("A04"), ("AA", "1", "", "")),
    (adt(msh={12: "2.3"}), ("AA", "1", "", "")),
    (adt(msh={12: "2.5.1^ROU"}), ("AA", "1", "", "")),
    (adt(msh={9: "ADT^A08"}), ("AA", "1", "", "")),
    (adt().replace(b"\r", b"\r\n"), ("AA", "1", "", "")),
    # not for us
    (adt(msh={9: "ORU^R01^ORU_R01"}), ("AR", "1", "200", "MSH^1^9^1^1")),
    (adt(msh={9: ""}), ("AR", "1", "200", "MSH^1^9^1^1")),
    (adt("A03"), ("AR", "1", "201", "MSH^1^9^1^2")),
    (adt(msh={11: "T"}), ("AR", "1", "202", "MSH^1^11")),
    (adt(msh={11: ""}), ("AR", "1", "202", "MSH^1^11")),
    (adt(msh={12: "3.0"}), ("AR", "1", "203", "MSH^1^12")),
    (adt(msh={12: ""}), ("AR", "1", "203", "MSH^1^12")),
    (adt(msh={12: "2.5.1.9"}), ("AR", "1", "203", "MSH^1^12")),
    # rejected before anything else is said
    (adt("A03", msh={10: "", 18: "KLINGON"}), ("AR", "", "201", "MSH^1^9^1^2")),
    # wrong
    (b"", ("AE", "", "100", "")),
    (b"MSH", ("AE", "", "100", "")),
    (b"PID|1\r", ("AE", "", "100", "")),
    (b"MSH|||||\r", ("AE", "", "102", "MSH^1^2")),
    (adt(control_id=""), ("AE", "", "101", "MSH^1^10")),
    (adt(control_id="x" * 200), ("AE", "x" * 200, "101", "MSH^1^10")),
    (adt(msh={18: "KLINGON"}), ("AE", "1", "103", "MSH^1^18")),
    (adt(msh={18: "ASCII"}), ("AE", "1", "102", "MSH^1^18")),
    (adt(encoding="iso8859-2", pid={5: "Șt".replace("Ș", "Š")}), ("AE", "1", "102", "MSH^1^18")),
    (adt(pid={5: "A\x0bB"}), ("AE", "1", "102", "")),
    (adt(pid={5: "A\x1cB"}), ("AE", "1", "102", "")),
    (adt(pid={5: "A\x00B"}), ("AE", "1", "102", "")),
    (adt() + b"nonsense\r", ("AE", "1", "100", "")),
]


@pytest.mark.parametrize(("content", "expected"), CASES)
def test_the_acknowledgement_is_the_one_of_the_standard(content: bytes, expected: tuple[str, str, str, str]) -> None:
    assert answer(content) == expected


def test_an_acknowledgement_goes_back_to_its_sender_with_the_senders_separators() -> None:
    content = adt("A03").replace(b"^", b"!")
    header = read_header(content)
    fault = MessageError(ErrorCode.EVENT_CODE, "MSH^1^9^1^2", "no! never | so")
    lines = acknowledge(header, fault, own_id="N1", at=AT).decode("latin-1").split("\r")
    assert lines[0] == "MSH|!~\\&|USMED|SPIRIDON|HIS|SPIRIDON|20261122103000+0000||ACK!A03!ACK|N1|P|2.5.1"
    assert lines[1] == "MSA|AR|1"
    assert lines[2] == "ERR||MSH!1!9!1!2|201!Unsupported event code!HL70357|E||||no\\X21\\ never \\X7C\\ so"
    assert lines[3:] == [""]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("UNICODE UTF-8", "Țîrlea^Ștefan"),
        ("8859/2", "Ţîrlea^Ştefan"),
        ("8859/16", "Țîrlea^Ștefan"),
        ("8859/1", "Müller^Zoë"),
        ("ASCII", "Tirlea^Stefan"),
        ("", "Țîrlea^Ștefan"),
    ],
)
def test_names_come_in_the_character_set_that_the_message_says(name: str, text: str) -> None:
    encoding = CHARACTER_SETS.get(name, "utf-8")
    message = read(adt(msh={18: name}, pid={5: text}, encoding=encoding))
    pid = message.groups()[0]["PID"]
    assert [part[0] for part in message.repetitions(pid, 5)[0]] == text.split("^")


def test_without_a_character_set_it_is_the_one_that_the_hospital_set() -> None:
    content = adt(msh={18: ""}, pid={5: "Ţîrlea"}, encoding="iso8859-2")
    assert answer(content)[0] == "AE"
    message = read(content, "8859/2")
    assert message.text(message.groups()[0]["PID"], 5) == "Ţîrlea"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("", []),
        ('""', []),
        ("A", [[["A"]]]),
        ("A^B", [[["A"], ["B"]]]),
        ("A&B", [[["A", "B"]]]),
        ("A^B&C~D", [[["A"], ["B", "C"]], [["D"]]]),
        ("A~~B", [[["A"]], [["B"]]]),
        ("^^", []),
        (r"A\F\B\S\C\R\D\E\E\T\F", [[["A|B^C~D\\E&F"]]]),
        # highlighting and characters of other sets are left out
        (r"\H\A\N\ \C2842\B", [[["A B"]]]),
        ("A\\", [[["A\\"]]]),
    ],
)
def test_fields(field: str, expected: list[list[list[str]]]) -> None:
    message = read(adt(pid={5: field}))
    assert message.repetitions(message.groups()[0]["PID"], 5) == expected


def test_segments_that_nobody_reads_are_not_even_parsed() -> None:
    message = read(adt(more=("OBX|1|ED|PDF||" + "^" * 3000, "ZXX|1")))
    assert set(message.groups()[0]) == {"MSH", "EVN", "PID", "PV1"}


@given(st.binary(max_size=400), st.integers(0, 200))
def test_whatever_comes_there_is_an_answer(noise: bytes, at: int) -> None:
    good = adt()
    for content in (noise, good[:at] + noise + good[at:], good[:at], good[:at] + noise):
        assert answer(content)[0] in ("AA", "AE", "AR")


def test_errors_repeat_nothing_of_the_patient() -> None:
    name = "Popescu"
    for fields, content in product(({5: f"{name}\x07"}, {5: name, 3: "\x02"}), ("UNICODE UTF-8", "ASCII", "X")):
        with pytest.raises(MessageError) as refusal:
            read(adt(msh={18: content}, pid=fields))
        assert name not in str(refusal.value)
