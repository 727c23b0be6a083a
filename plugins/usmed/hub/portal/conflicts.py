"""Where one consent limits another: a denial always wins (`domain.consent.decide`), and a person should know before."""

from collections.abc import Iterable, Set
from datetime import date, datetime

from usmed.domain.consent import Consent, Provision, ProvisionType


def limited_by(permitting: Consent, others: Iterable[Consent], now: datetime) -> list[Consent]:
    """Return those of the others that deny, in part at least, what a consent permits.

    Args:
        permitting: whose permits are meant.
        others: consents of the same person; only those that hold now or later count.
        now: aware UTC.
    """
    return [
        one for one in others
        if one.id != permitting.id and one.active and (one.valid_until is None or now < one.valid_until)
        and any(
            _meet(permit, deny)
            for permit in permitting.provisions if permit.type is ProvisionType.PERMIT
            for deny in one.provisions if deny.type is ProvisionType.DENY
        )
    ]  # fmt: skip


def _meet(permit: Provision, deny: Provision) -> bool:
    """Tell whether there can be a study and a purpose that both speak of."""
    return (
        _share(permit.recipients, deny.recipients)
        and _share(permit.sources, deny.sources)
        and _share(permit.purposes, deny.purposes)
        and _share(permit.modalities, deny.modalities)
        and _share(permit.studies, deny.studies)
        and _before(permit.study_date_from, deny.study_date_to)
        and _before(deny.study_date_from, permit.study_date_to)
    )


def _share[T](one: Set[T], other: Set[T]) -> bool:
    return not one or not other or bool(one & other)


def _before(first: date | None, last: date | None) -> bool:
    return first is None or last is None or first <= last
