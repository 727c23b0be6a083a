"""What key servers sign: nothing that the consents of one person, as they hold them, do not say."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from support.wishes import wish_of
from unit.test_ticket import CONSENTS, STUDIES
from usmed.domain.consent import AccessRequest, Consent, Provision, ProvisionType, Purpose, decide
from usmed.domain.consent_record import ConsentRecord, ProofKind
from usmed.domain.enrolment import Credential, Enrolment, linked
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.ticket import LIFE, AccessTicket, Staff
from usmed.domain.ticket_decision import MALFORMED, NO_CONSENT, grant, propose
from usmed.domain.ticket_wish import parse_wish

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
KEY, OTHER_KEY = (OKPKey.generate_key("Ed25519", private=True) for _ in range(2))
CNP, LOCAL, VICTIM = PatientIdentifier("RO-CNP", "1"), PatientIdentifier("A", "2"), PatientIdentifier("RO-CNP", "9")
PERMIT, DENY = Provision(ProvisionType.PERMIT), Provision(ProvisionType.DENY)
STAFF = Staff("ionescu", "radiologist")

DIFFERS = "differs"


def record(id: str = "c-1", *provisions: Provision, patient: PatientIdentifier = CNP, **changes: Any) -> ConsentRecord:
    consent = Consent(id, 1, frozenset({patient}), None, None, True, provisions or (PERMIT,))
    return ConsentRecord(replace(consent, **changes), id.ljust(64, "0"), ProofKind.STAFF, "parhon")


def enrolment(*patient: PatientIdentifier) -> Enrolment:
    return Enrolment("parhon", frozenset(patient), (Credential(b"c", b"k"),), NOW)


def ticket(*records: ConsentRecord, patient: Any = (CNP,), enrolments: Any = (), **changes: Any) -> AccessTicket:
    arguments: dict[str, Any] = {
        "jti": "t" * 24, "region": "moldova", "requester": "parhon", "requester_key": KEY, "staff": STAFF,
        "purpose": Purpose.TREAT, "issued": NOW, **changes,
    }  # fmt: skip
    return propose(records=records, enrolments=enrolments, patient=frozenset(patient), **arguments)


def judged(one: AccessTicket, *records: ConsentRecord, enrolments: Any = (), **changes: Any) -> str:
    """Return the code of the refusal, DIFFERS if a server signs another ticket than this one, or nothing."""
    arguments: dict[str, Any] = {
        "region": "moldova", "recipients": {"parhon", "regional"}, "sender": "parhon", "sender_key": KEY, "now": NOW,
        **changes,
    }  # fmt: skip
    try:
        wish = parse_wish(wish_of(one.to_json()))
        signed = grant(wish, records=records, enrolments=enrolments, **arguments)
    except RefusedError as error:
        return error.code
    except PeerDataError:
        return MALFORMED
    assert wish.is_granted_by(signed, "moldova", arguments["sender_key"])
    return "" if signed == one else DIFFERS


def test_servers_that_know_the_same_sign_the_same() -> None:
    first, second = record("c-1"), record("c-2", DENY, valid_from=NOW + timedelta(days=1))
    assert judged(ticket(first, second), second, first) == ""


def test_a_server_that_knows_more_refuses() -> None:
    one = ticket(record())
    assert judged(one, record(), record("c-2", DENY)) == DIFFERS
    assert judged(one, record(active=False)) == NO_CONSENT
    assert judged(one, record(active=False), record("c-2")) == DIFFERS
    assert judged(one) == NO_CONSENT


def test_another_version_of_a_consent_is_another_ticket() -> None:
    assert judged(ticket(record()), replace(record(), digest="f" * 64)) == DIFFERS


CHANGED: dict[str, dict[str, Any]] = {
    "a wider scope": {"scope": (PERMIT,)},
    "no scope": {"scope": ()},
    "another patient": {"patient": frozenset({VICTIM})},
    "one patient more": {"patient": frozenset({CNP, VICTIM})},
    "another region": {"region": "sud"},
    "another key": {"key_thumbprint": "x" * 43},
    "a longer life": {"expires": NOW + timedelta(hours=1)},
    "no consents named": {"consents": ()},
    "for research": {"purpose": Purpose.HRESCH},
    "for an emergency": {"purpose": Purpose.ETREAT},
}


@pytest.mark.parametrize("changes", CHANGED.values(), ids=CHANGED)
def test_what_a_requester_cannot_slip_in(changes: dict[str, Any]) -> None:
    known = record("c-1", replace(PERMIT, modalities=frozenset({"CT"})))
    one = ticket(known)
    assert judged(one, known) == ""
    assert judged(replace(one, **changes), known) != ""


def test_for_another_hospital_counts_what_is_said_to_that_one() -> None:
    """A source that sends asks for whoever receives; nobody but the source can use what it gets."""
    known = record("c-1", replace(PERMIT, recipients=frozenset({"parhon"})))
    assert judged(replace(ticket(known), requester="regional"), known) == NO_CONSENT
    assert judged(ticket(known), known, sender_key=OTHER_KEY) == DIFFERS


def test_it_is_bound_to_who_asks_for_it_and_for_a_hospital_of_the_region() -> None:
    assert judged(ticket(record()), record(), recipients={"regional"}) == NO_CONSENT
    assert judged(ticket(record()), record(), sender_key=OTHER_KEY) == DIFFERS


@pytest.mark.parametrize("offset_s", [-61, 61, 86_400])
def test_a_ticket_of_another_time(offset_s: int) -> None:
    assert judged(ticket(record()), record(), now=NOW + timedelta(seconds=offset_s)) == MALFORMED


def test_a_ticket_never_outlives_a_consent() -> None:
    end = NOW + timedelta(minutes=3)
    ending = record(valid_until=end)
    assert ticket(ending).expires == end
    denial = record("c-2", DENY, valid_from=end)
    assert ticket(record(), denial).expires == end
    assert judged(ticket(record(), denial), record(), denial) == ""
    assert judged(replace(ticket(ending), expires=NOW + LIFE), ending) == DIFFERS
    # A shorter life is the requester's to choose.
    assert judged(ticket(ending, life=timedelta(minutes=1)), ending) == ""


# ---- Whose identifiers ----


def test_identifiers_are_one_persons_if_a_hospital_enrolled_them_together() -> None:
    links = [enrolment(LOCAL, PatientIdentifier("B", "3")), enrolment(CNP, LOCAL), enrolment(VICTIM)]
    assert linked(PatientIdentifier("B", "3"), links) == {CNP, LOCAL, PatientIdentifier("B", "3")}
    assert linked(VICTIM, links) == {VICTIM}
    one = ticket(record(), patient=(CNP, LOCAL, PatientIdentifier("B", "3")), enrolments=links)
    assert judged(one, record(), enrolments=links) == ""
    # Without the enrolments the ticket covers the number that the consent names, and no other.
    assert judged(one, record()) == DIFFERS
    arguments: dict[str, Any] = {
        "region": "moldova", "recipients": {"parhon"}, "sender": "parhon", "sender_key": KEY, "records": [record()],
        "now": NOW,
    }  # fmt: skip
    alone = grant(parse_wish(wish_of(one.to_json())), enrolments=[], **arguments)
    assert alone.patient == {CNP}
    # And who names one of the numbers gets a ticket for all of them.
    wish = parse_wish(wish_of(replace(one, patient=frozenset({LOCAL})).to_json()))
    whole = grant(wish, enrolments=links, **arguments)
    assert whole == one


def test_one_patients_consent_never_opens_anothers_studies() -> None:
    with pytest.raises(RefusedError, match="one person's"):
        ticket(record(), patient=(CNP, VICTIM))
    with pytest.raises(RefusedError, match="one person's"):
        ticket(record(), record("c-2", patient=VICTIM), patient=(CNP, VICTIM))


def test_a_denial_under_one_number_stops_a_permit_under_another() -> None:
    """Also where nobody has proved that both are one person's: who asks says that they are."""
    permit, denial = record("c-1", patient=LOCAL), record("c-2", DENY, patient=CNP)
    both = replace(ticket(permit, patient=(LOCAL,)), patient=frozenset({LOCAL, CNP}))
    assert judged(both, permit, denial) == NO_CONSENT
    assert judged(ticket(permit, patient=(LOCAL,)), permit, denial) == ""
    # One to somebody else, or that is over, stops nothing.
    for harmless in (
        record("c-2", replace(DENY, recipients=frozenset({"regional"})), patient=CNP),
        record("c-2", DENY, patient=CNP, valid_until=NOW),
        record("c-2", DENY, patient=CNP, active=False),
    ):
        assert judged(both, permit, harmless) == DIFFERS


def test_no_identifier_is_nobody() -> None:
    with pytest.raises(RefusedError):
        ticket(record(), patient=())


@given(st.lists(CONSENTS, max_size=4, unique_by=lambda one: one.id), st.sampled_from(["parhon", "regional"]), STUDIES,
       st.integers(0, 900))  # fmt: skip
@settings(max_examples=500, deadline=None)
def test_no_ticket_permits_what_the_consents_deny(
    consents: list[Consent], requester: str, study: Any, later_s: int
) -> None:
    """At every moment of its life, and whichever study."""
    records = [ConsentRecord(one, "a" * 64, ProofKind.STAFF, "parhon") for one in consents]
    identifiers = frozenset({PatientIdentifier("A", "2")})
    try:
        one = ticket(*records, patient=identifiers, requester=requester)
    except RefusedError:
        return
    assert judged(one, *records) == ""
    now = NOW + timedelta(seconds=later_s)
    expected = decide(consents, AccessRequest(requester, Purpose.TREAT), study, now).permitted
    if now < one.expires:
        assert one.decide(study, now).permitted == expected
    else:
        assert not one.decide(study, now).permitted
