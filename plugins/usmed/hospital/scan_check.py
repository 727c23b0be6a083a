"""Looks into a PDF that somebody brings, in a process of its own: `python3 -I scan_check.py < scan.pdf`.

A PDF can run programs, hold other files, and be made to use up whoever reads it. So it is read by a process that has
little memory and little time, and of which Orthanc does not notice when it dies. Nothing of ours is imported here.
"""

import io
import json
import resource
import sys
import warnings

CPU_S = 10
MEMORY_BYTES = 512 << 20
MOST_OBJECTS = 20_000
MOST_DEPTH = 60

ACTIVE_KEYS = {"/JS", "/JavaScript", "/EmbeddedFiles", "/EF", "/AF", "/RichMediaContent", "/XFA", "/AA", "/Launch"}
ACTIVE_ACTIONS = {
    "/JavaScript", "/Launch", "/SubmitForm", "/ImportData", "/GoToE", "/GoToR", "/Rendition", "/Movie",
    "/RichMediaExecute",
}  # fmt: skip
"""What a sheet of paper does not do (ISO 32000-1 7.11.4, 12.6)."""

ACTIVE_TYPES = {"/EmbeddedFile", "/RichMedia", "/FileAttachment", "/Movie", "/Screen", "/3D", "/Sound"}


class Unfit(Exception):
    """It is not what a scanner makes; the word says why."""


def look(content: bytes) -> int:
    """Return how many pages a PDF has.

    Raises:
        Unfit: it is no PDF, needs a password, or does more than show pages.
    """
    from pypdf import PdfReader
    from pypdf.generic import IndirectObject

    if not content.startswith(b"%PDF-"):
        raise Unfit("no-pdf")
    reader = PdfReader(io.BytesIO(content), strict=False)
    if reader.is_encrypted:
        raise Unfit("encrypted")
    pages = len(reader.pages)
    if pages == 0:
        raise Unfit("no-pages")
    for page in reader.pages:
        if min(float(page.mediabox.width), float(page.mediabox.height)) <= 0:
            raise Unfit("no-pages")
    known = {(id, generation) for generation, found in reader.xref.items() for id in found}
    known |= {(id, 0) for id in reader.xref_objStm}
    if len(known) > MOST_OBJECTS:
        raise Unfit("too-much")
    _walk(reader.trailer, 0)
    for id, generation in sorted(known):
        _walk(reader.get_object(IndirectObject(id, generation, reader)), 0)
    return pages


def _walk(found: object, depth: int) -> None:
    """Look at an object and at what is in it; not at what it refers to, which is looked at by itself."""
    from pypdf.generic import ArrayObject, DictionaryObject

    if depth > MOST_DEPTH:
        raise Unfit("too-much")
    if isinstance(found, DictionaryObject):
        if ACTIVE_KEYS & set(found) or str(found.raw_get("/S") if "/S" in found else "") in ACTIVE_ACTIONS:
            raise Unfit("active")
        if {str(found.raw_get(name)) for name in ("/Type", "/Subtype") if name in found} & ACTIVE_TYPES:
            raise Unfit("active")
        for name in found:
            _walk(found.raw_get(name), depth + 1)
    elif isinstance(found, ArrayObject):
        for number in range(len(found)):
            _walk(list.__getitem__(found, number), depth + 1)


def main() -> None:
    """Read a PDF, write `{"pages": N}` or `{"fault": WORD}`."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    try:
        said: dict[str, object] = {"pages": look(sys.stdin.buffer.read())}
    except Unfit as error:
        said = {"fault": str(error)}
    except ImportError:
        said = {"fault": "no-reader"}
    except Exception:  # noqa: BLE001 - a file that breaks its reader in whatever way is one that does not open
        said = {"fault": "broken"}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
