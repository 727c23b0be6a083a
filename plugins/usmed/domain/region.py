"""The region manifest: which hospitals there are, where they answer, and by which key each is known."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from joserfc.jwk import OKPKey

from usmed.domain.canonical import base64url_decode
from usmed.domain.errors import ConfigurationError, PeerDataError
from usmed.domain.identifiers import NationalNumber, patient_identifier

HUB = "hub"
"""The id under which the hub signs; nobody else may have it."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
"""A part of a host's name (RFC 1123 §2.1)."""

_HTTPS_PORT = 443

_NO_KEY = "A" * 43
"""Stands for a key that could not be read, until all faults are told."""


@dataclass(frozen=True, slots=True)
class Member:
    """One actor of the region.

    Attributes:
        id: its name in signatures and consents.
        address: base URL, `https://host:port`.
        key: its public Ed25519 key.
        tls_certificate: PEM that its TLS connection must chain to; empty means the system's authorities.
    """

    id: str
    address: str
    key: OKPKey
    tls_certificate: str


@dataclass(frozen=True, slots=True)
class Hospital(Member):
    """A hospital node; `issuers` lists whose numbers it assigns, the first for numbers that name no issuer."""

    name: str
    issuers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyServer(Member):
    """A key server: one voice in every decision, run by an administrator of its own.

    Attributes:
        name: for people.
        administrator: who runs it, for people.
        administrator_key: the public Ed25519 key by which that person signs region manifests, not the server's own.
    """

    name: str
    administrator: str
    administrator_key: OKPKey


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """The portal as WebAuthn knows it: what a passkey's signature is bound to (Level 2 §4, Relying Party Identifier).

    Attributes:
        id: the host's name.
        origins: where browsers may be when a patient signs, as they write it.
    """

    id: str
    origins: frozenset[str]


@dataclass(frozen=True, slots=True)
class RegionManifest:
    """Who belongs to the region.

    Attributes:
        issued: aware UTC.
        expires: aware UTC.
        key_servers: by id, one or more.
        threshold: how many of them must agree.
        portal: where patients sign, `https://host[:port]` as browsers write it; empty where they do not.
    """

    region: str
    name: str
    version: int
    issued: datetime
    national_number: NationalNumber | None
    hub: Member
    hospitals: Mapping[str, Hospital]
    expires: datetime
    key_servers: Mapping[str, KeyServer]
    threshold: int
    portal: str = ""

    @property
    def relying_party(self) -> RelyingParty | None:
        """Return whose passkeys patients sign with; None where the region has no portal."""
        if not self.portal:
            return None
        return RelyingParty(urlsplit(self.portal).hostname or "", frozenset({self.portal}))

    def is_expired(self, now: datetime) -> bool:
        """Tell whether it is over at `now` (aware UTC): then no ticket is signed, nothing is released on its word."""
        return self.expires <= now

    def member(self, member_id: str) -> Member | None:
        """Return the hub, a hospital or a key server; None for anybody else."""
        if member_id == HUB:
            return self.hub
        return self.hospitals.get(member_id) or self.key_servers.get(member_id)

    def key_of(self, member_id: str) -> OKPKey | None:
        """Return the public key of the hub, a hospital or a key server; None for anybody else."""
        member = self.member(member_id)
        return member.key if member else None

    def hospital_key(self, hospital_id: str) -> OKPKey | None:
        """Return a hospital's key; None for anybody else: the word of the hub or a key server proves no consent."""
        hospital = self.hospitals.get(hospital_id)
        return hospital.key if hospital else None

    def key_server_key(self, key_server_id: str) -> OKPKey | None:
        """Return the key by which a key server signs tickets; None for anybody else, hospitals and hub included."""
        server = self.key_servers.get(key_server_id)
        return server.key if server else None

    def administrator_key(self, key_server_id: str) -> OKPKey | None:
        """Return the key of a key server's administrator; None for anybody else."""
        server = self.key_servers.get(key_server_id)
        return server.administrator_key if server else None

    def spoken_for(self, hospital_id: str) -> frozenset[str]:
        """Return the issuers whose numbers a hospital may speak for: its own, and the national one."""
        hospital = self.hospitals.get(hospital_id)
        if hospital is None:
            return frozenset()
        return frozenset({*hospital.issuers, *([self.national_number.issuer] if self.national_number else [])})

    def issuer_owner(self, issuer: str) -> str | None:
        """Return the id of the hospital whose numbers `issuer` denotes, if it is one of the region's."""
        return next((h.id for h in self.hospitals.values() if issuer in h.issuers), None)


