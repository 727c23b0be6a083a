"""HL7 v2 messages as they come from a hospital information system, and the acknowledgements they get.

Original acknowledgement mode (HL7 v2.5.1 chapter 2, §2.9.2): AA, the message was taken; AR, its type, version or
processing id is not for us; AE, something in it is wrong, with an ERR segment (§2.15.5) that says where. Texts of
errors name places in the message and never repeat what stands there: it may be a patient's name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import hl7

from usmed.domain.errors import PeerDataError

VERSIONS = re.compile(r"2\.(3|3\.1|4|5|5\.1|6|7|7\.1|8|8\.1|8\.2)")
TYPE = "ADT"
EVENTS = ("A01", "A04", "A08", "A40")
READ_SEGMENTS = ("MSH", "EVN", "PID", "MRG", "PV1")
"""The segments that anything is read from; the others, with whatever they carry, are left out before parsing."""

MAXIMUM_CONTROL_ID = 199
MAXIMUM_SEGMENTS = 2000

CHARACTER_SETS: Mapping[str, str] = {
    "ASCII": "ascii",
    "UNICODE UTF-8": "utf-8",
    **{f"8859/{n}": f"iso8859-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16)},
}
"""MSH-18 (HL7 table 0211) and how Python calls it. Each is a superset of ASCII, in which the header is read."""


class Acknowledgement(StrEnum):
    """MSA-1 (HL7 table 0008)."""

    ACCEPT = "AA"
    ERROR = "AE"
    REJECT = "AR"


class ErrorCode(StrEnum):
    """ERR-3 (HL7 table 0357)."""

    SEGMENT_SEQUENCE = "100"
    REQUIRED_FIELD = "101"
    DATA_TYPE = "102"
    TABLE_VALUE = "103"
    MESSAGE_TYPE = "200"
    EVENT_CODE = "201"
    PROCESSING_ID = "202"
    VERSION = "203"
    UNKNOWN_KEY = "204"
    INTERNAL = "207"


_CODE_TEXTS = {
    ErrorCode.SEGMENT_SEQUENCE: "Segment sequence error",
    ErrorCode.REQUIRED_FIELD: "Required field missing",
    ErrorCode.DATA_TYPE: "Data type error",
    ErrorCode.TABLE_VALUE: "Table value not found",
    ErrorCode.MESSAGE_TYPE: "Unsupported message type",
    ErrorCode.EVENT_CODE: "Unsupported event code",
    ErrorCode.PROCESSING_ID: "Unsupported processing id",
    ErrorCode.VERSION: "Unsupported version id",
    ErrorCode.UNKNOWN_KEY: "Unknown key identifier",
    ErrorCode.INTERNAL: "Application internal error",
}

_REJECTIONS = (
    ErrorCode.MESSAGE_TYPE, ErrorCode.EVENT_CODE, ErrorCode.PROCESSING_ID, ErrorCode.VERSION, ErrorCode.INTERNAL,
)  # fmt: skip


class MessageError(PeerDataError):
    """A message that is not taken.

    Attributes:
        code: ERR-3.
        location: ERR-2 (segment ID^sequence^field), empty if it is not about one place.
    """

    def __init__(self, code: ErrorCode, location: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.location = location

    @property
    def acknowledgement(self) -> Acknowledgement:
        """Return the answer (§2.9.2.2): rejected unread, or read and found wrong."""
        return Acknowledgement.REJECT if self.code in _REJECTIONS else Acknowledgement.ERROR


UNKNOWN = "\ufffd"
"""Stands for an escape that is not known here: left out of a number, it would make another one of it."""


@dataclass(frozen=True, slots=True)
class Header:
    """MSH as it came, each field as text of Latin-1, with its separators: what an acknowledgement repeats.

    Attributes:
        separators: MSH-1 and MSH-2: field, component, repetition, escape, subcomponent.
        fields: fields[n] is MSH-n; index 0 is not used.
    """

    separators: str
    fields: Sequence[str]

    def field(self, number: int) -> str:
        """Return MSH-number, empty if it is not there."""
        return self.fields[number] if number < len(self.fields) else ""

    def component(self, number: int, place: int) -> str:
        """Return one component of MSH-number."""
        parts = self.field(number).split(self.separators[1])
        return parts[place - 1].strip() if place <= len(parts) else ""

    @property
    def sender(self) -> str:
        """Return who sends: namespace of MSH-3 and of MSH-4, with `^` between."""
        return f"{self.component(3, 1)}^{self.component(4, 1)}"

    @property
    def control_id(self) -> str:
        """Return MSH-10."""
        return self.field(10)

    @property
    def event(self) -> str:
        """Return the trigger event, such as A01."""
        return self.component(9, 2)


def read_header(content: bytes) -> Header:
    """Read MSH, as far as an acknowledgement needs it.

    Raises:
        MessageError: there is none, or its separators are none.
    """
    line = re.split(rb"[\r\n]", content[:4096].lstrip(b"\r\n"), maxsplit=1)[0].decode("latin-1")
    separators = line[3:8]
    fault = MessageError(ErrorCode.SEGMENT_SEQUENCE, "", "the message does not begin with an MSH segment")
    if not line.startswith("MSH") or len(separators) < 5:
        raise fault
    field = separators[0]
    if len(set(separators)) < 5 or any(one.isalnum() or ord(one) <= 32 or ord(one) > 126 for one in separators):
        raise MessageError(ErrorCode.DATA_TYPE, "MSH^1^2", "MSH-1 and MSH-2 are not five different separators")
    fields = line.split(field)
    return Header(separators, ["", field, *fields[1:]])


class Message:
    """A message of a kind that is taken, decoded. Numbers of fields and components are HL7's, from 1."""

    def __init__(self, header: Header, segments: Sequence[hl7.Segment]) -> None:
        self.header = header
        self._segments = segments
        self._escape = header.separators[3]

    def groups(self) -> list[dict[str, hl7.Segment]]:
        """Return the message's patients: each PID with the segments behind it, and with those before the first.

        Of a segment that stands twice in one group, the first counts.
        """
        common: dict[str, hl7.Segment] = {}
        found: list[dict[str, hl7.Segment]] = []
        for segment in self._segments:
            name = str(segment[0])
            if name == "PID":
                found.append(dict(common))
            (found[-1] if found else common).setdefault(name, segment)
        return found

    def repetitions(self, segment: hl7.Segment | None, field: int) -> list[list[list[str]]]:
        """Return a field: its repetitions, each a list of components, each a list of subcomponents, unescaped.

        A field that is absent, empty or deleted (`""`) has no repetitions.
        """
        if segment is None or field >= len(segment):
            return []
        found = []
        for repetition in segment[field]:
            components = repetition if isinstance(repetition, hl7.Repetition) else [repetition]
            read = [
                [self._text(str(part)) for part in (one if isinstance(one, hl7.Component) else [one])]
                for one in components
            ]
            if any(any(parts) for parts in read):
                found.append(read)
        return found

    def text(self, segment: hl7.Segment | None, field: int, component: int = 1) -> str:
        """Return the first subcomponent of a component of a field's first repetition; empty if it is not there."""
        found = self.repetitions(segment, field)
        return part(found[0], component) if found else ""

    def _text(self, raw: str) -> str:
        """Unescape (§2.7), but for highlighting; what is not known becomes U+FFFD. Not by the library, which logs."""
        if raw.strip(" ") == '""':
            return ""
        if self._escape in raw:
            field, component, repetition, escape, subcomponent = tuple(self.header.separators)
            known = {"F": field, "S": component, "R": repetition, "E": escape, "T": subcomponent, "H": "", "N": ""}
            mark = re.escape(escape)
            # Cxxyy and Mxxyyzz switch character sets, and are no characters themselves.
            switch = re.compile(r"[CM][0-9A-Fa-f]{4,6}")
            raw = re.sub(
                f"{mark}([^{mark}]*){mark}",
                lambda match: "" if switch.fullmatch(match[1]) else known.get(match[1], UNKNOWN),
                raw,
            )
        return raw.strip(" ")


