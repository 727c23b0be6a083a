"""What pages show of consents and studies: gathered from the hub's tables, in the person's language."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any

from flask import g
from sqlalchemy import Connection

from usmed.domain.consent import Consent, ProvisionType
from usmed.domain.consent_choices import taken_back
from usmed.domain.consent_record import ProofKind, consent_document
from usmed.domain.study_kinds import DOCUMENTS, UNKNOWN, sorted_into_kinds
from usmed.domain.withdrawal import Progress
from usmed.hub import consents, studies
from usmed.hub.accesses import Access
from usmed.hub.consents import StoredConsent
from usmed.hub.portal.conflicts import limited_by
from usmed.hub.portal.describe import PURPOSES, Description, describe
from usmed.hub.portal.person import Person
from usmed.hub.portal.web import Services
from usmed.hub.portal.words import day_text, listed, say
from usmed.platform.delivery_store import Delivery

ONE_OF = {
    "kind-radiograph": "a-radiograph", "kind-ct": "a-ct", "kind-mr": "a-mr", "kind-ultrasound": "an-ultrasound",
    "kind-mammography": "a-mammogram", "kind-nuclear": "a-nuclear-scan", "kind-angiography": "an-angiography",
}  # fmt: skip
"""By the word for a kind of study, the word for one of it."""


class State(StrEnum):
    """How a consent stands."""

    IN_FORCE = "in-force"
    ON_ITS_WAY = "on-its-way"
    LATER = "later"
    OVER = "over"
    WITHDRAWN = "withdrawn"
    WITHDRAWING = "withdrawing"


@dataclass(frozen=True, slots=True)
class ShownConsent:
    """A consent as a page shows it.

    Attributes:
        stored: as the hub holds it.
        description: what it says.
        permits: whether it permits anything.
        state: how it stands.
        progress: how far its newest version has come; None if that is not known here.
        refusing: key servers that were reached and did not take it.
        mine: whether the passkey may sign a change of it.
        limited: consents of the same person that deny what it permits.
    """

    stored: StoredConsent
    consent: Consent
    description: Description
    permits: bool
    state: State
    progress: Progress | None
    refusing: tuple[str, ...]
    mine: bool
    limited: tuple[str, ...]

    @property
    def speaks(self) -> bool:
        """Tell whether it has, or will have, an effect."""
        return self.state in (State.IN_FORCE, State.ON_ITS_WAY, State.LATER, State.WITHDRAWING)

    @property
    def can_be_taken_back(self) -> bool:
        """Tell whether a withdrawal would do anything; one under way can be signed anew, if a server refuses it."""
        return self.mine and self.speaks

    @property
    def on_paper(self) -> bool:
        """Tell whether staff attests it, and not the patient's passkey."""
        return self.stored.kind is ProofKind.STAFF

    @property
    def recorded(self) -> datetime:
        """Return since when the hub has this version."""
        return datetime.fromtimestamp(self.stored.recorded, UTC)

    @property
    def takes_away(self) -> bool:
        """Tell whether it is in force only once nothing can be released against it."""
        return _takes_away(self.consent)

    @property
    def is_gone(self) -> bool:
        """Tell whether it is over, or about to be: then it must not read as if it held."""
        return self.state in (State.OVER, State.WITHDRAWN, State.WITHDRAWING)


@dataclass(frozen=True, slots=True)
class ShownStudy:
    """A study as a page shows it."""

    uid: str
    kind: str
    day: date | None
    hospital: str


@dataclass(frozen=True, slots=True)
class ShownAccess:
    """A look at a study as a page shows it; `consents` are those that the page can show."""

    access: Access
    recipient: str
    source: str
    purpose: str
    study: str
    emergency: bool
    consents: tuple[str, ...]

    @property
    def opened(self) -> bool:
        """Tell whether it only says that emergency access was opened."""
        return not self.access.study_instance_uid


def shown_consents(services: Services, person: Person) -> list[ShownConsent]:
    """Return a person's consents, those that speak first, the newest first."""
    with services.database.read() as connection:
        held = consents.of_numbers(connection, person.numbers)
        names = study_names(connection, services, person)
    read = [one.to_domain() for one in held]
    shown = [_shown(services, person, one, read, names) for one in held]
    return sorted(shown, key=lambda one: (not one.speaks, -one.stored.recorded, one.stored.id))


def in_words(services: Services, person: Person, consent: Consent) -> Description:
    """Say what a consent of a person says."""
    with services.database.read() as connection:
        names = study_names(connection, services, person)
    return describe(consent, g.language, services.hospital_names(), services.zone, names)


