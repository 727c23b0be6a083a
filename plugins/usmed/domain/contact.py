"""Where a person wants to be told that something has happened: addresses, what may be told, and how often.

What a notice says is no part of it: never more than that there is something to see on the portal.
"""

import re
import unicodedata
from collections.abc import Collection
from datetime import timedelta
from email.errors import MessageError
from email.headerregistry import Address
from enum import StrEnum

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from usmed.domain.canonical import sha256_hex
from usmed.domain.errors import PeerDataError

CODE_LIFE = timedelta(minutes=15)
CODE_TRIES = 5
CODE = re.compile(r"\d{6}", re.ASCII)
CODES_AN_HOUR, CODES_A_DAY = 3, 10
"""Of one person in an hour; to one address, whoever asks, in a day."""

UNCONFIRMED_LIFE = timedelta(days=1)
"""How long an address is kept that nobody confirms."""

KEPT = timedelta(days=3)
"""How long a notice waits for its gateway: later it tells nothing new."""

MOST_A_DAY = 10
"""Notices to one address in one day (UTC), those of emergencies aside."""

HOME = "RO"
LONGEST_EMAIL, LONGEST_LOCAL_PART = 254, 64
"""RFC 5321 §4.5.3.1, with the errata of RFC 3696."""

_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]", re.ASCII)
_COSTLY = {
    PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST, PhoneNumberType.UAN, PhoneNumberType.PAGER,
    PhoneNumberType.VOICEMAIL, PhoneNumberType.TOLL_FREE,
}  # fmt: skip
"""Numbers that are no person's telephone; a message to some of them earns their owner money."""


class Channel(StrEnum):
    """How somebody is told."""

    EMAIL = "email"
    SMS = "sms"


class Topic(StrEnum):
    """What somebody is told of.

    ASKED: a request waits for an answer. LOOKED: somebody received studies. EMERGENCY: without a consent. CONSENT:
    something was allowed, forbidden or taken back. PHONE: a passkey was enrolled or blocked.
    """

    ASKED = "asked"
    LOOKED = "looked"
    EMERGENCY = "emergency"
    CONSENT = "consent"
    PHONE = "phone"


ALWAYS = Topic.EMERGENCY
CHOSEN = tuple(one for one in Topic if one is not ALWAYS)
"""What a person may leave out."""

LEAST_APART = {Topic.LOOKED: timedelta(days=1), Topic.EMERGENCY: timedelta(hours=1)}
"""Of notices of one kind to one address. One is enough for all that is to be seen then."""


def read_address(channel: Channel, text: str) -> str:
    """Return an address as it is kept: an e-mail address, or a telephone number in E.164 (`07…` is Romania's).

    Raises:
        PeerDataError: it is none; the message repeats nothing of it.
    """
    return _email(text) if channel is Channel.EMAIL else _number(text)


def _email(text: str) -> str:
    typed = text.strip()
    local, _, domain = typed.rpartition("@")
    written = f"{local}@{domain.lower()}"
    if not (written.isascii() and written.isprintable()) or len(written) > LONGEST_EMAIL or " " in written:
        raise PeerDataError("an e-mail address has ASCII characters only, 254 at most")
    if not 1 <= len(local) <= LONGEST_LOCAL_PART or not _DOMAIN.fullmatch(domain.lower()) or '"' in local:
        raise PeerDataError("an e-mail address is written name@example.org")
    try:
        parsed = Address(addr_spec=written)
    except (MessageError, ValueError, IndexError) as error:
        raise PeerDataError("an e-mail address is written name@example.org") from error
    if parsed.addr_spec != written:
        raise PeerDataError("an e-mail address is written name@example.org")
    return written


def _number(text: str) -> str:
    typed = unicodedata.normalize("NFKC", text).strip()
    if not re.fullmatch(r"\+?[0-9 ().\-/]{6,30}", typed, re.ASCII):
        raise PeerDataError("a telephone number has digits, and + with the country before them")
    try:
        parsed = phonenumbers.parse(typed, HOME)
    except phonenumbers.NumberParseException as error:
        raise PeerDataError("this is no telephone number") from error
    # By length only: which numbers are in use changes faster than any list of them.
    if not phonenumbers.is_possible_number(parsed) or parsed.extension:
        raise PeerDataError("this telephone number has too few or too many digits")
    kind = phonenumbers.number_type(parsed)
    mobile = kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE)
    if kind in _COSTLY or (phonenumbers.region_code_for_number(parsed) == HOME and not mobile):
        raise PeerDataError("no SMS can be sent to this telephone number")
    return str(phonenumbers.format_number(parsed, PhoneNumberFormat.E164))


def hidden(channel: Channel, address: str) -> str:
    """Return as much of an address as its owner knows it by: whoever looks over a shoulder learns less."""
    if channel is Channel.SMS:
        return f"{address[:3]} … {address[-3:]}"
    local, _, domain = address.rpartition("@")
    return f"{local[:2]}…@{domain}"


def code_digest(contact: str, code: str) -> str:
    """Return what is kept of a code that was sent."""
    return sha256_hex(f"{contact} {code}".encode())


def read_code(text: str) -> str:
    """Return a code as it was typed, without blanks.

    Raises:
        PeerDataError: it is none; nothing is learned by trying it.
    """
    code = "".join(text.split())
    if not CODE.fullmatch(code):
        raise PeerDataError("a code has six digits")
    return code


def may_tell(topic: Topic, chosen: Collection[Topic], last: int, told_today: int, now: int) -> bool:
    """Tell whether an address gets a notice.

    Args:
        topic: of the notice.
        chosen: what the person wants to be told of.
        last: when there was the last one of this topic; 0 for never. Unix time in seconds, as `now`.
        told_today: how many the address got today, emergencies aside.
    """
    if last and now - last < LEAST_APART.get(topic, timedelta()).total_seconds():
        return False
    return topic is ALWAYS or (topic in chosen and told_today < MOST_A_DAY)
