"""Where one HL7 message ends and the next begins on a line: MLLP blocks, `<VT> content <FS><CR>`.

Source: HL7 "Transport Specification: MLLP, Release 1" §3. What a sender does wrong costs that sender one message, and
never the next one: a block begins anew where a message header follows a <VT>.
"""

from dataclasses import dataclass

START, END = b"\x0b", b"\x1c\r"
HEAD_BYTES = 4096
"""How much is kept of a block that is too large: enough for its MSH segment, which the acknowledgement needs."""

_BEGUN_ANEW = START + b"MSH"


@dataclass(frozen=True, slots=True)
class Whole:
    """The content of a block."""

    content: bytes


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A block that was larger than allowed; its beginning."""

    head: bytes


@dataclass(frozen=True, slots=True)
class Stray:
    """Bytes that belong to no whole block: before the first <VT>, or of a block that was begun anew before its end."""

    size_bytes: int


type Block = Whole | TooLarge | Stray


class Blocks:
    """Takes bytes as they come, and gives blocks.

    Args:
        limit_bytes: the largest content; of a larger one nothing but its head is ever held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._received = bytearray()
        self._inside = False
        self._head: bytes | None = None

    @property
    def begun(self) -> bool:
        """Tell whether a block has begun and not ended."""
        return self._inside

    def feed(self, data: bytes) -> list[Block]:
        """Take what came; return the blocks that it ends, in order."""
        self._received += data
        blocks: list[Block] = []
        while self._received and (self._end_block(blocks) if self._inside else self._begin_block(blocks)):
            pass
        return blocks

    def _begin_block(self, blocks: list[Block]) -> bool:
        before, start, _ = self._received.partition(START)
        # Some senders end a block with a line feed more.
        if stray := len(before.strip(b"\r\n \x1c")):
            blocks.append(Stray(stray))
        del self._received[: len(before) + len(start)]
        self._inside = bool(start)
        return self._inside

    def _end_block(self, blocks: list[Block]) -> bool:
        end = self._received.find(END)
        size = end if end >= 0 else len(self._received)
        # Without its end, the last byte may be the first half of that.
        if self._head is None and size > self._limit_bytes + (end < 0):
            self._head = bytes(self._received[:HEAD_BYTES])
        if end < 0:
            if self._head is not None:
                del self._received[:-1]
            return False
        if self._head is not None:
            blocks.append(TooLarge(self._head))
        else:
            blocks += _whole(bytes(self._received[:end]))
        del self._received[: end + len(END)]
        self._inside, self._head = False, None
        return True


def _whole(content: bytes) -> list[Block]:
    cut = content.rfind(_BEGUN_ANEW)
    return [Whole(content)] if cut < 0 else [Stray(cut), Whole(content[cut + 1 :])]


def block(content: bytes) -> bytes:
    """Return a message as it goes over the line."""
    return START + content + END
