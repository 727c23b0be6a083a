"""What notices to people say: that there is something to see on the portal, and nothing of what it is about.

Never a hospital, a department, a study, a name or a number: e-mail and SMS are read on the way, and on locked screens.
"""

import unicodedata

from usmed.domain.contact import CODE_LIFE, KEPT, Channel, Topic
from usmed.platform.notices import Notice

LANGUAGES = ("ro", "en")

SUBJECTS: dict[Topic, tuple[str, str]] = {
    Topic.ASKED: ("Aveți o întrebare nouă în portalul USMED", "You have a new question on the USMED portal"),
    Topic.LOOKED: ("Este ceva nou în portalul USMED", "There is something new on the USMED portal"),
    Topic.EMERGENCY: (
        "Mesaj important în portalul USMED: vă rugăm să intrați",
        "Important message on the USMED portal: please log in",
    ),
    Topic.CONSENT: ("S-a schimbat o permisiune în portalul USMED", "A permission has changed on the USMED portal"),
    Topic.PHONE: (
        "S-a schimbat ceva la telefoanele cu care intrați în portalul USMED",
        "Something has changed about the phones that you log in with on the USMED portal",
    ),
}
CODE_SUBJECT = ("Codul pentru portalul USMED", "The code for the USMED portal")
CODE_TEXT = (
    "Codul dumneavoastră pentru portalul USMED: {code}. Este bun {minutes} minute. Nu îl spuneți nimănui.",
    "Your code for the USMED portal: {code}. It is good for {minutes} minutes. Tell it to nobody.",
)
FOOT = (
    "Primiți acest mesaj pentru că ați cerut să fiți anunțat. Nu vă cerem niciodată coduri sau parole. Adresa se scoate"
    " din portal, la „Notificări”.",
    "You get this message because you asked to be told. We never ask for codes or passwords. You can take the address"
    " out on the portal, under “Notices”.",
)
CODE_FOOT = (
    "Dacă nu ați cerut dumneavoastră codul, cineva a greșit adresa: nu aveți nimic de făcut.",
    "If you did not ask for this code, somebody mistyped an address: there is nothing for you to do.",
)


def notice(channel: Channel, address: str, language: str, topic: Topic, portal: str) -> Notice:
    """Return the notice of a topic.

    Args:
        portal: where the portal is.
    """
    n = _number(language)
    subject = SUBJECTS[topic][n]
    if channel is Channel.SMS:
        return Notice("", plain(f"{subject}: {portal}"), address, channel.value, KEPT)
    return Notice(subject, f"{subject}:\n\n{portal}\n\n-- \n{FOOT[n]}\n", address, channel.value, KEPT)


def code_notice(channel: Channel, address: str, language: str, code: str) -> Notice:
    """Return the notice with a code."""
    n = _number(language)
    text = CODE_TEXT[n].format(code=code, minutes=int(CODE_LIFE.total_seconds()) // 60)
    if channel is Channel.SMS:
        return Notice("", plain(text), address, channel.value, CODE_LIFE)
    return Notice(CODE_SUBJECT[n], f"{text}\n\n{CODE_FOOT[n]}\n", address, channel.value, CODE_LIFE)


def plain(text: str) -> str:
    """Return a text without diacritics: with one of them a message holds 70 characters and not 160 (3GPP TS 23.038)."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(one for one in parts if not unicodedata.combining(one)).encode("ascii", "ignore").decode("ascii")


def _number(language: str) -> int:
    return LANGUAGES.index(language) if language in LANGUAGES else 0