def parse_region(document: Any, source: str) -> RegionManifest:
    """Read a region manifest that was parsed from YAML or JSON.

    Args:
        document: the parsed document.
        source: where it came from, for messages.

    Raises:
        ConfigurationError: listing every fault with its path.
    """
    reader = _Reader()
    root = reader.mapping(
        document,
        "$",
        {"version", "region", "name", "issued", "expires", "hub", "hospitals", "key_servers", "threshold"},
        {"national_number", "portal"},
    )
    version = reader.typed(root, "version", int, "$")
    if version is not None and version < 1:
        reader.problems.append("$.version: must be 1 or more")
    national = None
    if "national_number" in root:
        element = reader.mapping(root["national_number"], "$.national_number", {"issuer", "kind"}, set())
        issuer = reader.typed(element, "issuer", str, "$.national_number")
        issuer = reader.issuer(issuer, "$.national_number.issuer") if issuer is not None else None
        kind = reader.typed(element, "kind", str, "$.national_number")
        if kind is not None and kind != "ro.cnp":
            reader.problems.append("$.national_number.kind: only 'ro.cnp' is known")
        national = NationalNumber(issuer or "", kind or "")
    hub_element = reader.mapping(root.get("hub", {}), "$.hub", {"address", "public_key"}, {"tls_certificate"})
    hub = Member(HUB, *reader.member(hub_element, "$.hub"))
    hospitals: dict[str, Hospital] = {}
    elements = reader.typed(root, "hospitals", list, "$") or []
    for position, element in enumerate(elements):
        path = f"$.hospitals[{position}]"
        hospital = reader.hospital(element, path)
        if hospital.id and hospital.id in hospitals:
            reader.problems.append(f"{path}.id: {hospital.id!r} is there twice")
        for other in hospitals.values():
            for issuer in set(other.issuers) & set(hospital.issuers):
                reader.problems.append(f"{path}.issuers: {issuer!r} also belongs to {other.id!r}")
        if national is not None and national.issuer in hospital.issuers:
            reader.problems.append(f"{path}.issuers: {national.issuer!r} is the national number's issuer")
        hospitals[hospital.id] = hospital
    if not elements and "hospitals" in root:
        reader.problems.append("$.hospitals: names no hospital")
    key_servers, threshold = _key_servers(reader, root, {HUB, *hospitals})
    portal = reader.portal(root)
    _check_keys(reader, [hub, *hospitals.values(), *key_servers.values()])
    issued, expires = reader.instant(root, "issued"), reader.instant(root, "expires")
    if issued is not None and expires is not None and expires <= issued:
        reader.problems.append("$.expires: is not after $.issued")
    region, name = (reader.typed(root, key, str, "$") or "" for key in ("region", "name"))
    if reader.problems:
        raise ConfigurationError(source, reader.problems)
    assert issued is not None
    assert expires is not None
    assert version is not None
    return RegionManifest(
        region, name, version, issued, national, hub, hospitals, expires, key_servers, threshold, portal
    )


def _key_servers(reader: "_Reader", root: dict[str, Any], taken: set[str]) -> tuple[dict[str, KeyServer], int]:
    servers: dict[str, KeyServer] = {}
    elements = reader.typed(root, "key_servers", list, "$") or []
    for position, element in enumerate(elements):
        path = f"$.key_servers[{position}]"
        server = reader.key_server(element, path)
        if server.id and server.id in taken | set(servers):
            reader.problems.append(f"{path}.id: {server.id!r} is there twice")
        servers[server.id] = server
    if not elements and "key_servers" in root:
        reader.problems.append("$.key_servers: names no key server")
    threshold = reader.typed(root, "threshold", int, "$")
    if elements and threshold is not None and not 1 <= threshold <= len(elements):
        reader.problems.append(f"$.threshold: must be 1 to {len(elements)}, the number of key servers")
    return servers, threshold or 0


def _check_keys(reader: "_Reader", members: Sequence[Member]) -> None:
    """Two voices with one key would be one voice, and who stole one key would have stolen two."""
    seen: dict[str, str] = {}
    for member in members:
        named = [(member.id, member.key)]
        if isinstance(member, KeyServer):
            named.append((f"{member.id}'s administrator", member.administrator_key))
        for owner, key in named:
            text = str(key.as_dict(private=False)["x"])
            if text != _NO_KEY and text in seen:
                reader.problems.append(f"$: {owner!r} and {seen[text]!r} have the same public key")
            seen.setdefault(text, owner)


