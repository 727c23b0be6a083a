"""The decision, against a plain table and against the rules said once more in other words."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usmed.domain.consent import AccessRequest, Consent, Decision, Provision, ProvisionType, Purpose, StudyFacts, decide
from usmed.domain.identifiers import PatientIdentifier

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
PATIENT = frozenset({PatientIdentifier("RO-CNP", "1")})
REQUEST = AccessRequest("parhon", Purpose.TREAT)
STUDY = StudyFacts("1.2.3", "sf-spiridon", frozenset({"CT"}), date(2020, 5, 17))
PERMIT, DENY = ProvisionType.PERMIT, ProvisionType.DENY


def provision(type: ProvisionType = PERMIT, **criteria: Any) -> Provision:
    """Return a rule; lists become sets."""
    return Provision(type, **{k: frozenset(v) if isinstance(v, list) else v for k, v in criteria.items()})


def consent(*provisions: Provision, id: str = "c", active: bool = True, **bounds: datetime | None) -> Consent:
    """Return a consent that holds for ever unless bounds are given."""
    times: dict[str, datetime | None] = {"valid_from": None, "valid_until": None, **bounds}
    return Consent(id=id, version=1, patient=PATIENT, active=active, provisions=provisions, **times)


def permitted(
    *consents: Consent, request: AccessRequest = REQUEST, study: StudyFacts = STUDY, now: datetime = NOW
) -> bool:
    """Decide, and check that the reason fits."""
    decision = decide(consents, request, study, now)
    assert decision.reason
    assert decision.permitted is False or decision.consent_id
    return decision.permitted


def test_nothing_said_means_no() -> None:
    assert decide([], REQUEST, STUDY, NOW) == Decision(False, "", "no consent permits it")
    assert not permitted(consent())


MATCHING: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"recipients": ["parhon"]}, True),
    ({"recipients": ["regional", "parhon"]}, True),
    ({"recipients": ["regional"]}, False),
    ({"recipients": ["PARHON"]}, False),
    ({"sources": ["sf-spiridon"]}, True),
    ({"sources": ["regional"]}, False),
    ({"purposes": [Purpose.TREAT]}, True),
    ({"purposes": [Purpose.ETREAT, Purpose.HRESCH]}, False),
    ({"modalities": ["CT"]}, True),
    ({"modalities": ["CT", "MR"]}, True),
    ({"modalities": ["MR"]}, False),
    ({"studies": ["1.2.3"]}, True),
    ({"studies": ["1.2.30"]}, False),
    ({"study_date_from": date(2020, 5, 17)}, True),
    ({"study_date_from": date(2020, 5, 18)}, False),
    ({"study_date_to": date(2020, 5, 17)}, True),
    ({"study_date_to": date(2020, 5, 16)}, False),
    ({"study_date_from": date(2020, 1, 1), "study_date_to": date(2020, 12, 31)}, True),
    ({"recipients": ["parhon"], "modalities": ["MR"]}, False),
    ({"recipients": ["regional"], "modalities": ["CT"]}, False),
    (
        {
            "recipients": ["parhon"], "sources": ["sf-spiridon"], "purposes": [Purpose.TREAT], "modalities": ["CT"],
            "studies": ["1.2.3"], "study_date_from": date(2020, 1, 1), "study_date_to": date(2021, 1, 1),
        },
        True,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("criteria", "matches"), MATCHING, ids=lambda one: str(one)[:60])
def test_a_rule_holds_where_all_its_criteria_fit(criteria: dict[str, Any], matches: bool) -> None:
    assert permitted(consent(provision(**criteria))) is matches
    everything = provision()
    # The same criteria in a deny take away exactly what the permit gave.
    assert permitted(consent(everything, provision(DENY, **criteria))) is not matches
    assert permitted(consent(provision(DENY, **criteria), everything)) is not matches
    assert permitted(consent(everything, id="a"), consent(provision(DENY, **criteria), id="b")) is not matches


UNKNOWN: list[tuple[dict[str, Any], AccessRequest, StudyFacts]] = [
    ({"recipients": ["parhon"]}, AccessRequest(None, Purpose.TREAT), STUDY),
    ({"modalities": ["CT"]}, REQUEST, replace(STUDY, modalities=frozenset())),
    ({"study_date_from": date(2020, 1, 1)}, REQUEST, replace(STUDY, study_date=None)),
    ({"study_date_to": date(2021, 1, 1)}, REQUEST, replace(STUDY, study_date=None)),
]


@pytest.mark.parametrize(("criteria", "request_", "study"), UNKNOWN, ids=lambda one: str(one)[:40])
def test_an_unknown_fact_never_permits_and_always_denies(
    criteria: dict[str, Any], request_: AccessRequest, study: StudyFacts
) -> None:
    assert not permitted(consent(provision(**criteria)), request=request_, study=study)
    assert permitted(consent(provision()), request=request_, study=study)
    assert not permitted(consent(provision(), provision(DENY, **criteria)), request=request_, study=study)


def test_every_modality_of_a_study_must_be_permitted_and_one_is_enough_to_deny() -> None:
    pet_ct = replace(STUDY, modalities=frozenset({"PT", "CT"}))
    assert not permitted(consent(provision(modalities=["CT"])), study=pet_ct)
    assert permitted(consent(provision(modalities=["CT", "PT"])), study=pet_ct)
    # Two permits do not add up: each says what may go by itself.
    assert not permitted(consent(provision(modalities=["CT"]), provision(modalities=["PT"])), study=pet_ct)
    assert not permitted(consent(provision(), provision(DENY, modalities=["PT"])), study=pet_ct)


BOUNDS: list[tuple[datetime | None, datetime | None, bool]] = [
    (None, None, True),
    (NOW, None, True),
    (NOW + timedelta(microseconds=1), None, False),
    (None, NOW, False),
    (None, NOW + timedelta(microseconds=1), True),
    (NOW - timedelta(days=1), NOW + timedelta(days=1), True),
]


@pytest.mark.parametrize(("start", "end", "in_force"), BOUNDS)
def test_a_consent_holds_from_its_first_instant_until_before_its_last(
    start: datetime | None, end: datetime | None, in_force: bool
) -> None:
    assert permitted(consent(provision(), valid_from=start, valid_until=end)) is in_force
    denied = consent(provision(DENY), id="d", valid_from=start, valid_until=end)
    assert permitted(consent(provision()), denied) is not in_force


def test_a_withdrawn_consent_says_nothing_at_all() -> None:
    assert not permitted(consent(provision(), active=False))
    assert permitted(consent(provision()), consent(provision(DENY), active=False))


def test_the_decision_names_the_consent_that_decided() -> None:
    yes, no = consent(provision(), id="yes"), consent(provision(DENY), id="no")
    assert decide([yes], REQUEST, STUDY, NOW).consent_id == "yes"
    assert decide([yes, no], REQUEST, STUDY, NOW).consent_id == "no"
    assert decide([no, yes], REQUEST, STUDY, NOW).consent_id == "no"


# ---- Any input: few values, so that rules and requests meet often. ----

DAYS = st.sampled_from([date(2020, 1, 1), date(2020, 1, 2), date(2020, 1, 3)])
TIMES = st.sampled_from([NOW - timedelta(days=1), NOW, NOW + timedelta(days=1)])
HOSPITALS = ("a", "b", "c")
MODALITIES = ("CT", "MR", "PT")


def some(values: tuple[Any, ...]) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(st.sampled_from(values), max_size=2)


PROVISIONS = st.builds(
    Provision,
    type=st.sampled_from(ProvisionType),
    recipients=some(HOSPITALS),
    sources=some(HOSPITALS),
    purposes=some(tuple(Purpose)),
    modalities=some(MODALITIES),
    studies=some(("1.2", "1.3")),
    study_date_from=st.none() | DAYS,
    study_date_to=st.none() | DAYS,
)
CONSENTS = st.lists(
    st.builds(
        Consent,
        id=st.sampled_from("xyz"),
        version=st.just(1),
        patient=st.just(PATIENT),
        valid_from=st.none() | TIMES,
        valid_until=st.none() | TIMES,
        active=st.sampled_from([True, True, False]),
        provisions=st.lists(PROVISIONS, max_size=3).map(tuple),
    ),
    max_size=4,
)
REQUESTS = st.builds(AccessRequest, recipient=st.none() | st.sampled_from(HOSPITALS), purpose=st.sampled_from(Purpose))
STUDIES = st.builds(
    StudyFacts,
    study_instance_uid=st.sampled_from(["1.2", "1.3", "1.4"]),
    source=st.sampled_from(HOSPITALS),
    modalities=some(MODALITIES),
    study_date=st.none() | DAYS,
)


def fits(rule: Provision, request: AccessRequest, study: StudyFacts) -> list[bool | None]:
    """Return for each criterion that the rule states whether it fits: True, False, or None for unknown."""
    stated: list[bool | None] = []
    if rule.recipients:
        stated.append(None if request.recipient is None else request.recipient in rule.recipients)
    if rule.sources:
        stated.append(study.source in rule.sources)
    if rule.purposes:
        stated.append(request.purpose in rule.purposes)
    if rule.studies:
        stated.append(study.study_instance_uid in rule.studies)
    if rule.study_date_from is not None:
        stated.append(None if study.study_date is None else not study.study_date < rule.study_date_from)
    if rule.study_date_to is not None:
        stated.append(None if study.study_date is None else not study.study_date > rule.study_date_to)
    if rule.modalities:
        # A permit has to cover all of a study, a deny reaches it by any part.
        join = all if rule.type is PERMIT else any
        stated.append(join(one in rule.modalities for one in study.modalities) if study.modalities else None)
    return stated


def plainly(consents: list[Consent], request: AccessRequest, study: StudyFacts) -> bool:
    """The rules once more: nobody in force denies or might deny, and somebody in force surely permits."""
    speaking = [
        rule
        for one in consents
        if one.active
        and not (one.valid_from is not None and one.valid_from > NOW)
        and not (one.valid_until is not None and one.valid_until <= NOW)
        for rule in one.provisions
    ]
    for rule in speaking:
        if rule.type is DENY and False not in fits(rule, request, study):
            return False
    return any(rule.type is PERMIT and set(fits(rule, request, study)) <= {True} for rule in speaking)


@settings(max_examples=200, deadline=None)
@given(CONSENTS, REQUESTS, STUDIES)
def test_no_input_is_decided_otherwise_than_the_plain_rules_do(
    consents: list[Consent], request_: AccessRequest, study: StudyFacts
) -> None:
    decision = decide(consents, request_, study, NOW)
    assert decision.permitted is plainly(consents, request_, study)


def test_ten_thousand_single_rules_against_a_permit_for_all() -> None:
    """Far more pairs of criteria than the search above meets: each rule alone, and as an exception."""
    random = Random(20261121)

    def few(values: tuple[Any, ...]) -> frozenset[Any]:
        return frozenset(random.sample(values, random.choice((0, 0, 1, 2))))

    days = (None, None, date(2020, 1, 1), date(2020, 1, 2), date(2020, 1, 3))
    for _ in range(10_000):
        rule = Provision(
            random.choice(tuple(ProvisionType)), few(HOSPITALS), few(HOSPITALS), few(tuple(Purpose)), few(MODALITIES),
            few(("1.2", "1.3")), random.choice(days), random.choice(days),
        )  # fmt: skip
        study = StudyFacts(
            random.choice(("1.2", "1.3")), random.choice(HOSPITALS), few(MODALITIES), random.choice(days)
        )
        request = AccessRequest(random.choice((None, *HOSPITALS)), random.choice(tuple(Purpose)))
        for consents in ([consent(rule)], [consent(provision()), consent(rule)]):
            assert decide(consents, request, study, NOW).permitted is plainly(consents, request, study), (
                rule,
                request,
                study,
            )


@settings(max_examples=80, deadline=None)
@given(CONSENTS, REQUESTS, STUDIES, st.randoms(use_true_random=False))
def test_the_order_of_consents_and_rules_has_no_meaning(
    consents: list[Consent], request_: AccessRequest, study: StudyFacts, random: Any
) -> None:
    shuffled = [replace(one, provisions=tuple(random.sample(one.provisions, len(one.provisions)))) for one in consents]
    random.shuffle(shuffled)
    assert decide(shuffled, request_, study, NOW).permitted is decide(consents, request_, study, NOW).permitted


@settings(max_examples=80, deadline=None)
@given(CONSENTS, PROVISIONS, REQUESTS, STUDIES)
def test_one_more_deny_never_permits_and_one_more_permit_never_denies(
    consents: list[Consent], rule: Provision, request_: AccessRequest, study: StudyFacts
) -> None:
    before = decide(consents, request_, study, NOW).permitted
    after = decide([*consents, consent(rule, id="new")], request_, study, NOW).permitted
    assert after <= before if rule.type is DENY else after >= before


@settings(max_examples=80, deadline=None)
@given(CONSENTS, REQUESTS, STUDIES)
def test_knowing_less_never_permits_more(consents: list[Consent], request_: AccessRequest, study: StudyFacts) -> None:
    known = decide(consents, request_, study, NOW).permitted
    for less in (replace(study, study_date=None), replace(study, modalities=frozenset())):
        assert decide(consents, request_, less, NOW).permitted <= known
    unnamed = replace(request_, recipient=None)
    assert decide(consents, unnamed, study, NOW).permitted <= known