def part(components: Sequence[Sequence[str]], place: int, subcomponent: int = 1) -> str:
    """Return one component of a repetition, empty if it is not there."""
    if place > len(components) or subcomponent > len(components[place - 1]):
        return ""
    return components[place - 1][subcomponent - 1]


def read_message(content: bytes, header: Header, *, processing_id: str, character_set: str) -> Message:
    """Read a message whose header is known.

    Args:
        content: the bytes of the block.
        header: of `read_header`.
        processing_id: the MSH-11 that is taken: P, or T or D for a test.
        character_set: what a message without MSH-18 is written in (a key of `CHARACTER_SETS`).

    Raises:
        MessageError: it is not for us (AR), or wrong (AE).
    """
    _check_kind(header, processing_id)
    if not header.control_id or len(header.control_id) > MAXIMUM_CONTROL_ID:
        raise MessageError(ErrorCode.REQUIRED_FIELD, "MSH^1^10", f"MSH-10 has not 1 to {MAXIMUM_CONTROL_ID} characters")
    text = _decode(content, header, character_set)
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    if len(lines) > MAXIMUM_SEGMENTS:
        raise MessageError(ErrorCode.SEGMENT_SEQUENCE, "", f"more than {MAXIMUM_SEGMENTS} segments")
    if any(not re.match(r"[A-Z][A-Z0-9]{2}", line) or line[3:4] not in ("", header.separators[0]) for line in lines):
        raise MessageError(ErrorCode.SEGMENT_SEQUENCE, "", "a line does not begin with the name of a segment")
    read = [line for line in lines if line[:3] in READ_SEGMENTS]
    try:
        parsed = hl7.parse("\r".join(read))
    except (hl7.HL7Exception, ValueError, IndexError, AssertionError) as error:
        raise MessageError(ErrorCode.SEGMENT_SEQUENCE, "", "the message cannot be parsed") from error
    # A line that is a name alone is no segment of fields.
    return Message(header, [one for one in parsed if isinstance(one, hl7.Segment)])


