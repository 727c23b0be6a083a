"""Audit records in a bundle that anybody can check: a ZIP of the same records twice, what they are, and a signature.

    export.json    which hospital, who asked for what and when, how many records, the SHA-256 of the two files
    export.jws     compact JWS (RFC 7515) of export.json's canonical JSON, by the hospital's key in the region manifest
    records.jsonl  a line each: the record as it is chained, and its hash
    records.csv    the same for spreadsheets (RFC 4180, UTF-8)
"""

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joserfc.jwk import OKPKey

from usmed.domain.audit import AuditRecord
from usmed.domain.canonical import canonical_json, parse_json, sha256_hex
from usmed.domain.errors import PeerDataError
from usmed.domain.request_signature import Keys, sign_document, verify_document

MANIFEST, SIGNATURE, LINES, TABLE = "export.json", "export.jws", "records.jsonl", "records.csv"
KIND = "audit-export"
LIMIT_BYTES = 1 << 20
LARGEST_FILE_BYTES = 1 << 29
COLUMNS = ("sequence", "at", "event", "agent", "peer", "patient", "study_instance_uid", "outcome", "reason", "detail")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a text for a formula (OWASP, "CSV Injection")."""


@dataclass(frozen=True, slots=True)
class Export:
    """A bundle that was checked: whose it is, what it says of itself, and how many records it has."""

    hospital: str
    about: Mapping[str, Any]
    records: int


def pack(
    records: Sequence[AuditRecord], *, key: OKPKey, hospital: str, at: datetime, about: Mapping[str, Any]
) -> bytes:
    """Return the bundle.

    Args:
        records: in the order in which they are to stand.
        key: the hospital's.
        at: when, aware UTC.
        about: what was asked, and by whom.
    """
    files = {LINES: _lines(records), TABLE: _table(records)}
    manifest = {
        **about,
        "kind": KIND,
        "hospital": hospital,
        "at": at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "records": len(records),
        "sha256": {name: sha256_hex(content) for name, content in files.items()},
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(MANIFEST, canonical_json(manifest))
        bundle.writestr(SIGNATURE, sign_document(key, sender=hospital, document=manifest))
        for name, content in files.items():
            bundle.writestr(name, content)
    return out.getvalue()


def check(bundle: bytes, keys: Keys) -> Export:
    """Check the signature, the files, and each record's hash.

    Args:
        bundle: the ZIP.
        keys: of the region's members.

    Raises:
        PeerDataError: something is missing, was altered, or is not signed by the hospital that it names.
    """
    files = _files(bundle)
    manifest = parse_json(files[MANIFEST], limit_bytes=LIMIT_BYTES)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("hospital"), str):
        raise PeerDataError(f"{MANIFEST}: names no hospital")
    hospital = manifest["hospital"]
    token = files[SIGNATURE].decode("ascii", "replace")
    signed = verify_document(token, keys, sender=hospital, limit_bytes=LIMIT_BYTES)
    if signed != manifest or manifest.get("kind") != KIND:
        raise PeerDataError(f"{MANIFEST}: is not what {hospital} has signed")
    for name in (LINES, TABLE):
        if manifest.get("sha256", {}).get(name) != sha256_hex(files[name]):
            raise PeerDataError(f"{name}: was altered: it does not have the SHA-256 that was signed")
    lines = files[LINES].splitlines()
    for number, line in enumerate(lines, 1):
        element = parse_json(line, limit_bytes=LIMIT_BYTES)
        if not isinstance(element, dict) or sha256_hex(canonical_json(element.get("record"))) != element.get("hash"):
            raise PeerDataError(f"{LINES}: line {number} was altered before it was exported: it has not its own hash")
    return Export(hospital, manifest, len(lines))


def _files(bundle: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as opened:
            sizes = {one.filename: one.file_size for one in opened.infolist()}
            if set(sizes) != {MANIFEST, SIGNATURE, LINES, TABLE} or max(sizes.values()) > LARGEST_FILE_BYTES:
                raise PeerDataError(f"is no export: it has not just {MANIFEST}, {SIGNATURE}, {LINES} and {TABLE}")
            return {name: opened.read(name) for name in sizes}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise PeerDataError(f"is no ZIP file, or a damaged one: {error}") from error


def _lines(records: Sequence[AuditRecord]) -> bytes:
    # The content is canonical JSON already; the names stand in order (RFC 8785 §3.2.3).
    return b"".join(b'{"hash":"%b","record":%b}\n' % (one.hash.encode("ascii"), one.content) for one in records)


def _table(records: Sequence[AuditRecord]) -> bytes:
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(COLUMNS)
    for one in records:
        event = json.loads(one.content)["event"]
        detail = json.dumps(event["detail"], ensure_ascii=False, sort_keys=True) if "detail" in event else ""
        members = {**event, "sequence": str(one.sequence), "detail": detail}
        rows.writerow([_cell(str(members.get(name, ""))) for name in COLUMNS])
    # With the mark by which spreadsheets know UTF-8.
    return out.getvalue().encode("utf-8-sig")


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
