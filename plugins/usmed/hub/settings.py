"""The hub's settings: read from the environment, all faults reported at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from joserfc.jwk import OKPKey

from usmed.domain.errors import ConfigurationError
from usmed.hub.accesses import KEPT
from usmed.hub.proxies import Networks, read_proxies
from usmed.platform.environment import DATABASE_URL, REGION_FILE, setting
from usmed.platform.keys import load_private_key, public_key_text
from usmed.platform.mail import MailServer, mail_server
from usmed.platform.region_file import RegionFile, read_region
from usmed.platform.region_store import starting_region
from usmed.platform.sms import SmsGateway, sms_gateway

PRIVATE_KEY_FILE = "USMED_PRIVATE_KEY_FILE"
MAXIMUM_BODY_BYTES = "USMED_MAXIMUM_BODY_BYTES"
TRUSTED_PROXIES = "USMED_TRUSTED_PROXIES"
ACCESSES_KEPT_DAYS = "USMED_ACCESSES_KEPT_DAYS"
DEFAULT_DATABASE_URL = "sqlite:///usmed-hub.db"
DEFAULT_BODY_BYTES = 8 << 20
"""A bucket of a hospital with three million studies has some 12,000 records of 300 bytes."""


@dataclass(frozen=True, slots=True)
class HubSettings:
    """What the hub runs with; without a mail server and an SMS gateway, patients get no notices."""

    database_url: str
    region: RegionFile
    key: OKPKey
    limit_bytes: int
    proxies: Networks = ()
    mail: MailServer | None = None
    sms: SmsGateway | None = None
    accesses_kept: timedelta = KEPT


def load_settings(environ: Mapping[str, str]) -> HubSettings:
    """Read the settings of the hub's process.

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

    url = attempt(lambda: database_url(environ))
    region = attempt(lambda: region_of(environ))
    key = attempt(lambda: load_private_key(_path(environ, PRIVATE_KEY_FILE)))
    limit = attempt(lambda: _number(environ, MAXIMUM_BODY_BYTES, DEFAULT_BODY_BYTES, 65536, 1 << 30))
    days = attempt(lambda: _number(environ, ACCESSES_KEPT_DAYS, KEPT.days, 1, 36525))
    proxies = attempt(lambda: read_proxies(environ.get(TRUSTED_PROXIES, ""), TRUSTED_PROXIES))
    mail = attempt(lambda: mail_server(environ, for_administrators=False))
    sms = attempt(lambda: sms_gateway(environ))
    believed = attempt(lambda: starting_region(url, region)) if url and region else None
    believed = believed or (region.manifest if region else None)
    if believed and key and public_key_text(believed.hub.key) != public_key_text(key):
        problems.append(f"{PRIVATE_KEY_FILE}: its public key {public_key_text(key)} is not the region's hub's")
    if problems or not url or not region or not key or not limit or not days or proxies is None:
        raise ConfigurationError("settings of the hub", problems)
    return HubSettings(url, region, key, limit, proxies, mail, sms, timedelta(days=days))


def database_url(environ: Mapping[str, str]) -> str:
    """Return where the hub's tables are."""
    return setting(environ, DATABASE_URL, DEFAULT_DATABASE_URL)


def region_of(environ: Mapping[str, str]) -> RegionFile:
    """Return the region manifest that the environment names.

    Raises:
        ConfigurationError: none is named, or it is wrong.
    """
    return read_region(_path(environ, REGION_FILE))


def _path(environ: Mapping[str, str], name: str) -> Path:
    if not environ.get(name):
        raise ConfigurationError("environment", [f"{name} is not set"])
    return Path(environ[name])


def _number(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise ConfigurationError("environment", [f"{name}: must be a whole number from {least} to {most}"])
    return int(text)
