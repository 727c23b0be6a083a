"""What `usmed region` does with signatures: make an administrator's key, sign, verify, show and publish."""

import argparse
import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3
from joserfc.jwk import OKPKey

from usmed.domain import region_draft as draft
from usmed.domain.canonical import base64url, canonical_json, parse_json
from usmed.domain.errors import ConfigurationError, PeerDataError, RefusedError, TransportError, UsmedError
from usmed.domain.quorum import read_signature, require, sign
from usmed.domain.region import RegionManifest
from usmed.domain.region_chain import TrustedRegion, accept, follow, signatures
from usmed.platform.connections import BROKEN, diagnosis, open_pool
from usmed.platform.keys import generate_encrypted_key, load_encrypted_key, load_private_key, public_key_text
from usmed.platform.region_document import RegionDocument, draft_bytes, read_region_document, write_whole
from usmed.platform.region_file import load_region, signed_bytes

PUBLISH_S = 30.0


class NotValidError(UsmedError):
    """A manifest lacks signatures, or was not to be signed."""


def run_administrator_key(arguments: argparse.Namespace) -> None:
    """Make an administrator's key."""
    print(public_key_text(generate_encrypted_key(arguments.out, _passphrase(arguments, arguments.out, twice=True))))


def run_sign(arguments: argparse.Namespace) -> None:
    """Add a signature."""
    given = read_region_document(arguments.file)
    manifest = given.manifest()
    before = read_region_document(arguments.previous) if arguments.previous else None
    _check_signable(given, manifest, before)
    before_manifest = before.manifest() if before else None
    key = _administrators_key(arguments)
    if public_key_text(key) not in {
        public_key_text(one)
        for judges in (manifest, before_manifest)
        if judges and (one := judges.administrator_key(arguments.signer))
    }:
        raise ConfigurationError(str(arguments.key), [f"is not the key of the administrator of {arguments.signer!r}"])
    _print_head(given, manifest)
    if before is None:
        _print_members(manifest)
    else:
        print(f"compared with version {before.document['version']}, SHA-256 {before.digest}:")
        for line in draft.differences(before.document, given.document):
            print(f"  {line}")
    elements = list(given.signed["signatures"]) if given.signed else []
    if any(_is_by(one, given.document, key, arguments.signer) for one in elements):
        raise ConfigurationError(str(arguments.file), [f"{arguments.signer} has signed already"])
    _confirm(arguments, given)
    elements.append(sign(key, signer=arguments.signer, document=given.document).to_json())
    signed = {"payload": base64url(canonical_json(given.document)), "signatures": elements}
    write_whole(arguments.file, signed_bytes(signed), replace=True)
    print(f"{arguments.file}: signed as {arguments.signer}")
    _print_signatures(signed, manifest, before_manifest if before and before.signed else None)


def _check_signable(given: RegionDocument, manifest: RegionManifest, before: RegionDocument | None) -> None:
    problems = []
    if manifest.is_expired(datetime.now(UTC)):
        problems.append(f"has expired ({given.document['expires']}): make it anew with: usmed region renew")
    if before is None and manifest.version > 1:
        problems.append(f"is version {manifest.version}: name the one before with --previous, to see what changes")
    if before is not None:
        earlier = before.manifest()
        if earlier.region != manifest.region:
            problems.append(f"is of the region {manifest.region!r}, {before.path} of {earlier.region!r}")
        if before.signed is None:
            problems.append(f"{before.path} is a draft, which nobody has signed")
        if before.signed is not None and earlier.version + 1 != manifest.version:
            problems.append(f"is version {manifest.version}, {before.path} version {earlier.version}")
        if before.signed is not None and (missing := signatures(before.signed, earlier).missing):
            problems.append(f"{before.path} itself still lacks {missing} signature(s)")
    if problems:
        raise ConfigurationError(str(given.path), problems)


def _is_by(element: Any, document: Any, key: OKPKey, signer: str) -> bool:
    try:
        read_signature(element, document=document, key=key, signer=signer)
    except PeerDataError:
        return False
    return True


def _administrators_key(arguments: argparse.Namespace) -> OKPKey:
    try:
        encrypted = b"ENCRYPTED" in arguments.key.read_bytes()
    except OSError as error:
        raise ConfigurationError(str(arguments.key), [f"cannot be read: {error.strerror}"]) from error
    if not encrypted:
        return load_private_key(arguments.key)
    return load_encrypted_key(arguments.key, _passphrase(arguments, arguments.key, twice=False))


def _passphrase(arguments: argparse.Namespace, key: Path, *, twice: bool) -> str:
    if arguments.passphrase_file is not None:
        try:
            return str(arguments.passphrase_file.read_text("utf-8")).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(str(arguments.passphrase_file), ["cannot be read"]) from error
    if not sys.stdin.isatty():
        raise ConfigurationError(str(key), ["there is no terminal to ask for its passphrase at: use --passphrase-file"])
    given = getpass.getpass(f"Passphrase of {key}: ")
    if twice and getpass.getpass("The same again: ") != given:
        raise ConfigurationError(str(key), ["the two passphrases differ; nothing was written"])
    return given


def _confirm(arguments: argparse.Namespace, given: RegionDocument) -> None:
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(str(given.path), ["there is no terminal to ask at: look at the above, then use --yes"])
    if input("Sign exactly this? Type yes: ").strip() != "yes":
        raise NotValidError("not signed")