def shown_studies(services: Services, person: Person) -> list[ShownStudy]:
    """Return where which studies of a person are, the newest first; one that several hospitals hold, at each."""
    with services.database.read() as connection:
        located = studies.of_charts(connection, person.charts)
    names = services.hospital_names()
    shown = [
        ShownStudy(
            one.facts.study_instance_uid, kind_text(one.facts.modalities), one.facts.study_date,
            names.get(one.facts.source, one.facts.source),
        )
        for one in located
    ]  # fmt: skip
    return sorted(shown, key=lambda one: (one.day or date.min, one.uid, one.hospital), reverse=True)


def shown_accesses(services: Services, person: Person, found: Iterable[Access]) -> list[ShownAccess]:
    """Return what a page shows of accesses."""
    names = services.hospital_names()
    with services.database.read() as connection:
        labels = study_names(connection, services, person)
        known = {one.id for one in consents.of_numbers(connection, person.numbers)}
    return [
        ShownAccess(
            one,
            names.get(one.recipient, one.recipient),
            names.get(one.source, one.source),
            say(g.language, PURPOSES[one.purpose]),
            labels.get(one.study_instance_uid) or say(g.language, "a-study"),
            not one.consents,
            tuple(each for each in one.consents if each in known),
        )
        for one in found
    ]


def study_names(connection: Connection, services: Services, person: Person) -> dict[str, str]:
    """Return what people call a person's studies, by Study Instance UID."""
    hospitals = services.hospital_names()
    labels: dict[str, str] = {}
    for one in studies.of_charts(connection, person.charts):
        day = day_text(g.language, one.facts.study_date) if one.facts.study_date else say(g.language, "no-day")
        values = {"day": day, "hospital": hospitals.get(one.facts.source, one.facts.source)}
        text = say(g.language, "study-of", kind=kind_text(one.facts.modalities), **values)
        # Where several hospitals hold it, always the same one is named.
        labels[one.facts.study_instance_uid] = min(text, labels.get(one.facts.study_instance_uid, text))
    return labels


def kind_text(modalities: frozenset[str]) -> str:
    """Return what people call a study of these modalities."""
    kinds = sorted_into_kinds(modalities)
    known = [say(g.language, ONE_OF[name]) for name in kinds if name in ONE_OF]
    if not known:
        codes = [*kinds.get(UNKNOWN, ()), *kinds.get(DOCUMENTS, ())]
        return say(g.language, "another-kind", codes=", ".join(codes)) if codes else say(g.language, "a-study")
    return listed(g.language, known)


def withdrawal_of(services: Services, one: ShownConsent) -> dict[str, Any]:
    """Return the document that takes a consent back: of one under way the very same, which servers know again."""
    if one.consent.active:
        return consent_document(taken_back(one.stored.resource), id=one.stored.id, version=one.stored.version + 1)
    delivery = services.deliveries.latest(one.stored.id)
    if delivery is not None and delivery.item.withdraws:
        document: dict[str, Any] = delivery.item.record["document"]
        return document
    return consent_document(one.stored.resource, id=one.stored.id, version=one.stored.version)


def delivery_of(services: Services, consent: Consent) -> Delivery | None:
    """Return the delivery of the version of a consent that the hub holds."""
    delivery = services.deliveries.latest(consent.id)
    if delivery is None or delivery.item.version < consent.version or delivery.item.withdraws is consent.active:
        return None
    return delivery


def _shown(
    services: Services, person: Person, held: StoredConsent, others: list[Consent], names: dict[str, str]
) -> ShownConsent:
    now, consent = services.clock(), held.to_domain()
    delivery = delivery_of(services, consent)
    progress = services.deliveries.progress(delivery) if delivery else None
    return ShownConsent(
        stored=held,
        consent=consent,
        description=describe(consent, g.language, services.hospital_names(), services.zone, names),
        permits=any(one.type is ProvisionType.PERMIT for one in consent.provisions),
        state=state_of(consent, progress, services.region().threshold, now),
        progress=progress,
        refusing=tuple(sorted(delivery.refusing & services.region().key_servers.keys())) if delivery else (),
        mine=held.patient in person.own,
        limited=tuple(one.id for one in limited_by(consent, others, now)),
    )


def state_of(consent: Consent, progress: Progress | None, threshold: int, now: datetime) -> State:
    """Tell how a consent stands.

    Args:
        consent: its newest version.
        progress: how far that has come; None if it is not known here: then nobody is told that it is done.
        threshold: how many key servers have to hold a permit.
        now: aware UTC.
    """
    if not consent.active:
        return State.WITHDRAWN if progress is not None and progress.done else State.WITHDRAWING
    if consent.valid_until is not None and consent.valid_until <= now:
        return State.OVER
    if progress is None or not (progress.done if _takes_away(consent) else len(progress.holding) >= threshold):
        return State.ON_ITS_WAY
    return State.LATER if consent.valid_from is not None and now < consent.valid_from else State.IN_FORCE


def _takes_away(consent: Consent) -> bool:
    return not consent.active or any(one.type is ProvisionType.DENY for one in consent.provisions)
