"""The key server's settings: read from the environment, all faults reported at once."""

import getpass
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from joserfc.jwk import OKPKey

from usmed.domain.errors import ConfigurationError
from usmed.keyserver.tickets import Rates
from usmed.platform.environment import DATABASE_URL, REGION_FILE, REGION_POLL_S, setting
from usmed.platform.keys import encryption_key_file, load_encrypted_key, load_or_make_encryption_key, public_key_text
from usmed.platform.mail import MailServer, mail_server
from usmed.platform.region_file import RegionFile, read_region
from usmed.platform.region_store import starting_region
from usmed.platform.region_watch import POLL_S

_log = logging.getLogger(__name__)

ID = "USMED_KEYSERVER_ID"
KEY_FILE = "USMED_PRIVATE_KEY_FILE"
PASSPHRASE = "USMED_PASSPHRASE"  # noqa: S105 - the name of a setting
PATIENTS_PER_HOUR, PATIENTS_PER_DAY = "USMED_PATIENTS_PER_HOUR", "USMED_PATIENTS_PER_DAY"
EMERGENCIES_PER_HOUR, EMERGENCIES_PER_DAY = "USMED_EMERGENCIES_PER_HOUR", "USMED_EMERGENCIES_PER_DAY"
MAXIMUM_BODY_BYTES = "USMED_MAXIMUM_BODY_BYTES"
EXCHANGE_INTERVAL = "USMED_EXCHANGE_INTERVAL_S"
CONSOLE_ADDRESS = "USMED_CONSOLE_ADDRESS"
CERTIFICATE_FILE, TLS_KEY_FILE = "USMED_TLS_CERTIFICATE_FILE", "USMED_TLS_PRIVATE_KEY_FILE"
ADDRESS, PORT, THREADS = "USMED_LISTEN_ADDRESS", "USMED_KEYSERVER_PORT", "USMED_KEYSERVER_THREADS"
DEFAULT_DATABASE_URL = "sqlite:///usmed-keyserver.db"