def _check_kind(header: Header, processing_id: str) -> None:
    if header.component(9, 1) != TYPE:
        raise MessageError(ErrorCode.MESSAGE_TYPE, "MSH^1^9^1^1", f"only {TYPE} messages are taken")
    if header.event not in EVENTS:
        raise MessageError(ErrorCode.EVENT_CODE, "MSH^1^9^1^2", f"only {', '.join(EVENTS)} are taken")
    if header.component(11, 1) != processing_id:
        raise MessageError(ErrorCode.PROCESSING_ID, "MSH^1^11", f"only processing id {processing_id} is taken")
    if not VERSIONS.fullmatch(header.component(12, 1)):
        raise MessageError(ErrorCode.VERSION, "MSH^1^12", "only versions 2.3 to 2.8.2 are taken")


def _decode(content: bytes, header: Header, character_set: str) -> str:
    named = [one.strip() for one in header.field(18).split(header.separators[2])]
    # The first is what the message begins in; any further is switched to by escapes (§2.7.2), which nobody reads here.
    name = named[0] or character_set
    if name not in CHARACTER_SETS:
        shown = re.sub(r"[^A-Za-z0-9/ .-]", "?", name[:32])
        raise MessageError(ErrorCode.TABLE_VALUE, "MSH^1^18", f"the character set {shown!r} is not known")
    try:
        text = content.decode(CHARACTER_SETS[name])
    except UnicodeDecodeError as error:
        raise MessageError(ErrorCode.DATA_TYPE, "MSH^1^18", f"the message is not written in {name}") from error
    if re.search(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]", text):
        raise MessageError(ErrorCode.DATA_TYPE, "", "the message holds control characters")
    return text


def acknowledge(header: Header | None, fault: MessageError | None, *, own_id: str, at: datetime) -> bytes:
    """Return the acknowledgement of a message (§2.9.2, ACK structure §2.13.1).

    Args:
        header: the message's; None if it had none that could be read.
        fault: why it is not taken; None if it is.
        own_id: MSH-10 of the acknowledgement.
        at: now, aware.
    """
    separators = header.separators if header else "|^~\\&"
    field, component = separators[0], separators[1]

    def of(number: int) -> str:
        return header.field(number) if header else ""

    kind = component.join(["ACK", header.event, "ACK"] if header and header.event else ["ACK"])
    stamp = at.strftime("%Y%m%d%H%M%S%z")
    code = fault.acknowledgement if fault else Acknowledgement.ACCEPT
    segments = [
        ["MSH", separators[1:], of(5), of(6), of(3), of(4), stamp, "", kind, own_id, of(11) or "P", of(12) or "2.5.1"],
        ["MSA", code.value, of(10)],
    ]
    if fault:
        # ERL: segment^sequence^field^repetition^component, with the sender's own separator.
        location = fault.location.replace("^", component)
        coded = component.join([fault.code.value, _CODE_TEXTS[fault.code], "HL70357"])
        mark = separators[3]
        text = "".join(f"{mark}X{ord(one):02X}{mark}" if one in separators else one for one in str(fault))
        segments.append(["ERR", "", location, coded, "E", "", "", "", text])
    return "".join(field.join(one) + "\r" for one in segments).encode("latin-1", "replace")
