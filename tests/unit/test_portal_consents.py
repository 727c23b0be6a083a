"""What a person chooses becomes exactly that consent; what a consent says, a person can read, all of it."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usmed.domain.consent import Consent, Provision, ProvisionType, Purpose
from usmed.domain.consent_choices import Choices, consent_resource, taken_back
from usmed.domain.fhir_consent import consent_from_fhir
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.study_kinds import COMPANIONS, KINDS
from usmed.hub.portal.choices import months_later, read_birth_date, read_choices
from usmed.hub.portal.describe import PURPOSES, Description, describe
from usmed.hub.portal.words import LANGUAGES

ZONE = ZoneInfo("Europe/Bucharest")
NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
TODAY = date(2026, 11, 22)
PATIENT = PatientIdentifier("RO-CNP", "1630615123457")
NAMES = {"iasi": "Spitalul Sf. Spiridon Iași", "bacau": "Spitalul Județean Bacău", "suceava": "Spitalul Suceava"}
HOSPITALS = frozenset(NAMES)
PERMIT, DENY = ProvisionType.PERMIT, ProvisionType.DENY


def read(choices: Choices) -> Consent:
    """Return what the strict profile makes of these choices."""
    resource = consent_resource(choices, patient=PATIENT, now=NOW, zone=ZONE)
    return consent_from_fhir(resource, id="consent-1", version=1)


def described(*rules: Provision, language: str = "ro", active: bool = True, **bounds: datetime) -> Description:
    bound = {"valid_from": None, "valid_until": None, **bounds}
    consent = Consent("consent-1", 1, frozenset({PATIENT}), active=active, provisions=rules, **bound)
    return describe(consent, language, NAMES, ZONE, {"1.2.3": "tomografie din 2 ianuarie 2026"})


# ---- From choices to a consent ----


def test_a_consent_says_what_was_chosen() -> None:
    consent = read(
        Choices(
            True,
            frozenset({Purpose.TREAT}),
            frozenset({"bacau"}),
            frozenset({"iasi"}),
            KINDS["kind-ct"],
            date(2020, 1, 1),
            date(2025, 12, 31),
            date(2027, 11, 22),
        )
    )
    assert consent.patient == {PATIENT}
    assert consent.active
    assert consent.provisions == (
        Provision(
            PERMIT, frozenset({"bacau"}), frozenset({"iasi"}), frozenset({Purpose.TREAT}),
            KINDS["kind-ct"] | COMPANIONS, frozenset(), date(2020, 1, 1), date(2025, 12, 31),
        ),
    )  # fmt: skip


def test_the_last_day_ends_when_it_ends_where_the_patient_is() -> None:
    winter, summer = (read(Choices(True, until=day)).valid_until for day in (date(2027, 11, 22), date(2027, 7, 1)))
    assert winter == datetime(2027, 11, 22, 22, tzinfo=UTC)
    assert summer == datetime(2027, 7, 1, 21, tzinfo=UTC)


def test_a_denial_of_one_kind_does_not_deny_all_notes() -> None:
    assert read(Choices(False, modalities=KINDS["kind-mr"])).provisions[0].modalities == {"MR"}


def test_nothing_chosen_sets_no_bound() -> None:
    consent = read(Choices(False))
    assert consent.provisions == (Provision(DENY),)
    assert (consent.valid_from, consent.valid_until) == (None, None)


def test_what_is_taken_back_is_the_same_but_for_its_status() -> None:
    resource = consent_resource(Choices(True), patient=PATIENT, now=NOW, zone=ZONE)
    assert taken_back(resource) == {**resource, "status": "inactive"}
    assert not consent_from_fhir(taken_back(resource), id="consent-1", version=2).active
    assert resource["status"] == "active"


def test_a_second_opinion_of_the_resource() -> None:
    fhir = pytest.importorskip("fhir.resources.R4B.consent")
    choices = Choices(True, frozenset(Purpose), HOSPITALS, HOSPITALS, KINDS["kind-ct"], TODAY, TODAY, TODAY)
    resource = consent_resource(choices, patient=PATIENT, now=NOW, zone=ZONE)
    assert fhir.Consent.model_validate(resource).status == "active"


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Choices,
        st.booleans(),
        st.frozensets(st.sampled_from(Purpose)),
        st.frozensets(st.sampled_from(sorted(NAMES))),
        st.frozensets(st.sampled_from(sorted(NAMES))),
        st.frozensets(st.sampled_from(["CT", "MR", "US"])),
        st.none() | st.dates(date(1990, 1, 1), date(2000, 1, 1)),
        st.none() | st.dates(date(2000, 1, 1), date(2040, 1, 1)),
        st.none() | st.dates(date(2026, 1, 1), date(2090, 1, 1)),
    )
)
def test_whatever_is_chosen_is_of_the_profile_and_comes_back(choices: Choices) -> None:
    (rule,) = read(choices).provisions
    assert rule.type is (PERMIT if choices.permits else DENY)
    assert (rule.recipients, rule.sources, rule.purposes) == (choices.recipients, choices.sources, choices.purposes)
    assert rule.modalities - COMPANIONS == choices.modalities
    assert (rule.study_date_from, rule.study_date_to) == (choices.study_from, choices.study_to)


# ---- The form ----

FORM: Mapping[str, list[str]] = {
    "kind": ["permit"], "who": ["some"], "recipients": ["bacau"], "where": ["all"], "what": ["all"], "term": ["year"],
    "study_from": [""], "study_to": [""], "until": [""],
}  # fmt: skip


def test_the_form_as_it_comes() -> None:
    choices, faults = read_choices(FORM, HOSPITALS, TODAY)
    assert faults == {}
    expected = Choices(True, frozenset({Purpose.TREAT}), frozenset({"bacau"}), until=date(2027, 11, 22))
    assert choices == expected


def test_all_that_can_be_chosen() -> None:
    form = {
        **FORM, "who": ["all"], "where": ["some"], "sources": ["iasi", "suceava"], "what": ["some"],
        "kinds": ["kind-ct", "kind-radiograph"], "study_from": ["2020-01-01"], "study_to": ["31.12.2025"],
        "term": ["date"], "until": ["2026-11-22"],
    }  # fmt: skip
    choices, faults = read_choices(form, HOSPITALS, TODAY)
    assert faults == {}
    assert choices == Choices(
        True, frozenset({Purpose.TREAT}), frozenset(), frozenset({"iasi", "suceava"}), frozenset({"CT", "CR", "DX"}),
        date(2020, 1, 1), date(2025, 12, 31), TODAY,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "permits", "purposes"),
    [("permit", True, {Purpose.TREAT}), ("deny", False, {Purpose.TREAT, Purpose.HRESCH}),
     ("emergency", False, {Purpose.ETREAT})],
)  # fmt: skip
def test_each_kind_of_consent_has_its_purposes(kind: str, permits: bool, purposes: set[Purpose]) -> None:
    choices, _ = read_choices({**FORM, "kind": [kind], "who": ["all"], "term": ["none"]}, HOSPITALS, TODAY)
    assert choices == Choices(permits, frozenset(purposes))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("kind", {"kind": []}),
        ("kind", {"kind": ["permit", "deny"]}),
        ("kind", {"kind": ["research"]}),
        # Nobody named must not become everybody.
        ("recipients", {"recipients": []}),
        ("recipients", {"recipients": ["elsewhere"]}),
        ("recipients", {"who": []}),
        ("sources", {"where": ["some"]}),
        ("sources", {"where": [""]}),
        ("kinds", {"what": ["some"]}),
        ("kinds", {"what": ["some"], "kinds": ["CT"]}),
        ("until", {"term": []}),
        ("until", {"term": ["date"]}),
        ("until", {"term": ["date"], "until": ["2026-11-21"]}),
        ("until", {"term": ["date"], "until": ["2077-01-01"]}),
        ("until", {"term": ["date"], "until": ["mâine"]}),
        ("study_from", {"study_from": ["31.02.2020"]}),
        ("study_to", {"study_from": ["2020-01-02"], "study_to": ["2020-01-01"]}),
    ],
)
def test_what_was_not_understood_is_asked_again_and_never_guessed(field: str, changes: dict[str, list[str]]) -> None:
    choices, faults = read_choices({**FORM, **changes}, HOSPITALS, TODAY)
    assert choices is None
    assert list(faults) == [field]


def test_a_kind_of_study_that_nobody_chose_is_no_bound_only_if_all_are_meant() -> None:
    choices, faults = read_choices({**FORM, "what": []}, HOSPITALS, TODAY)
    assert choices is None
    assert list(faults) == ["kinds"]


def test_months_end_when_they_end() -> None:
    assert months_later(date(2027, 1, 31), 1) == date(2027, 2, 28)
    assert months_later(date(2026, 12, 5), 1) == date(2027, 1, 5)
    assert months_later(date(2028, 2, 29), 12) == date(2029, 2, 28)


@pytest.mark.parametrize(
    "typed",
    [("5", "3", "1946"), ("05", "03", "1946"), (" 5 ", "martie", "1946"), ("5", "Mar", "1946"), ("5", "MARCH", " 1946"),
     ("5.3.1946", "", ""), ("05/03/1946", "", ""), ("1946-03-05", "", ""), ("05031946", "", ""),
     ("5 martie 1946", "", "")],
)  # fmt: skip
def test_birth_dates_as_people_type_them(typed: tuple[str, str, str]) -> None:
    assert read_birth_date(*typed, TODAY) == date(1946, 3, 5)


@pytest.mark.parametrize(
    "typed",
    [("", "", ""), ("5", "3", "46"), ("31", "2", "1946"), ("5", "13", "1946"), ("5", "m", "1946"), ("5", "iu", "1946"),
     ("5", "3", "1846"), ("23", "11", "2026"), ("x", "3", "1946"), ("5", "3", "1946 6"), ("٥", "3", "1946")],
)  # fmt: skip
def test_what_is_no_birth_date(typed: tuple[str, str, str]) -> None:
    assert read_birth_date(*typed, TODAY) is None


# ---- What a consent says ----


def test_a_permit_in_words() -> None:
    rule = Provision(PERMIT, frozenset({"bacau"}), purposes=frozenset({Purpose.TREAT}))
    told = described(rule, valid_until=datetime(2027, 11, 22, 22, tzinfo=UTC))
    assert told.headline == "Spitalul Județean Bacău poate vedea imaginile mele medicale"
    assert told.sentences == [
        "Spitalul Județean Bacău poate vedea imaginile mele medicale.",
        "Cine poate vedea: Spitalul Județean Bacău.",
        "Pentru ce: îngrijirea mea medicală.",
        "Imagini făcute la: orice spital.",
        "Feluri de investigații: toate felurile.",
        "Făcute când: oricând.",
        "Până la: sfârșitul zilei de 22 noiembrie 2027.",
    ]


@pytest.mark.parametrize(
    ("rule", "headline"),
    [
        (Provision(PERMIT, purposes=frozenset({Purpose.TREAT})),
         "Any hospital of the region may see my medical images"),
        (Provision(PERMIT, frozenset({"iasi", "bacau"}), frozenset(), frozenset({Purpose.TREAT}), frozenset({"CT"})),
         "Spitalul Județean Bacău and Spitalul Sf. Spiridon Iași may see some of my medical images"),
        (Provision(PERMIT), "Any hospital of the region may see my medical images, for: any purpose: care, emergencies,"
         " research"),
        (Provision(DENY, purposes=frozenset({Purpose.ETREAT})),
         "No hospital of the region may see my medical images in an emergency"),
        (Provision(DENY), "No hospital of the region may see my medical images, not even in an emergency"),
        (Provision(DENY, frozenset({"iasi"}), purposes=frozenset({Purpose.TREAT, Purpose.HRESCH})),
         "Spitalul Sf. Spiridon Iași may not see my medical images, except in emergencies"),
        (Provision(DENY, frozenset({"iasi"}), purposes=frozenset({Purpose.TREAT})),
         "Spitalul Sf. Spiridon Iași may not see my medical images, for: my medical care"),
        (Provision(DENY, frozenset({"iasi"}), purposes=frozenset({Purpose.HRESCH})),
         "Spitalul Sf. Spiridon Iași may not see my medical images, for: medical research"),
        (Provision(PERMIT, frozenset({"closed"})),
         "A hospital that is not in the region any more (“closed”) may see my medical images, for: any purpose: care,"
         " emergencies, research"),
    ],
)  # fmt: skip
def test_the_gist_of_a_rule(rule: Provision, headline: str) -> None:
    assert described(rule, language="en").headline == headline


def test_nothing_is_passed_over() -> None:
    rule = Provision(
        PERMIT, frozenset({"bacau", "gone"}), frozenset({"iasi"}), frozenset(Purpose),
        frozenset({"CT", "SR", "ECG", "CR"}), frozenset({"1.2.3", "1.2.9"}), date(2020, 1, 1), date(2025, 12, 31),
    )  # fmt: skip
    told = " ".join(described(rule, Provision(DENY, frozenset({"suceava"})), active=False).sentences)
    for said in (
        "Bacău", "„gone”", "Sf. Spiridon", "îngrijirea", "urgențe", "cercetare", "tomografii (CT)", "radiografii (CR)",
        "(SR)", "un fel pe care această pagină nu îl cunoaște (ECG)", "tomografie din 2 ianuarie 2026 (nr. 1.2.3)",
        "o investigație pe care regiunea nu o cunoaște (nr. 1.2.9)", "de la 1 ianuarie 2020 până la 31 decembrie 2025",
        "Spitalul Suceava nu poate vedea", "Retragerea acordului",
    ):  # fmt: skip
        assert said in told, said


def test_every_purpose_has_words() -> None:
    assert set(PURPOSES) == set(Purpose)


def test_a_consent_without_rules_says_so() -> None:
    assert described().sentences[0] == "Nu permite și nu interzice nimic."


def test_an_end_in_the_middle_of_a_day_is_told_to_the_second() -> None:
    def until(moment: datetime) -> str:
        return described(valid_until=moment, language="en").sentences[-1]

    assert until(datetime(2027, 3, 1, 0, 0, tzinfo=UTC)) == "Until: 1 March 2027, 02:00."
    assert until(datetime(2027, 3, 1, 0, 0, 5, 250000, tzinfo=UTC)) == "Until: 1 March 2027, 02:00:05.25."
    # The hour that is there twice.
    first = datetime(2027, 10, 31, 0, 30, tzinfo=UTC)
    assert [until(first), until(first + timedelta(hours=1))] == [
        "Until: 31 October 2027, 03:30 EEST.", "Until: 31 October 2027, 03:30 EET.",
    ]  # fmt: skip


HOSPITAL_SETS = st.frozensets(st.sampled_from([*sorted(NAMES), "gone"]), max_size=2)
RULES = st.builds(
    Provision, st.sampled_from(ProvisionType), HOSPITAL_SETS, HOSPITAL_SETS, st.frozensets(st.sampled_from(Purpose)),
    st.frozensets(st.sampled_from(["CT", "CR", "DX", "SR", "ECG", "PT", "NM"]), max_size=3),
    st.frozensets(st.sampled_from(["1.2.3", "1.2.9"])), st.none() | st.dates(), st.none() | st.dates(),
)  # fmt: skip
MOMENTS = st.none() | st.integers(1_600_000_000, 2_200_000_000).map(lambda one: datetime.fromtimestamp(one, UTC))
CONSENTS = st.builds(
    Consent, st.just("consent-1"), st.just(1), st.just(frozenset({PATIENT})), MOMENTS, MOMENTS, st.booleans(),
    st.lists(RULES, max_size=2).map(tuple),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(CONSENTS, CONSENTS, RULES, st.data(), st.sampled_from(sorted(LANGUAGES)))
def test_two_consents_that_differ_never_read_the_same(
    one: Consent, other: Consent, rule: Provision, data: st.DataObject, language: str
) -> None:
    def told(consent: Consent) -> list[str]:
        return describe(consent, language, NAMES, ZONE, {"1.2.3": "CT"}).sentences

    def decided(consent: Consent) -> Any:
        return consent.valid_from, consent.valid_until, consent.active, consent.provisions

    assert (told(one) == told(other)) == (decided(one) == decided(other))
    # Two that differ in one thing only.
    field = data.draw(st.sampled_from(list(Provision.__slots__)))  # type: ignore[attr-defined]
    values = {name: getattr(rule, name) for name in Provision.__slots__}  # type: ignore[attr-defined]
    changed = Provision(**{**values, field: getattr(data.draw(RULES), field)})
    pair = [Consent("c", 1, frozenset({PATIENT}), None, None, True, (each,)) for each in (rule, changed)]
    assert (told(pair[0]) == told(pair[1])) == (rule == changed)
