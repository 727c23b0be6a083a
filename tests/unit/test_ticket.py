"""The access ticket: its one form, what refuses it, and that its scope never permits what the consents deny."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from usmed.domain.canonical import canonical_json
from usmed.domain.consent import AccessRequest, Consent, Provision, ProvisionType, Purpose, StudyFacts, decide
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.quorum import QuorumError, assemble, sign
from usmed.domain.ticket import (
    CLOCK_TOLERANCE,
    LIFE,
    LONGEST_LIFE,
    AccessTicket,
    ConsentReference,
    Staff,
    parse_ticket,
    permits_anything,
    scope_of,
    thumbprint,
    verify_ticket,
)

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
SERVERS = {name: OKPKey.generate_key("Ed25519", private=True) for name in ("keys-1", "keys-2", "keys-3")}
REQUESTER = OKPKey.generate_key("Ed25519", private=True)
OTHER = OKPKey.generate_key("Ed25519", private=True)
PATIENT = frozenset({PatientIdentifier("RO-CNP", "1"), PatientIdentifier("A", "2")})
STUDY = StudyFacts("1.2.3", "sf-spiridon", frozenset({"CT"}), date(2020, 5, 17))
PERMIT, DENY = ProvisionType.PERMIT, ProvisionType.DENY


def ticket(**changes: Any) -> AccessTicket:
    return replace(
        AccessTicket(
            jti="t" * 24,
            region="nord-est",
            requester="parhon",
            key_thumbprint=thumbprint(REQUESTER),
            staff=Staff("ionescu", "radiologist"),
            patient=PATIENT,
            purpose=Purpose.TREAT,
            scope=(Provision(DENY, modalities=frozenset({"MR"})), Provision(PERMIT)),
            consents=(ConsentReference("c-1", 3, "a" * 64),),
            issued=NOW,
            expires=NOW + LIFE,
        ),
        **changes,
    )


def signed(document: Any, *names: str) -> dict[str, Any]:
    names = names or ("keys-1", "keys-2")
    return assemble(document, [sign(SERVERS[name], signer=name, document=document) for name in names])


def verified(document: Any, **changes: Any) -> AccessTicket:
    arguments: dict[str, Any] = {
        "threshold": 2, "region": "nord-est", "requester": "parhon", "requester_key": REQUESTER, "now": NOW, **changes,
    }  # fmt: skip
    return verify_ticket(document, SERVERS.get, **arguments)


def test_what_is_written_is_read() -> None:
    one = ticket(
        scope=scope_of(
            [
                consent(
                    Provision(
                        PERMIT,
                        sources=frozenset({"b", "a"}),
                        modalities=frozenset({"CT"}),
                        studies=frozenset({"1.2"}),
                        study_date_from=date(2020, 1, 1),
                        study_date_to=date(2021, 1, 1),
                    ),
                    Provision(DENY, studies=frozenset({"1.3"})),
                )
            ],
            AccessRequest("parhon", Purpose.TREAT),
            NOW,
        )
    )
    assert parse_ticket(one.to_json()) == one
    assert verified(signed(one.to_json())) == one


REFUSED: list[tuple[str, Callable[[], Any], dict[str, Any], str]] = [
    ("one signature", lambda: signed(ticket().to_json(), "keys-1"), {}, "1 of the 2"),
    ("another region", lambda: signed(ticket(region="sud").to_json()), {}, "another region"),
    ("another hospital's", lambda: signed(ticket(requester="regional").to_json()), {}, "another hospital"),
    ("presented by another", lambda: signed(ticket().to_json()), {"requester": "regional"}, "another hospital"),
    ("with another key", lambda: signed(ticket().to_json()), {"requester_key": OTHER}, "another key"),
    ("not yet valid", lambda: signed(ticket().to_json()), {"now": NOW - timedelta(seconds=61)}, "not valid yet"),
    ("expired", lambda: signed(ticket().to_json()), {"now": NOW + LIFE}, "expired"),
    ("two hours", lambda: signed(ticket(expires=NOW + timedelta(hours=2)).to_json()), {}, "lives from"),
    ("backwards", lambda: signed(ticket(expires=NOW - timedelta(hours=2)).to_json()), {}, "lives from"),
]


@pytest.mark.parametrize(
    ("make", "changes", "reason"), [one[1:] for one in REFUSED], ids=[one[0] for one in REFUSED]
)
def test_what_is_refused(make: Callable[[], Any], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PeerDataError, match=reason):
        verified(make(), **changes)


def test_a_ticket_of_a_clock_that_is_a_minute_ahead_is_valid_and_none_is_after_its_end() -> None:
    document = signed(ticket().to_json())
    assert verified(document, now=NOW - CLOCK_TOLERANCE)
    assert verified(document, now=NOW + LIFE - timedelta(seconds=1))
    assert not verified(document).decide(STUDY, NOW + LIFE).permitted


def test_a_server_that_left_the_region_counts_no_more() -> None:
    document = signed(ticket().to_json(), "keys-1", "keys-3")
    left = {name: key for name, key in SERVERS.items() if name != "keys-3"}
    with pytest.raises(QuorumError, match="'keys-3' is nobody whose signature counts"):
        verify_ticket(
            document, left.get, threshold=2, region="nord-est", requester="parhon", requester_key=REQUESTER, now=NOW
        )


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a member more": lambda one: {**one, "more": 1},
    "a member less": lambda one: {name: value for name, value in one.items() if name != "jti"},
    "another type": lambda one: {**one, "typ": "JWT"},
    "a short jti": lambda one: {**one, "jti": "x"},
    "a jti that is a number": lambda one: {**one, "jti": 1},
    "no patient": lambda one: {**one, "patient": []},
    "a patient twice": lambda one: {**one, "patient": [*one["patient"], one["patient"][0]]},
    "patients in another order": lambda one: {**one, "patient": one["patient"][::-1]},
    "a padded number": lambda one: {**one, "patient": [{"issuer": "A", "value": "2 "}]},
    "an unknown purpose": lambda one: {**one, "purpose": "HMARKT"},
    "a scope that is an object": lambda one: {**one, "scope": {}},
    "a rule of an unknown type": lambda one: {**one, "scope": [{"type": "allow"}]},
    "a rule with recipients": lambda one: {**one, "scope": [{"type": "permit", "recipients": ["parhon"]}]},
    "a rule with an empty list": lambda one: {**one, "scope": [{"type": "permit", "modalities": []}]},
    "a rule with a list in another order": lambda one: {**one, "scope": [{"type": "permit", "sources": ["b", "a"]}]},
    "a day that is none": lambda one: {**one, "scope": [{"type": "permit", "from": "2026-13-01"}]},
    "a study that is no UID": lambda one: {**one, "scope": [{"type": "permit", "studies": ["x"]}]},
    "a digest that is short": lambda one: {**one, "consents": [{"id": "c", "version": 1, "sha256": "a"}]},
    "a version that is a truth": lambda one: {**one, "consents": [{"id": "c", "version": True, "sha256": "a" * 64}]},
    "a time that is a fraction": lambda one: {**one, "iat": one["iat"] + 0.5},
    "a time that is text": lambda one: {**one, "exp": str(one["exp"])},
    "a time beyond the calendar": lambda one: {**one, "iat": 1 << 39, "exp": (1 << 39) + 60},
    "another confirmation": lambda one: {**one, "cnf": {"kid": "parhon"}},
    "a list": lambda one: [one],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_no_ticket(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(PeerDataError):
        parse_ticket(change(ticket().to_json()))


# ---- The scope ----

NAMES = ["parhon", "regional", "sf-spiridon"]


def subsets(values: list[Any]) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(st.sampled_from(values), max_size=2)


PROVISIONS = st.builds(
    Provision,
    type=st.sampled_from(ProvisionType),
    recipients=subsets(NAMES),
    sources=subsets(NAMES),
    purposes=subsets(list(Purpose)),
    modalities=subsets(["CT", "MR", "US"]),
    studies=subsets(["1.2.3", "1.2.4"]),
    study_date_from=st.none() | st.dates(date(2019, 1, 1), date(2021, 1, 1)),
    study_date_to=st.none() | st.dates(date(2019, 1, 1), date(2021, 1, 1)),
)
TIMES = st.none() | st.integers(-86_400, 86_400).map(lambda seconds: NOW + timedelta(seconds=seconds))
CONSENTS = st.builds(
    Consent,
    id=st.sampled_from(["c-1", "c-2", "c-3"]),
    version=st.just(1),
    patient=st.just(PATIENT),
    valid_from=TIMES,
    valid_until=TIMES,
    active=st.booleans(),
    provisions=st.lists(PROVISIONS, max_size=3).map(tuple),
)
STUDIES = st.builds(
    StudyFacts,
    study_instance_uid=st.sampled_from(["1.2.3", "1.2.4", "1.2.5"]),
    source=st.sampled_from(NAMES),
    modalities=subsets(["CT", "MR", "PT"]),
    study_date=st.none() | st.dates(date(2018, 1, 1), date(2022, 1, 1)),
)


def consent(*provisions: Provision) -> Consent:
    return Consent("c", 1, PATIENT, None, None, True, provisions)


@given(st.lists(CONSENTS, max_size=4), st.sampled_from(NAMES), st.sampled_from(Purpose), STUDIES)
@settings(max_examples=1000, deadline=None)
def test_a_ticket_says_what_the_consents_say(
    consents: list[Consent], recipient: str, purpose: Purpose, study: StudyFacts
) -> None:
    request = AccessRequest(recipient, purpose)
    scope = scope_of(consents, request, NOW)
    staff = {"confirmed_by": Staff("popa", "nurse"), "reason": "Politraumatism"} if purpose is Purpose.ETREAT else {}
    one = ticket(requester=recipient, purpose=purpose, scope=scope, **staff)
    expected = decide(consents, request, study, NOW).permitted
    assert one.decide(study, NOW).permitted == expected
    assert parse_ticket(one.to_json()) == one
    if expected:
        assert permits_anything(scope)


@given(st.lists(CONSENTS, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_servers_that_hold_the_same_consents_sign_the_same_bytes(consents: list[Consent], random: Any) -> None:
    shuffled = [*consents, *consents]
    random.shuffle(shuffled)
    request = AccessRequest("parhon", Purpose.TREAT)
    first, second = (ticket(scope=scope_of(one, request, NOW)).to_json() for one in (consents, shuffled))
    assert canonical_json(first) == canonical_json(second)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 41) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*ticket().to_json()]), JSON, max_size=12))
@settings(max_examples=500, deadline=None)
def test_whatever_the_parser_is_given_it_answers_or_says_no(changes: dict[str, Any]) -> None:
    document = {**ticket().to_json(), **changes}
    try:
        one = parse_ticket(document)
    except PeerDataError:
        return
    assert canonical_json(one.to_json()) == canonical_json(document)


def test_a_ticket_decides_nothing_after_its_end() -> None:
    one = ticket(scope=(Provision(PERMIT),))
    assert one.decide(STUDY, NOW).permitted
    assert not one.decide(STUDY, one.expires).permitted
    assert LIFE <= LONGEST_LIFE
