"""Emergency access: no consent, two members of staff and a reason instead, and the patient's own refusal wins."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.test_ticket import CONSENTS, NAMES, SERVERS, STUDIES, STUDY, signed
from unit.test_ticket_decision import (
    CNP,
    DENY,
    DIFFERS,
    KEY,
    LOCAL,
    NOW,
    PERMIT,
    STAFF,
    VICTIM,
    enrolment,
    judged,
    record,
)
from unit.test_ticket_decision import ticket as propose_ticket
from usmed.domain.canonical import canonical_json
from usmed.domain.consent import Consent, ProvisionType, Purpose, StudyFacts
from usmed.domain.consent_record import ConsentRecord, ProofKind
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import EMERGENCY_LIFE, AccessTicket, Staff, parse_ticket, verify_ticket
from usmed.domain.ticket_decision import DENIED_BY_PATIENT, MALFORMED, NO_CONSENT, NOT_ONE_PERSON

NURSE = Staff("popa", "nurse")
REASON = "Politraumatism, inconștient, fără aparținători"
ONLY_TREAT, ONLY_ETREAT = frozenset({Purpose.TREAT}), frozenset({Purpose.ETREAT})
CT = frozenset({"CT"})


def emergency(*records: ConsentRecord, **changes: Any) -> AccessTicket:
    arguments = {
        "purpose": Purpose.ETREAT, "confirmed_by": NURSE, "reason": REASON, "life": EMERGENCY_LIFE, **changes,
    }  # fmt: skip
    return propose_ticket(*records, **arguments)


def code(call: Callable[[], Any]) -> str:
    try:
        call()
    except RefusedError as error:
        return error.code
    return ""


def test_no_consent_is_needed_and_the_source_believes_it() -> None:
    one = emergency()
    assert judged(one) == ""
    assert one.expires - one.issued == timedelta(hours=1)
    assert one.decide(STUDY, NOW).permitted
    assert not one.decide(STUDY, one.expires).permitted
    verified = verify_ticket(
        signed(one.to_json()), SERVERS.get, threshold=2, region="moldova", requester="parhon", requester_key=KEY,
        now=NOW + timedelta(minutes=59),
    )  # fmt: skip
    assert verified == one
    assert parse_ticket(one.to_json()) == one


@pytest.mark.parametrize(
    ("denial", "expected"),
    [
        (DENY, DENIED_BY_PATIENT),
        (replace(DENY, purposes=ONLY_ETREAT), DENIED_BY_PATIENT),
        (replace(DENY, purposes=frozenset(Purpose)), DENIED_BY_PATIENT),
        (replace(DENY, recipients=frozenset({"parhon"})), DENIED_BY_PATIENT),
        (replace(DENY, recipients=frozenset({"regional"})), ""),
        (replace(DENY, purposes=ONLY_TREAT), ""),
        (replace(DENY, purposes=frozenset({Purpose.TREAT, Purpose.HRESCH})), ""),
        (replace(DENY, modalities=CT), ""),
    ],
)
def test_the_patients_own_refusal_wins(denial: Any, expected: str) -> None:
    permit = record("c-1")
    assert code(lambda: emergency(permit, record("c-2", denial))) == expected
    # A requester that leaves it out meets a server that knows it.
    differs = {"": "", DENIED_BY_PATIENT: DENIED_BY_PATIENT}[expected]
    if denial.modalities:
        differs = DIFFERS
    assert judged(emergency(permit), permit, record("c-2", denial)) == differs


def test_a_denial_in_part_leaves_the_rest() -> None:
    one = emergency(record("c-2", replace(DENY, modalities=CT, purposes=ONLY_ETREAT)))
    assert not one.decide(STUDY, NOW).permitted
    assert one.decide(replace(STUDY, modalities=frozenset({"MR"})), NOW).permitted
    assert [reference.id for reference in one.consents] == ["c-2"]


def test_a_denial_that_ended_or_was_taken_back_says_nothing() -> None:
    assert judged(emergency(record("c-2", DENY, active=False)), record("c-2", DENY, active=False)) == ""
    assert code(lambda: emergency(record("c-2", DENY, valid_until=NOW))) == ""
    soon = NOW + timedelta(minutes=10)
    assert emergency(record("c-2", DENY, valid_from=soon)).expires == soon


def test_servers_that_know_different_permits_sign_the_same() -> None:
    one = emergency(record("c-1"))
    assert judged(one) == ""
    assert judged(one, record("c-1"), record("c-3", replace(PERMIT, modalities=CT), valid_until=NOW)) == ""


def test_one_patient_only() -> None:
    # Of neither is any consent known: two empty lists are no proof that they are one person's.
    assert code(lambda: emergency(patient=(CNP, VICTIM))) == NOT_ONE_PERSON
    assert code(lambda: emergency(record(), patient=(CNP, VICTIM))) == NOT_ONE_PERSON
    assert code(lambda: emergency(patient=())) == NOT_ONE_PERSON
    links = [enrolment(CNP, LOCAL)]
    assert judged(emergency(patient=(CNP, LOCAL), enrolments=links), enrolments=links) == ""
    assert judged(emergency(patient=(CNP, LOCAL), enrolments=links)) == NOT_ONE_PERSON
    assert judged(emergency(requester="regional")) == MALFORMED


PEOPLE: dict[str, dict[str, Any]] = {
    "nobody": {"confirmed_by": None},
    "the same": {"confirmed_by": STAFF},
    "the same in capitals": {"confirmed_by": Staff("IONESCU", "nurse")},
    "the same, padded": {"confirmed_by": Staff(" ionescu ", "nurse")},
    "the same, wide letters": {"confirmed_by": Staff("ｉonescu", "nurse")},
    "no reason": {"reason": ""},
    "a short reason": {"reason": "urgență"},
    "a padded reason": {"reason": "    urgență    "},
    "a long reason": {"reason": "x" * 501},
    "a reason of two lines": {"reason": "politraumatism\ninconștient"},
}


@pytest.mark.parametrize("changes", PEOPLE.values(), ids=PEOPLE)
def test_two_members_of_staff_and_a_reason(changes: dict[str, Any]) -> None:
    assert code(lambda: emergency(**changes)) == MALFORMED
    forged = replace(emergency(), **changes)
    assert judged(forged) == MALFORMED
    with pytest.raises(PeerDataError):
        parse_ticket(forged.to_json())


def test_an_hour_at_most_and_only_for_emergencies() -> None:
    one = emergency()
    assert judged(replace(one, expires=NOW + timedelta(minutes=61))) == MALFORMED
    longer = propose_ticket(record(), life=timedelta(minutes=16))
    assert judged(longer, record()) == MALFORMED
    for purpose in (Purpose.TREAT, Purpose.HRESCH):
        assert judged(replace(one, purpose=purpose, expires=NOW + timedelta(minutes=9)), record()) in (
            MALFORMED, NO_CONSENT,
        )  # fmt: skip
        with pytest.raises(PeerDataError, match="only an emergency"):
            parse_ticket(replace(one, purpose=purpose).to_json())
        assert code(lambda: propose_ticket(record(), confirmed_by=NURSE)) == MALFORMED
        assert code(lambda: propose_ticket(record(), reason=REASON)) == MALFORMED


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no second person": lambda one: {name: value for name, value in one.items() if name != "confirmed_by"},
    "no reason": lambda one: {name: value for name, value in one.items() if name != "reason"},
    "a person that is text": lambda one: {**one, "confirmed_by": "popa"},
    "a person without a role": lambda one: {**one, "confirmed_by": {"id": "popa"}},
    "a reason that is a list": lambda one: {**one, "reason": [REASON]},
    "nobody, said": lambda one: {**one, "confirmed_by": None},
    "a third person": lambda one: {**one, "confirmed_again": {"id": "x", "role": "y"}},
    "for treatment": lambda one: {**one, "purpose": "TREAT"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_no_emergency_ticket(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(PeerDataError):
        parse_ticket(change(emergency().to_json()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 41) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "role", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*emergency().to_json()]), JSON, max_size=4), st.sampled_from(Purpose))
@settings(max_examples=500, deadline=None)
def test_whatever_the_parser_is_given_it_answers_in_one_way_or_says_no(changes: dict[str, Any], purpose: Any) -> None:
    document = {**emergency().to_json(), "purpose": purpose.value, **changes}
    try:
        one = parse_ticket(document)
    except PeerDataError:
        return
    assert canonical_json(one.to_json()) == canonical_json(document)
    assert (one.purpose is Purpose.ETREAT) == (one.confirmed_by is not None) == bool(one.reason)


def forbidden(consents: list[Consent], requester: str, study: StudyFacts, now: Any) -> bool:
    """The rule in plain words, written again: does a denial in force speak of this emergency and this study?"""
    for consent in consents:
        if not consent.in_force(now):
            continue
        for one in consent.provisions:
            if one.type is not ProvisionType.DENY or (one.purposes and Purpose.ETREAT not in one.purposes):
                continue
            known_date = study.study_date
            if (
                (not one.recipients or requester in one.recipients)
                and (not one.sources or study.source in one.sources)
                and (not one.modalities or not study.modalities or one.modalities & study.modalities)
                and (not one.studies or study.study_instance_uid in one.studies)
                and (known_date is None or one.study_date_from is None or one.study_date_from <= known_date)
                and (known_date is None or one.study_date_to is None or known_date <= one.study_date_to)
            ):
                return True
    return False


@given(st.lists(CONSENTS, max_size=4, unique_by=lambda one: one.id), st.sampled_from(NAMES), STUDIES,
       st.integers(0, 3700))  # fmt: skip
@settings(max_examples=1000, deadline=None)
def test_no_emergency_opens_what_the_patient_forbids(
    consents: list[Consent], requester: str, study: StudyFacts, later_s: int
) -> None:
    """At every moment of its life, and whichever study; and it opens everything else."""
    records = [ConsentRecord(one, "a" * 64, ProofKind.STAFF, "parhon") for one in consents]
    now = NOW + timedelta(seconds=later_s)
    try:
        one = emergency(*records, patient=(PatientIdentifier("A", "2"),), requester=requester)
    except RefusedError as error:
        assert error.code == DENIED_BY_PATIENT
        assert forbidden(consents, requester, study, NOW)
        return
    assert judged(one, *records, recipients={requester}, sender=requester) == ""
    if now < one.expires:
        assert one.decide(study, now).permitted != forbidden(consents, requester, study, now)
    else:
        assert not one.decide(study, now).permitted