def run_verify(arguments: argparse.Namespace) -> None:
    """Check signatures."""
    given = read_region_document(arguments.file)
    manifest = given.manifest()
    trusted: TrustedRegion | None = None
    for one in _in_order(arguments.previous):
        trusted = follow(one.signed or {}, str(one.path), trusted)
    _print_head(given, manifest)
    if given.signed is None:
        raise NotValidError(f"{arguments.file}: a draft, which nobody has signed")
    _print_signatures(given.signed, manifest, trusted.manifest if trusted else None)
    accept(given.signed, str(arguments.file), trusted, datetime.now(UTC))
    if trusted is not None:
        print(f"valid: it follows version {trusted.manifest.version}")
    elif manifest.version == 1:
        print("valid: the first version")
    else:
        print("valid by its own administrators; whether it may follow the one before is seen with --previous")


# ---- out of the machine ----


def _in_order(paths: list[Path]) -> list[RegionDocument]:
    return sorted(map(read_region_document, paths), key=lambda one: int(one.document["version"]))


def run_publish(arguments: argparse.Namespace) -> None:
    """Give manifests to the hub."""
    given = _in_order(arguments.files)
    for one in given:
        require(signatures(one.signed or {}, one.manifest()), f"{one.path}: it")
    hub = given[-1].manifest().hub
    version = _post(arguments.hub or hub.address, hub.tls_certificate, {"versions": [one.signed for one in given]})
    print(f"the hub uses version {version}")
    if version < given[-1].document["version"]:
        raise NotValidError(f"the hub did not take version {given[-1].document['version']}")


def _post(address: str, certificate: str, document: Any) -> int:
    pool = open_pool(address, certificate, connections=1)
    headers = {"Content-Type": "application/json"}
    try:
        response = pool.urlopen(
            "POST",
            "/v1/region/publish",
            body=canonical_json(document),
            headers=headers,
            retries=False,
            redirect=False,
            timeout=urllib3.Timeout(total=PUBLISH_S),
            preload_content=False,
        )
        data = response.read(65536, decode_content=False)
    except BROKEN as error:
        raise TransportError(f"{address} was not reached: {diagnosis(error)}") from error
    finally:
        pool.close()
    answer = parse_json(data, limit_bytes=65536)
    if not isinstance(answer, dict):
        raise PeerDataError(f"{address} answered {response.status} with something else than a hub would")
    if response.status != 200:
        details = "".join(f"\n  - {draft.shown(one)}" for one in answer.get("details") or [] if isinstance(one, str))
        message = draft.shown(answer.get("message", "no reason given"))
        raise RefusedError(str(answer.get("error")), f"the hub refused ({response.status}): {message}{details}")
    version = answer.get("version")
    if type(version) is not int:
        raise PeerDataError(f"{address} answered with something else than a hub would")
    return version


# ---- what people see ----


def run_show(arguments: argparse.Namespace) -> None:
    """Print a manifest or a draft."""
    given = read_region_document(arguments.file)
    if given.missing:
        print(f"{given.path}: a draft")
        for one in given.missing:
            print(f"  not complete yet: {one}")
        print(draft_bytes(given.document).decode("utf-8"), end="")
        return
    manifest = given.manifest()
    _print_head(given, manifest)
    _print_members(manifest)
    if given.signed is not None:
        _print_signatures(given.signed, manifest, None)
    else:
        print("a draft: nobody has signed it")


def run_check(arguments: argparse.Namespace) -> None:
    """Print a manifest that can be used."""
    manifest = load_region(arguments.file)
    _print_head(read_region_document(arguments.file), manifest)
    _print_members(manifest)


def _print_head(given: RegionDocument, manifest: RegionManifest) -> None:
    print(f"{draft.shown(manifest.name)}: region {draft.shown(manifest.region)}, version {manifest.version}")
    print(f"SHA-256 {given.digest}")
    end = f"{manifest.expires:%Y-%m-%d %H:%M %Z}"
    over = ", WHICH IS OVER" if manifest.is_expired(datetime.now(UTC)) else ""
    print(f"issued {manifest.issued:%Y-%m-%d %H:%M %Z}, expires {end}{over}")


def _print_members(manifest: RegionManifest) -> None:
    national = manifest.national_number
    print(f"national number: {f'{draft.shown(national.issuer)} ({national.kind})' if national else 'none'}")
    print(f"portal: {manifest.portal or 'none'}")
    members = [(manifest.hub, "the hub")]
    members += [(one, draft.shown(one.name)) for one in manifest.hospitals.values()]
    members += [(one, draft.shown(one.name)) for one in manifest.key_servers.values()]
    for member, name in members:
        print(f"{member.id}: {name}")
        print(f"    {member.address}, key {public_key_text(member.key)}")
        if member.tls_certificate:
            print(f"    TLS certificate {draft.fingerprint(member.tls_certificate)}")
    for hospital in manifest.hospitals.values():
        print(f"numbers of {', '.join(map(draft.shown, hospital.issuers))}: {hospital.id}")
    for server in manifest.key_servers.values():
        key = public_key_text(server.administrator_key)
        print(f"administrator of {server.id}: {draft.shown(server.administrator)}, key {key}")
    print(f"{manifest.threshold} of {len(manifest.key_servers)} key servers have to agree")


def _print_signatures(signed: Any, manifest: RegionManifest, before: RegionManifest | None) -> None:
    for judges in (manifest, before):
        if judges is None:
            continue
        found = signatures(signed, judges)
        have = ", ".join(sorted(found.signers)) or "none"
        count = f"{len(found.signers)} of {judges.threshold}"
        print(f"signed by {count} administrators of version {judges.version}: {have}")
        if found.missing:
            others = [one for one in judges.key_servers if one not in found.signers]
            print(f"    still needed: {found.missing} of {', '.join(others)}")
