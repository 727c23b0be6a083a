"""Which guest copies may stay: the decision alone, and what belongs to one patient."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from usmed.domain.consent import Consent, Provision, ProvisionType, Purpose, StudyFacts
from usmed.domain.guest_copy import Change, GuestCopy, by_patient, may_stay, uncovered
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import AccessTicket, ConsentReference, Staff

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
CNP, LOCAL, OTHER = (
    PatientIdentifier("RO-CNP", "1800101221144"), PatientIdentifier("SPIRIDON", "7"), PatientIdentifier("PARHON", "9")
)  # fmt: skip
PERMIT, DENY = Provision(ProvisionType.PERMIT), Provision(ProvisionType.DENY)
CT = frozenset({"CT"})
COPY = GuestCopy(
    study=StudyFacts("1.2.3", "spiridon", CT, date(2024, 1, 15)),
    numbers=frozenset({CNP}),
    known_by=frozenset({CNP, OTHER}),
    consents=frozenset({"c-1"}),
    emergency=False,
)


def ticket(*scope: Provision, patient: frozenset[PatientIdentifier] = frozenset({CNP})) -> AccessTicket:
    return AccessTicket(
        jti="j" * 22, region="moldova", requester="parhon", key_thumbprint="k" * 43, staff=Staff("usmed", "retention"),
        patient=patient, purpose=Purpose.TREAT, scope=scope, consents=(ConsentReference("c-2", 1, "0" * 64),),
        issued=NOW, expires=NOW + timedelta(minutes=15),
    )  # fmt: skip


def denial(**changes: object) -> Consent:
    consent = Consent("c-9", 1, frozenset({CNP}), None, None, True, (DENY,))
    return replace(consent, **changes)


def stays(copy: GuestCopy, *tickets: AccessTicket, denials: tuple[Consent, ...] = ()) -> bool:
    return may_stay(copy, tickets, denials, recipient="parhon", now=NOW).permitted


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ((PERMIT,), True),
        ((), False),
        ((DENY, PERMIT), False),
        ((replace(PERMIT, modalities=CT),), True),
        ((replace(PERMIT, modalities=frozenset({"MR"})),), False),
        ((replace(PERMIT, sources=frozenset({"spiridon"})),), True),
        ((replace(PERMIT, sources=frozenset({"regional"})),), False),
        ((replace(PERMIT, studies=frozenset({"1.2.3"})),), True),
        ((replace(PERMIT, studies=frozenset({"1.2.4"})),), False),
        ((replace(PERMIT, study_date_from=date(2024, 1, 15)),), True),
        ((replace(PERMIT, study_date_from=date(2024, 1, 16)),), False),
        ((replace(DENY, modalities=frozenset({"MR"})), PERMIT), True),
        ((replace(DENY, studies=frozenset({"1.2.3"})), PERMIT), False),
    ],
)
def test_a_copy_stays_if_what_holds_now_permits_that_study(scope: tuple[Provision, ...], expected: bool) -> None:
    assert stays(COPY, ticket(*scope)) is expected


def test_without_any_ticket_nothing_stays() -> None:
    assert not stays(COPY)


def test_what_an_emergency_brought_stays_whatever_is_said() -> None:
    assert stays(replace(COPY, emergency=True), denials=(denial(),))


def test_what_this_hospital_was_told_counts_although_key_servers_do_not_know_it() -> None:
    assert not stays(COPY, ticket(PERMIT), denials=(denial(),))
    assert stays(COPY, ticket(PERMIT), denials=(denial(valid_from=NOW + timedelta(days=1)),))
    of_another = denial(provisions=(replace(DENY, recipients=frozenset({"regional"})),))
    assert stays(COPY, ticket(PERMIT), denials=(of_another,))


def test_only_a_ticket_of_this_patient_permits_but_any_denies() -> None:
    of_other = frozenset({OTHER})
    assert not stays(COPY, ticket(PERMIT, patient=of_other))
    assert stays(COPY, ticket(PERMIT), ticket(PERMIT, patient=of_other))
    assert not stays(COPY, ticket(PERMIT), ticket(DENY, PERMIT, patient=of_other))


def test_a_part_whose_modalities_are_not_known_stays_only_if_they_do_not_matter() -> None:
    part = replace(COPY, study=replace(COPY.study, modalities=frozenset(), study_date=None))
    assert stays(part, ticket(PERMIT))
    assert not stays(part, ticket(replace(PERMIT, modalities=CT)))


def test_key_servers_are_asked_on_only_for_copies_that_no_ticket_covers() -> None:
    assert not uncovered([COPY], [ticket(PERMIT)])
    assert uncovered([COPY], [ticket(PERMIT, patient=frozenset({OTHER}))])
    assert uncovered([COPY], [])
    assert not uncovered([replace(COPY, emergency=True)], [])


def copy(uid: str, *known_by: PatientIdentifier, consents: tuple[str, ...] = ()) -> GuestCopy:
    known = frozenset(known_by)
    return replace(
        COPY, study=replace(COPY.study, study_instance_uid=uid), numbers=known, known_by=known,
        consents=frozenset(consents),
    )  # fmt: skip


def test_changes_and_copies_of_one_patient_come_together() -> None:
    stranger = PatientIdentifier("RO-CNP", "2800101221147")
    first, second, third = copy("1.1", CNP, OTHER), copy("1.2", OTHER), copy("1.3", stranger, consents=("c-7",))
    changes = [
        Change("c-1", frozenset({CNP})), Change("c-2", frozenset({OTHER})), Change("c-7", frozenset({LOCAL})),
        Change("c-8", frozenset({LOCAL})),
    ]  # fmt: skip
    found = [
        ({one.consent_id for one in each.changes}, {one.study.study_instance_uid for one in each.copies})
        for each in by_patient(changes, [first, second, third])
    ]
    assert sorted(found, key=str) == sorted(
        [({"c-1", "c-2"}, {"1.1", "1.2"}), ({"c-7"}, {"1.3"}), ({"c-8"}, set())], key=str
    )


def test_a_change_of_which_only_numbers_are_known_concerns_no_copy_by_its_empty_name() -> None:
    assert not copy("1.1", CNP, consents=("c-1",)).concerned_by(Change("", frozenset({OTHER})))
    assert copy("1.1", CNP).concerned_by(Change("", frozenset({CNP})))
