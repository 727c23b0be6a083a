"""Enrolments: what a hospital can state of a person's numbers and passkeys, and which passkeys count when."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from fido2 import cbor
from fido2.cose import ES256, PS256, RS1, RS256, CoseKey, EdDSA
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from support.phone import Phone
from usmed.domain.enrolment import (
    MAXIMUM_NEEDED,
    Basis,
    Credential,
    Enrolment,
    Guardian,
    check_enrolled_numbers,
    comparison_code,
    enrol,
    held_enrolment,
    is_passkey_key,
    linked,
    needed_for,
    one_person_fault,
    read_enrolment,
    valid_credentials,
)
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import NationalNumber, PatientIdentifier
from usmed.domain.request_signature import sign_document

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
HOSPITALS = {name: OKPKey.generate_key("Ed25519", private=True) for name in ("parhon", "regional")}
HUB = OKPKey.generate_key("Ed25519", private=True)
CNP, LOCAL = PatientIdentifier("RO-CNP", "1980418226705"), PatientIdentifier("PARHON", "77120")
PHONE, TABLET = Phone(b"phone").credential, Phone(b"tablet").credential
MOTHER = Guardian(Basis.PARENT, NOW + timedelta(days=3650))


def enrolled(hospital: str = "parhon", now: datetime = NOW, **changes: Any) -> str:
    content: dict[str, Any] = {"patient": [CNP], "credentials": [PHONE], **changes}
    return enrol(HOSPITALS[hospital], hospital=hospital, now=now, **content)


def read(token: str, hospital: str = "parhon") -> Enrolment:
    return read_enrolment(token, hospital=hospital, keys=HOSPITALS.get, now=NOW)


def test_a_hospital_enrols_a_passkey() -> None:
    expected = Enrolment("parhon", frozenset({CNP}), (PHONE,), NOW)
    assert read(enrolled()) == expected
    assert (expected.guardian, expected.revoked) == (None, frozenset())


def test_a_hospital_states_numbers_of_one_person_who_has_no_passkey() -> None:
    joined = read(enrolled(patient=[LOCAL, CNP], credentials=[]))
    assert (joined.patient, joined.credentials) == ({CNP, LOCAL}, ())
    with pytest.raises(PeerDataError, match="joins at least 2"):
        read(enrolled(credentials=[]))


@pytest.mark.parametrize("basis", Basis)
def test_somebody_acts_for_the_patient(basis: Basis) -> None:
    guardian = Guardian(basis, NOW + timedelta(seconds=1))
    assert read(enrolled(guardian=guardian)).guardian == guardian


def test_a_lost_phone_is_revoked_with_a_new_one_or_without() -> None:
    assert read(enrolled(credentials=[], revoked=[PHONE.id])).revoked == {PHONE.id}
    changed = read(enrolled(credentials=[TABLET], revoked=[PHONE.id, b"another"]))
    assert (changed.credentials, changed.revoked) == ((TABLET,), {PHONE.id, b"another"})


def test_what_is_held_is_read_without_the_key_of_who_left() -> None:
    for token in (enrolled(), enrolled(guardian=MOTHER), enrolled(credentials=[], revoked=[PHONE.id])):
        assert held_enrolment(token, "parhon") == read(token)


def signed(**changes: Any) -> str:
    content = {"typ": "usmed-enrolment", "patient": [{"issuer": "A", "value": "1"}],
               "credentials": [{"id": "00", "public_key": PHONE.public_key.hex()}], "iat": 1, **changes}  # fmt: skip
    return sign_document(HOSPITALS["parhon"], sender="parhon", document=content)


def test_what_it_is_signed_like_here_is_one() -> None:
    assert read(signed())
    assert read(signed(guardian={"basis": "court", "until": 2}, revoked=["01"]))


def passkey(id: str = "00", key: str = PHONE.public_key.hex()) -> dict[str, str]:
    return {"id": id, "public_key": key}


NONE: dict[str, tuple[str, str]] = {
    "forged by the hub": (sign_document(HUB, sender="parhon", document={}), "does not verify"),
    "the hub's own": (sign_document(HUB, sender="hub", document={}), "not in the region"),
    "another hospital's": (enrolled("regional"), "signed by somebody else"),
    "of the future": (enrolled(now=NOW + timedelta(minutes=5)), "in the future"),
    "another type": (signed(typ="usmed-consent"), "is no enrolment"),
    "a member more": (signed(more=1), "exactly the members"),
    "no object": (sign_document(HOSPITALS["parhon"], sender="parhon", document={"typ": 1}), "exactly the members"),
    "nobody": (signed(patient=[]), "1 to 50 identifiers"),
    "half a number": (signed(patient=[{"issuer": "A"}]), "malformed"),
    "too many numbers": (signed(patient=[{"issuer": "A", "value": str(n)} for n in range(51)]), "1 to 50 identifiers"),
    "nothing": (signed(credentials=[]), "has a passkey, or revokes one"),
    "digits that are none": (signed(credentials=[passkey("x")]), "malformed"),
    "too many passkeys": (signed(credentials=[passkey(f"{n:02x}") for n in range(11)]), "at most 10 passkeys"),
    "an id that is empty": (signed(credentials=[passkey("")]), "id has 1 to"),
    "an id that is too long": (signed(credentials=[passkey("00" * 1024)]), "id has 1 to"),
    "a key that is empty": (signed(credentials=[passkey(key="")]), "public key has"),
    "a key that is none": (signed(credentials=[passkey("00"), passkey("01", "00")]), "none of ES256"),
    "a key that is too long": (signed(credentials=[passkey(key="00" * 4097)]), "public key has"),
    "a time that is none": (signed(iat="x"), "whole seconds"),
    "a time after all times": (signed(iat=1 << 39), "whole seconds"),
    "revoked: nothing": (signed(revoked=[]), "revokes 1 to"),
    "revoked: too much": (signed(revoked=[f"{n:04x}" for n in range(51)]), "revokes 1 to"),
    "revoked: no list": (signed(revoked="00"), "revokes 1 to"),
    "revoked: null": (signed(revoked=None), "revokes 1 to"),
    "revoked: no text": (signed(revoked=[1]), "malformed"),
    "revoked: empty": (signed(revoked=[""]), "id has 1 to"),
    "added and revoked": (signed(revoked=["00"]), "not both"),
    "a guardian without a passkey": (
        signed(credentials=[], revoked=["01"], guardian={"basis": "parent", "until": 2}), "has a passkey",
    ),
    "a guardian that is null": (signed(guardian=None), "basis and until"),
    "a guardian of no kind": (signed(guardian={"basis": "aunt", "until": 2}), "parent, guardian, court"),
    "a guardian of a kind that is no text": (signed(guardian={"basis": ["parent"], "until": 2}), "parent, guardian"),
    "a guardian for ever": (signed(guardian={"basis": "parent", "until": None}), "whole seconds"),
    "a guardian for true": (signed(guardian={"basis": "parent", "until": True}), "whole seconds"),
    "a guardian without end": (signed(guardian={"basis": "parent"}), "basis and until"),
    "a guardian whose time was over": (signed(guardian={"basis": "parent", "until": 1}), "was over"),
    "no token": ("", "not a JWS"),
    "something like a token": ("a.b.c", "not a JWS"),
}  # fmt: skip


@pytest.mark.parametrize(("token", "reason"), NONE.values(), ids=NONE)
def test_an_enrolment_that_is_none(token: str, reason: str) -> None:
    with pytest.raises(PeerDataError, match=reason):
        read(token)


RSA = rsa.generate_private_key(65537, 2048).public_key()
ELLIPTIC = ES256.from_cryptography_key(Phone().key.public_key())
EDWARDS = EdDSA.from_cryptography_key(ed25519.Ed25519PrivateKey.generate().public_key())


@pytest.mark.parametrize("key", [ELLIPTIC, EDWARDS, RS256.from_cryptography_key(RSA)], ids=["ES256", "EdDSA", "RS256"])
def test_keys_by_which_passkeys_sign(key: CoseKey) -> None:
    assert is_passkey_key(cbor.encode(dict(key)))


@pytest.mark.parametrize(
    "key",
    [
        b"", b"no CBOR", cbor.encode(7), cbor.encode([1, 2]), cbor.encode({}), b"\x81" * 4000, b"\xbf\xff",
        cbor.encode({**ELLIPTIC, 3: -9999}),
        cbor.encode({**ELLIPTIC, 3: "ES256"}),
        cbor.encode({**ELLIPTIC, 3: [-7]}),
        cbor.encode({**ELLIPTIC, 1: 3}),
        cbor.encode({**ELLIPTIC, -1: 2}),
        cbor.encode({**ELLIPTIC, -2: bytes(32)}),
        cbor.encode({**ELLIPTIC, -3: "text"}),
        cbor.encode({name: value for name, value in ELLIPTIC.items() if name != 1}),
        cbor.encode({**EDWARDS, -2: bytes(31)}),
        cbor.encode({**RS256.from_cryptography_key(RSA), -1: b""}),
        cbor.encode(dict(PS256.from_cryptography_key(RSA))),
        cbor.encode(dict(RS1.from_cryptography_key(RSA))),
        cbor.encode(dict(ELLIPTIC)) + b"\x00",
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_keys_by_which_no_passkey_signs(key: bytes) -> None:
    assert not is_passkey_key(key)


@given(st.binary(max_size=200))
def test_no_key_raises(key: bytes) -> None:
    assert not is_passkey_key(key)


def told(*numbers: PatientIdentifier, seconds: int = 0, **content: Any) -> Enrolment:
    return Enrolment("parhon", frozenset(numbers), content.pop("credentials", ()), NOW + timedelta(seconds=seconds),
                     **content)  # fmt: skip


def local(number: int) -> PatientIdentifier:
    return PatientIdentifier("PARHON", str(number))


def test_what_proves_a_signature_adds_the_passkey_revokes_it_or_links_it_to_the_number() -> None:
    adding, revoking = told(local(2), credentials=(PHONE,)), told(local(2), revoked=frozenset({PHONE.id}))
    way = [told(CNP, local(1)), told(local(1), local(2))]
    others = [told(CNP, local(3)), told(CNP, credentials=(TABLET,)), told(local(3), revoked=frozenset({TABLET.id}))]
    given = [others[0], revoking, way[1], others[1], adding, way[0], others[2]]
    assert needed_for(given, PHONE, CNP) == [revoking, way[1], adding, way[0]]
    assert needed_for(given, PHONE, local(2)) == [revoking, adding]
    assert needed_for(given, TABLET, CNP) == [others[0], others[1], others[2]]


def test_nothing_proves_what_no_enrolment_links() -> None:
    elsewhere = [told(CNP, local(1)), told(local(2), credentials=(PHONE,))]
    assert needed_for(elsewhere, PHONE, CNP) == []
    assert needed_for([], PHONE, CNP) == []
    assert needed_for([told(CNP, revoked=frozenset({PHONE.id}))], PHONE, CNP) == []


def test_what_is_needed_is_bounded_and_still_proves_however_many_there_are() -> None:
    chain = [told(local(number), local(number + 1)) for number in range(45)]
    own = told(local(45), credentials=(PHONE,))
    liars = [told(local(45), seconds=n, credentials=(Credential(PHONE.id, b"another"),)) for n in range(300)]
    guardians = [told(local(45), seconds=n, credentials=(PHONE,), guardian=MOTHER) for n in range(300)]
    revoking = [told(local(45), seconds=n, revoked=frozenset({PHONE.id})) for n in range(300)]
    needed = needed_for([*liars, *guardians, *revoking, *chain, own], PHONE, local(0))
    assert len(needed) <= MAXIMUM_NEEDED <= 100
    assert {*chain, own} <= set(needed)
    assert not set(liars) & set(needed)
    assert local(45) in linked(local(0), needed)
    assert valid_credentials([one for one in needed if not one.revoked], NOW) == [PHONE]


def test_a_hospital_enrols_under_its_own_numbers_and_the_national_one() -> None:
    issuers = {"parhon": frozenset({"PARHON", "RO-CNP"}), "regional": frozenset({"REGIONAL", "RO-CNP"})}
    enrolment = read(enrolled(patient=[CNP, LOCAL]))
    check_enrolled_numbers(enrolment, issuers.__getitem__)
    foreign = read(enrolled("regional", patient=[CNP, LOCAL]), "regional")
    with pytest.raises(PeerDataError, match=r"^regional does not assign numbers of PARHON$"):
        check_enrolled_numbers(foreign, issuers.__getitem__)


def test_one_person_has_one_national_number_and_fifty_in_all() -> None:
    national = NationalNumber("RO-CNP")
    many = [PatientIdentifier("A", str(number)) for number in range(50)]
    other = PatientIdentifier("RO-CNP", "2800101221145")
    assert one_person_fault({CNP, LOCAL}, national) == ""
    assert one_person_fault({CNP, other}, national) == "one person has one national number"
    assert one_person_fault({CNP, other}, None) == ""
    assert one_person_fault(many, national) == ""
    assert one_person_fault([*many, CNP], national) == "one person has at most 50 numbers"


def test_numbers_are_one_persons_by_chains_of_enrolments() -> None:
    third, stranger = PatientIdentifier("B", "3"), PatientIdentifier("B", "4")
    chain = [read(enrolled(patient=[LOCAL, third])), read(enrolled(patient=[CNP, LOCAL]))]
    assert linked(CNP, chain) == {CNP, LOCAL, third}
    assert linked(stranger, chain) == {stranger}


# ---- Which passkeys count ----


def said(*credentials: Credential, **changes: Any) -> Enrolment:
    return Enrolment("parhon", frozenset({CNP}), credentials, NOW, **changes)


def test_a_passkey_counts_once_however_often_it_was_enrolled() -> None:
    assert valid_credentials([said(PHONE), said(TABLET, PHONE)], NOW) == [PHONE, TABLET]
    assert valid_credentials([], NOW) == []


def test_what_one_hospital_revokes_counts_nowhere_and_comes_back_by_no_enrolment() -> None:
    revoked = said(revoked=frozenset({PHONE.id}))
    for enrolments in ([said(PHONE, TABLET), revoked], [revoked, said(PHONE, TABLET)]):
        assert valid_credentials(enrolments, NOW) == [TABLET]
    # Another key under that id neither.
    assert valid_credentials([revoked, said(Credential(PHONE.id, b"another key"))], NOW) == []


def test_a_guardian_signs_until_the_day_and_not_at_it() -> None:
    child = [said(PHONE, guardian=Guardian(Basis.PARENT, NOW))]
    assert valid_credentials(child, NOW - timedelta(seconds=1)) == [PHONE]
    assert valid_credentials(child, NOW) == []
    # Renewed; or the patient's own, who was given the phone.
    assert valid_credentials([*child, said(PHONE, guardian=MOTHER)], NOW) == [PHONE]
    assert valid_credentials([*child, said(PHONE)], NOW) == [PHONE]


enrolments_of_anybody = st.lists(
    st.builds(
        said,
        st.sampled_from([PHONE, TABLET]),
        revoked=st.frozensets(st.sampled_from([PHONE.id, TABLET.id])),
        guardian=st.none() | st.builds(Guardian, st.sampled_from(Basis), st.sampled_from([NOW, MOTHER.until])),
    ),
    max_size=5,
)


@given(enrolments_of_anybody, enrolments_of_anybody)
def test_the_order_of_enrolments_means_nothing_and_no_enrolment_undoes_a_revocation(
    some: list[Enrolment], more: list[Enrolment]
) -> None:
    valid = set(valid_credentials(some + more, NOW))
    assert valid == set(valid_credentials(more + some, NOW))
    assert not {one.id for one in valid} & {id for one in some for id in one.revoked}


# ---- What clerk and patient compare ----


def test_the_comparison_code_is_six_digits_of_the_passkey() -> None:
    assert comparison_code(Credential(b"phone", b"key of the phone")) == "003 582"
    assert comparison_code(Credential(PHONE.id, b"another key")) != comparison_code(PHONE)
    assert comparison_code(Credential(b"another", PHONE.public_key)) != comparison_code(PHONE)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_the_comparison_code_always_has_two_groups_of_three_digits(id: bytes, key: bytes) -> None:
    first, second = comparison_code(Credential(id, key)).split(" ")
    assert len(first) == len(second) == 3
    assert (first + second).isdigit()
