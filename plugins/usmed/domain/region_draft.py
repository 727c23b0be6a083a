"""Making the next region manifest from the one before, and saying in plain words what is different.

Works on documents, before anybody has signed them. What a manifest may hold is decided in `domain/region.py`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from usmed.domain.errors import ConfigurationError
from usmed.domain.region import parse_region

type Document = dict[str, Any]

HOSPITALS, KEY_SERVERS = "hospitals", "key_servers"
_WORDS = {HOSPITALS: "hospital", KEY_SERVERS: "key server"}

_INCOMPLETE = (
    "$.hospitals: names no hospital",
    "$.key_servers: names no key server",
    "$.key_servers: is missing",
    "$.threshold: ",
    "$.expires: is missing",
)
"""Faults that a draft may have while it is put together."""


def first_draft(
    *, region: str, name: str, hub: Mapping[str, str], issued: datetime, life: timedelta, **more: Any
) -> Document:
    """Return version 1 of a region, without members yet.

    Args:
        hub: its `address`, `public_key` and perhaps `tls_certificate`.
        issued: aware UTC.
        life: how long it is to hold.
        more: `national_number`, where there is any, and `threshold`, once it is known.
    """
    return {
        "version": 1,
        "region": region,
        "name": name,
        "issued": instant(issued),
        "expires": instant(issued + life),
        "hub": dict(hub),
        HOSPITALS: [],
        KEY_SERVERS: [],
        **more,
    }


def next_draft(before: Document, issued: datetime, life: timedelta | None, *, count_up: bool) -> Document:
    """Return a copy that is issued anew and holds as long as `before` did, or for `life`.

    Args:
        before: a manifest's document without faults, or a draft.
        count_up: the next version; else the same, as for a draft that nobody has seen.
    """
    document: Document = json_values(before)
    if count_up:
        document["version"] += 1
    if life is None and "expires" in document:
        life = datetime.fromisoformat(document["expires"]) - datetime.fromisoformat(document["issued"])
    document["issued"] = instant(issued)
    if life is not None:
        document["expires"] = instant(issued + life)
    return document


def add(document: Document, kind: str, entry: Mapping[str, Any]) -> None:
    """Add a hospital or a key server.

    Raises:
        ConfigurationError: there is one with this id.
    """
    elements = document.setdefault(kind, [])
    if any(one["id"] == entry["id"] for one in elements):
        raise ConfigurationError("region manifest", [f"there is a {_WORDS[kind]} {entry['id']!r} already"])
    elements.append(dict(entry))


def remove(document: Document, kind: str, id: str) -> None:
    """Remove a hospital or a key server.

    Raises:
        ConfigurationError: there is none with this id.
    """
    document[kind].remove(_element(document, kind, id))


def change_key_server(
    document: Document, id: str, changes: Mapping[str, Any], administrator: Mapping[str, str]
) -> None:
    """Change members of a key server's entry, and of its administrator's.

    Raises:
        ConfigurationError: there is no such key server, or nothing is to be changed.
    """
    element = _element(document, KEY_SERVERS, id)
    before = json_values(element)
    element.update(changes)
    element["administrator"] = {**element["administrator"], **administrator}
    if element == before:
        raise ConfigurationError("region manifest", [f"nothing of {id!r} would change"])


def set_portal(document: Document, address: str) -> None:
    """Say where patients sign."""
    document["portal"] = {"address": address}


def remove_portal(document: Document) -> None:
    """Say that patients do not sign.

    Raises:
        ConfigurationError: they do not as it is.
    """
    if document.pop("portal", None) is None:
        raise ConfigurationError("region manifest", ["there is no portal"])


def _element(document: Document, kind: str, id: str) -> Any:
    found = [one for one in document.get(kind, []) if one["id"] == id]
    if not found:
        known = ", ".join(one["id"] for one in document.get(kind, [])) or "none"
        raise ConfigurationError("region manifest", [f"there is no {_WORDS[kind]} {id!r} (there is: {known})"])
    return found[0]


def faults(document: Document, source: str) -> tuple[list[str], list[str]]:
    """Return what is wrong with a draft, and what it still lacks to be a manifest."""
    try:
        parse_region(document, source)
    except ConfigurationError as error:
        missing = [one for one in error.problems if one.startswith(_INCOMPLETE)]
        return [one for one in error.problems if one not in missing], missing
    return [], []


def json_values(value: Any) -> Any:
    """Return a copy in JSON values: YAML has times, JSON has their text."""
    if isinstance(value, dict):
        return {str(key): json_values(one) for key, one in value.items()}
    if isinstance(value, list):
        return [json_values(one) for one in value]
    return instant(value) if isinstance(value, datetime) and value.tzinfo else value


def instant(time: datetime) -> str:
    """Return a time as a manifest writes it: UTC, in seconds."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def differences(before: Document, after: Document) -> list[str]:
    """Say what is different, a line each: `+` is new, `-` is gone, `~` is changed.

    Args:
        before: a manifest's document without faults.
        after: the same, or a draft.
    """
    lines = _changes("region", _top(before), _top(after))
    lines += _changes("the hub", _particulars(before["hub"]), _particulars(after["hub"]))
    for kind, word in _WORDS.items():
        old, new = ({one["id"]: _particulars(one) for one in document.get(kind, [])} for document in (before, after))
        lines += [f"- {word} {id}: {_listed(old[id])}" for id in old if id not in new]
        lines += [f"+ {word} {id}: {_listed(new[id])}" for id in new if id not in old]
        for id in new:
            lines += _changes(f"{word} {id}", old.get(id, new[id]), new[id])
    return lines


def _changes(what: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    names = [*after, *(one for one in before if one not in after)]
    return [
        f"~ {what}: {name} {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _top(document: Document) -> dict[str, str]:
    names = ("region", "version", "name", "threshold", "issued", "expires")
    found: dict[str, str] = {name: shown(document[name]) for name in names if name in document}
    national = document.get("national_number")
    if national:
        found["national number"] = f"{shown(national['issuer'])} ({shown(national['kind'])})"
    portal = document.get("portal")
    if portal:
        found["portal"] = shown(portal["address"])
    return found


def _particulars(element: Mapping[str, Any]) -> dict[str, str]:
    names = {"name": "name", "address": "address", "public_key": "key"}
    found = {word: shown(element[name]) for name, word in names.items() if name in element}
    if "issuers" in element:
        found["issuers"] = ", ".join(shown(one) for one in element["issuers"])
    if "tls_certificate" in element:
        found["TLS certificate"] = fingerprint(element["tls_certificate"])
    administrator = element.get("administrator")
    if administrator:
        found["administrator"] = shown(administrator["name"])
        found["administrator's key"] = shown(administrator["public_key"])
    return found


def _listed(particulars: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in particulars.items())


def fingerprint(pem: str) -> str:
    """Return a certificate's SHA-256, as other programs show it; of several, the first one's and how many more."""
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode("utf-8"))
    except ValueError:
        return "no certificate"
    more = f" and {len(certificates) - 1} more" if len(certificates) > 1 else ""
    return f"SHA-256 {certificates[0].fingerprint(hashes.SHA256()).hex(':').upper()}{more}"


def shown(value: Any) -> str:
    """Return text that shows what it holds: no character may move the cursor or turn the direction of writing."""
    text = str(value)
    return text if text.isprintable() else ascii(text)