class _Reader:
    """Collects every fault instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def mapping(self, value: Any, path: str, required: set[str], optional: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.problems.append(f"{path}: must be a mapping")
            return {}
        for key in sorted(map(str, value)):
            if key not in required | optional:
                self.problems.append(f"{path}.{key}: unknown key")
        for key in sorted(required - set(value)):
            self.problems.append(f"{path}.{key}: is missing")
        return value

    def typed(self, element: dict[str, Any], key: str, kind: type, path: str) -> Any:
        if key not in element:
            return None
        value = element[key]
        if type(value) is not kind or value == "":
            self.problems.append(f"{path}.{key}: must be {'a non-empty ' if kind is str else 'a '}{kind.__name__}")
            return None
        return value

    def instant(self, element: dict[str, Any], key: str) -> datetime | None:
        value = element.get(key)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                value = None
        if key in element and (not isinstance(value, datetime) or value.tzinfo is None):
            self.problems.append(f"$.{key}: must be a time with its zone, such as 2026-01-31T12:00:00Z")
            return None
        return value

    def member(self, element: dict[str, Any], path: str) -> tuple[str, OKPKey, str]:
        address = self.typed(element, "address", str, path) or ""
        if address and not _is_base_url(address):
            self.problems.append(f"{path}.address: must be http(s)://host[:port], nothing after it")
        certificate = ""
        if "tls_certificate" in element:
            certificate = self.typed(element, "tls_certificate", str, path) or ""
            # Read here and not at the first connection: a wrong one is a fault of the manifest, not of the peer.
            if certificate and not _is_pem_certificate(certificate):
                self.problems.append(f"{path}.tls_certificate: is not a PEM certificate")
        return address.rstrip("/"), self.key(element, path), certificate

    def portal(self, root: dict[str, Any]) -> str:
        """Return the portal's origin, empty if there is none."""
        if "portal" not in root:
            return ""
        element = self.mapping(root["portal"], "$.portal", {"address"}, set())
        address = self.typed(element, "address", str, "$.portal")
        if address is None:
            return ""
        origin = _origin(address)
        if not origin:
            self.problems.append(
                "$.portal.address: must be https://NAME[:PORT], nothing after it; no IP address, which has no passkeys"
            )
        return origin

    def key(self, element: dict[str, Any], path: str) -> OKPKey:
        text = self.typed(element, "public_key", str, path)
        if text is not None:
            try:
                return public_key(text)
            except PeerDataError as error:
                self.problems.append(f"{path}.public_key: {error}")
        return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": _NO_KEY})

    def member_id(self, element: dict[str, Any], path: str) -> str:
        member_id = self.typed(element, "id", str, path) or ""
        if member_id and (not re.fullmatch(r"[a-z0-9-]{1,32}", member_id) or member_id == HUB):
            self.problems.append(f"{path}.id: must be 1 to 32 of a-z, 0-9 and -, and not {HUB!r}")
        return member_id

    def key_server(self, value: Any, path: str) -> KeyServer:
        required = {"id", "name", "address", "public_key", "administrator"}
        element = self.mapping(value, path, required, {"tls_certificate"})
        person_path = f"{path}.administrator"
        person = self.mapping(element.get("administrator", {}), person_path, {"name", "public_key"}, set())
        server_id = self.member_id(element, path)
        name = self.typed(element, "name", str, path) or ""
        administrator = self.typed(person, "name", str, person_path) or ""
        return KeyServer(
            server_id, *self.member(element, path), name, administrator, self.key(person, person_path)
        )

    def hospital(self, value: Any, path: str) -> Hospital:
        element = self.mapping(value, path, {"id", "name", "address", "public_key", "issuers"}, {"tls_certificate"})
        hospital_id = self.member_id(element, path)
        listed = self.typed(element, "issuers", list, path)
        if listed == []:
            self.problems.append(f"{path}.issuers: names no issuer")
        issuers = tuple(self.issuer(one, f"{path}.issuers[{n}]") for n, one in enumerate(listed or ()))
        address, key, certificate = self.member(element, path)
        name = self.typed(element, "name", str, path) or ""
        return Hospital(hospital_id, address, key, certificate, name, tuple(filter(None, issuers)))

    def issuer(self, value: Any, path: str) -> str:
        """Return an issuer as identifiers carry it, without padding; empty if it is none."""
        try:
            return patient_identifier(value, "1").issuer
        except PeerDataError as error:
            self.problems.append(f"{path}: {error}")
            return ""


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port != 0
        and text.isprintable()
        and " " not in text
        and "@" not in parts.netloc
        and parts.path in ("", "/")
        and "?" not in text
        and "#" not in text
    )


def _origin(text: str) -> str:
    """Return a site's origin as browsers write it (HTML §7.1.1, serialization of an origin); empty if it is none.

    WebAuthn (Level 2 §5.1.3) takes a domain name and no IP address. Browsers take whatever ends in a number for an
    address (URL Standard §3.5, "ends in a number"), 0x7f.1 too.
    """
    match = re.fullmatch(rf"https://({_LABEL}(?:\.{_LABEL})*)(?::([0-9]{{1,5}}))?", text.lower())
    if match is None or not text.isascii():
        return ""
    host, port = match[1], int(match[2] or _HTTPS_PORT)
    if len(host) > 253 or re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]) or not 1 <= port <= 65535:
        return ""
    return f"https://{host}" if port == _HTTPS_PORT else f"https://{host}:{port}"


def _is_pem_certificate(text: str) -> bool:
    try:
        return bool(x509.load_pem_x509_certificates(text.encode("utf-8")))
    except ValueError:
        return False


def public_key(text: str) -> OKPKey:
    """Read a public Ed25519 key written as base64url of its 32 bytes (RFC 8037 §2).

    Raises:
        PeerDataError: not such a key.
    """
    raw = base64url_decode(text)
    if len(raw) != 32:
        raise PeerDataError("not base64url of the 32 bytes of an Ed25519 public key")
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": text})