@dataclass(frozen=True, slots=True)
class KeyServerSettings:
    """What a key server runs with: its id in the region manifest, its key, its limits.

    `exchange_s` is how often it asks each other key server what is new; `encryption_key` is the X25519 key to which
    shares of secrets are encrypted, None for a server that holds none; `console` is the console's address as browsers
    see it, empty where it is the key server's own in the manifest.
    """

    id: str
    key: OKPKey
    limit_bytes: int = 1 << 20
    rates: Rates = field(default_factory=Rates)
    mail: MailServer | None = None
    exchange_s: int = 20
    console: str = ""
    encryption_key: OKPKey | None = None
    region_poll_s: float = POLL_S


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the key server answers, over TLS only."""

    address: str
    port: int
    threads: int
    certificate_file: str
    key_file: str


def load_settings(environ: Mapping[str, str]) -> tuple[KeyServerSettings, RegionFile, str]:
    """Read the settings; return them with the file of the region manifest and the database's URL.

    Raises:
        ConfigurationError: listing everything that is wrong.
    """
    problems: list[str] = []

    def attempt[T](read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ConfigurationError as error:
            problems.extend(f"{error.source}: {problem}" for problem in error.problems)
            return None

    file = attempt(lambda: read_region(path_of(environ, REGION_FILE)))
    given = attempt(lambda: passphrase(environ))
    key = attempt(lambda: load_encrypted_key(path_of(environ, KEY_FILE), given)) if given is not None else None
    url = attempt(lambda: setting(environ, DATABASE_URL, DEFAULT_DATABASE_URL))
    limit = attempt(lambda: _number(environ, MAXIMUM_BODY_BYTES, 1 << 20, 65536, 1 << 26))
    defaults = Rates()
    per_hour = attempt(lambda: _number(environ, PATIENTS_PER_HOUR, defaults.per_hour, 1, 1_000_000))
    per_day = attempt(lambda: _number(environ, PATIENTS_PER_DAY, defaults.per_day, 1, 10_000_000))
    emergencies_per_hour = attempt(
        lambda: _number(environ, EMERGENCIES_PER_HOUR, defaults.emergencies_per_hour, 1, 1_000_000)
    )
    emergencies_per_day = attempt(
        lambda: _number(environ, EMERGENCIES_PER_DAY, defaults.emergencies_per_day, 1, 10_000_000)
    )
    mail = attempt(lambda: mail_server(environ))
    exchange = attempt(lambda: _number(environ, EXCHANGE_INTERVAL, 20, 1, 3600))
    console = attempt(lambda: _console(environ))
    poll_s = attempt(lambda: _number(environ, REGION_POLL_S, int(POLL_S), 1, 3600))
    region = attempt(lambda: starting_region(url, file) if url else file.manifest) if file else None
    id = environ.get(ID, "")
    if not id:
        problems.append(f"environment: {ID} is not set")
    elif region and id not in region.key_servers:
        problems.append(f"{ID}: there is no key server {id!r} in {environ[REGION_FILE]}")
    elif region and key and public_key_text(region.key_servers[id].key) != public_key_text(key):
        problems.append(f"{KEY_FILE}: its public key {public_key_text(key)} is not the one of {id!r} in the region")
    if problems or not file or not key or given is None or not url:
        raise ConfigurationError("settings of the key server", problems)
    if not limit or not per_hour or not per_day or not exchange or not poll_s:
        raise ConfigurationError("settings of the key server", problems)
    assert emergencies_per_hour is not None
    assert emergencies_per_day is not None
    # Last, when everything else is right: the first start makes it.
    encryption_key = _encryption_key(path_of(environ, KEY_FILE), given)
    rates = Rates(per_hour, per_day, emergencies_per_hour, emergencies_per_day)
    read = KeyServerSettings(
        id,
        key,
        limit,
        rates,
        mail=mail,
        exchange_s=exchange,
        encryption_key=encryption_key,
        console=console or "",
        region_poll_s=poll_s,
    )
    return read, file, url


def load_listening(environ: Mapping[str, str]) -> Listening:
    """Read where to answer.

    Raises:
        ConfigurationError: listing everything that is wrong.
    """
    problems: list[str] = []
    files = {}
    for name in (CERTIFICATE_FILE, TLS_KEY_FILE):
        files[name] = environ.get(name, "")
        if not Path(files[name]).is_file():
            problems.append(f"{name} must name a file that can be read (make it with: usmed keys certificate)")
    numbers = {PORT: (8044, 1, 65535), THREADS: (8, 1, 256)}
    read = {}
    for name, (default, lowest, highest) in numbers.items():
        try:
            read[name] = _number(environ, name, default, lowest, highest)
        except ConfigurationError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigurationError("settings of the key server", problems)
    return Listening(
        environ.get(ADDRESS) or "0.0.0.0",  # noqa: S104 - hospitals elsewhere have to reach it
        read[PORT],
        read[THREADS],
        files[CERTIFICATE_FILE],
        files[TLS_KEY_FILE],
    )


def passphrase(environ: Mapping[str, str], *, twice: bool = False) -> str:
    """Return the passphrase of the key: from a setting, from a file, or asked for at the terminal.

    Args:
        environ: the settings.
        twice: for a key that is made now: one typing error would lose it for ever.

    Raises:
        ConfigurationError: none is given, and nobody can be asked; or what was typed differs.
    """
    given = setting(environ, PASSPHRASE)
    if given:
        return given
    if not sys.stdin.isatty():
        raise ConfigurationError("environment", [f"{PASSPHRASE}_FILE is not set, and there is no terminal to ask at"])
    typed = getpass.getpass("Passphrase of the key server's key: ")
    if twice and getpass.getpass("The same again: ") != typed:
        raise ConfigurationError("the key server's key", ["the two passphrases differ; nothing was written"])
    return typed


def _encryption_key(signing_key: Path, given: str) -> OKPKey | None:
    beside = encryption_key_file(signing_key)
    if not beside.exists() and not os.access(beside.parent, os.W_OK):
        _log.warning("%s is missing and cannot be made: this key server holds no shares of secrets", beside)
        return None
    return load_or_make_encryption_key(beside, given)


def path_of(environ: Mapping[str, str], name: str) -> Path:
    """Return the path that a setting names.

    Raises:
        ConfigurationError: it is not set.
    """
    if not environ.get(name):
        raise ConfigurationError("environment", [f"{name} is not set"])
    return Path(environ[name])


def _console(environ: Mapping[str, str]) -> str:
    address = environ.get(CONSOLE_ADDRESS, "").rstrip("/")
    if address and not re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?", address):
        # A passkey belongs to the name of a site (WebAuthn Level 2 §5.1.2).
        raise ConfigurationError("environment", [f"{CONSOLE_ADDRESS} must be https://NAME[:PORT]"])
    return address


def _number(environ: Mapping[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()) or not lowest <= int(text) <= highest:
        raise ConfigurationError("environment", [f"{name} must be a whole number from {lowest} to {highest}"])
    return int(text)
