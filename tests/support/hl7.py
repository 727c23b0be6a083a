"""ADT messages as a hospital information system sends them, and the line they go over."""

import random
import socket
from collections.abc import Callable
from dataclasses import dataclass

START, END = b"\x0b", b"\x1c\r"


def adt(
    event: str = "A01",
    control_id: str = "1",
    *,
    msh: dict[int, str] | None = None,
    pid: dict[int, str] | None = None,
    pv1: dict[int, str] | None = None,
    more: tuple[str, ...] = (),
    encoding: str = "utf-8",
) -> bytes:
    """Return a message; `msh`, `pid` and `pv1` are fields to set by their number."""
    header = {
        3: "HIS", 4: "SPIRIDON", 5: "USMED", 6: "SPIRIDON", 7: "20261122103000+0200", 9: f"ADT^{event}^ADT_A01",
        10: control_id, 11: "P", 12: "2.5.1", 18: "UNICODE UTF-8",
    } | (msh or {})  # fmt: skip
    patient = {
        1: "1", 3: "1042^^^HIS^PI~1800101221144^^^CNP^NN", 5: "Țîrlea^Ștefan^Ion^^Dr^^L", 7: "19800101", 8: "M",
    } | (pid or {})  # fmt: skip
    visit = {1: "1", 2: "E", 3: "UPU^2^1", 19: "V77", 44: "202611221025"} | (pv1 or {})
    lines = [
        "MSH|^~\\&|" + "|".join(header.get(n, "") for n in range(3, max(header) + 1)),
        f"EVN|{event}|20261122102700",
        _segment("PID", patient),
        *more,
        _segment("PV1", visit),
    ]
    return ("\r".join(lines) + "\r").encode(encoding)


def _segment(name: str, fields: dict[int, str]) -> str:
    return "|".join([name, *(fields.get(n, "") for n in range(1, max(fields) + 1))])


def feed_of(count: int, limit: int, day: str = "20261122") -> list[tuple[bytes, str, str]]:
    """Return what a system sends: bytes on the line, then MSA-1 and MSA-2 of its answer ("" for none).

    The good ones name the patients `Șt^<number>`; of every three, two are arrivals of `day` and the third an update.
    Every sort of broken message stands among them, in an order of chance that is always the same.
    """
    chance = random.Random(7)
    sorts: list[Callable[[str], tuple[bytes, str]]] = [
        lambda id: (block(adt("A03", id)), "AR"),
        lambda id: (block(adt("A01", id, msh={9: "ORU^R01"})), "AR"),
        lambda id: (block(adt("A01", id, msh={12: "9.9"})), "AR"),
        lambda id: (block(adt("A01", id, msh={11: "D"})), "AR"),
        lambda id: (block(adt("A01", id, pid={7: "19801301"})), "AE"),
        lambda id: (block(adt("A01", id, pid={3: ""})), "AE"),
        lambda id: (block(adt("A01", id, pid={5: "A\x0bB\x1cC"})), "AE"),
        lambda id: (block(adt("A01", id, msh={18: "UNICODE"})), "AE"),
        lambda id: (block(adt("A01", id, msh={18: "8859/5"}, pid={5: "Ț"}, encoding="utf-8")), "AE"),
        lambda id: (block(adt("A01", id, more=("OBX|" + "x" * limit,))), "AE"),
        lambda id: (block(adt("A01", id)[: adt("A01", id).index(b"PID") + 5]), "AE"),
        lambda id: (START + adt("A01", id)[:40], ""),
        lambda id: (adt("A01", id), ""),
        lambda id: (START + adt("A01", id) + b"\x1c", ""),
    ]
    told = []
    for n in range(count):
        id = f"M{n}"
        if n % 5 == 4:
            content, code = chance.choice(sorts)(id)
        else:
            name = f"Șt^{n}"
            charset = ("UNICODE UTF-8", "utf-8") if n % 2 else ("8859/16", "iso8859-16")
            event = ("A01", "A04", "A08")[n % 3]
            fields = {3: f"{n}^^^HIS", 5: name, 7: "19800101"}
            message = adt(
                event, id, msh={18: charset[0]}, pid=fields, pv1={44: f"{day}1025"}, encoding=charset[1]
            )
            content, code = block(message), "AA"
        told.append((content, code, id))
    return told


def block(message: bytes) -> bytes:
    """Return a message as an MLLP block."""
    return START + message + END


@dataclass
class Ack:
    """An acknowledgement: MSA-1, MSA-2, and of ERR its code (ERR-3.1) and place (ERR-2)."""

    code: str
    control_id: str
    error: str
    place: str
    text: str


def read_ack(content: bytes) -> Ack:
    """Read one, by hand: not with what wrote it."""
    segments = {one[:3]: one.split("|") for one in content.decode("latin-1").split("\r") if one}
    assert segments["MSH"][8].startswith("ACK"), content
    error = segments.get("ERR", [""] * 9)
    return Ack(segments["MSA"][1], segments["MSA"][2], error[3].split("^")[0], error[2], error[8])


class Sender:
    """A line to a node."""

    def __init__(self, port: int, *, address: str = "127.0.0.1", source: str = "", timeout_s: float = 20) -> None:
        self.socket = socket.create_connection(
            (address, port), timeout=timeout_s, source_address=(source, 0) if source else None
        )
        self._received = b""

    def send(self, message: bytes) -> Ack:
        """Send a message, and wait for its acknowledgement."""
        self.raw(block(message))
        return self.answer()

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def answer(self) -> Ack:
        """Wait for an acknowledgement.

        Raises:
            ConnectionError: the line has ended.
        """
        while END not in self._received:
            piece = self.socket.recv(65536)
            if not piece:
                raise ConnectionError("the node has hung up")
            self._received += piece
        content, _, self._received = self._received.partition(END)
        assert content.startswith(START)
        return read_ack(content[1:])

    def hung_up(self) -> bool:
        """Wait until the node hangs up; tell whether it sent nothing more."""
        try:
            return not self._received and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """End the line."""
        self.socket.close()
