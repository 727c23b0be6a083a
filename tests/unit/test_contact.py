"""Addresses as people write them, and how often one is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usmed.domain.contact import (
    CHOSEN,
    LEAST_APART,
    MOST_A_DAY,
    Channel,
    Topic,
    code_digest,
    hidden,
    may_tell,
    read_address,
    read_code,
)
from usmed.domain.errors import PeerDataError
from usmed.hub import notice_words
from usmed.hub.notice_words import code_notice, notice, plain
from usmed.hub.portal.words import LANGUAGES

DAY = 86400
NUMBERS = {
    "0722 123 456": "+40722123456", "+40 722-123-456": "+40722123456", "0040722123456": "+40722123456",
    "0722.123.456": "+40722123456", "+49 1512 3456789": "+4915123456789", "+373 69 123 456": "+37369123456",
    " ０７２２１２３４５６ ": "+40722123456", "+1 (212) 555-0123": "+12125550123",
}  # fmt: skip
NO_NUMBERS = [
    "", "112", "0722 123", "0722 123 456 789", "0232 123 456", "0900 123 456", "0800 123 456", "+", "+0722123456",
    "0722123456;ext=1", "0722 123 456\r\nBcc: x", "tel:0722123456", "+999 123456789", "٠٧٢٢١٢٣٤٥٦", "0722123456" * 9,
]  # fmt: skip


@pytest.mark.parametrize(("typed", "kept"), NUMBERS.items(), ids=NUMBERS)
def test_a_number_is_kept_in_e_164(typed: str, kept: str) -> None:
    assert read_address(Channel.SMS, typed) == kept


@pytest.mark.parametrize("typed", NO_NUMBERS)
def test_what_is_no_mobile_number_is_refused_and_not_repeated(typed: str) -> None:
    with pytest.raises(PeerDataError) as caught:
        read_address(Channel.SMS, typed)
    assert len(typed) < 2 or typed not in str(caught.value)


def test_an_e_mail_address_is_kept_as_it_is_delivered() -> None:
    assert read_address(Channel.EMAIL, " Ana.Pop+usmed@Exemplu.RO ") == "Ana.Pop+usmed@exemplu.ro"
    assert read_address(Channel.EMAIL, "o'neil@mail.exemplu.ro") == "o'neil@mail.exemplu.ro"


@pytest.mark.parametrize(
    "typed",
    [
        "", "ana", "ana@",
        "@exemplu.ro", "ana@exemplu", "ana@@exemplu.ro", "ana pop@exemplu.ro", "ana@exemplu.ro,b@c.ro",
        "Ana <ana@exemplu.ro>", "ana@exemplu.ro\nBcc: b@c.ro", "ana@-exemplu.ro", "ana@exemplu..ro", ".ana@exemplu.ro",
        "ana.@exemplu.ro", "a" * 65 + "@exemplu.ro", "ana@" + "a" * 64 + ".ro", "ană@exemplu.ro", '"ana b"@exemplu.ro',
        "ana@[127.0.0.1]", "ana@127.0.0.1", "ana(x)@exemplu.ro", "a@b.ro" * 60,
    ],
)  # fmt: skip
def test_what_is_no_e_mail_address_is_refused(typed: str) -> None:
    with pytest.raises(PeerDataError):
        read_address(Channel.EMAIL, typed)


@given(st.text(max_size=40))
def test_whatever_is_typed_never_breaks_a_header(typed: str) -> None:
    for channel in Channel:
        try:
            kept = read_address(channel, typed)
        except PeerDataError:
            continue
        assert kept.isascii()
        assert kept.isprintable()
        assert " " not in kept
        assert read_address(channel, kept) == kept


def test_a_code_is_six_digits_and_belongs_to_one_address() -> None:
    assert read_code(" 012 345 ") == "012345"
    for typed in ("", "12345", "1234567", "12345a", "١٢٣٤٥٦"):
        with pytest.raises(PeerDataError):
            read_code(typed)
    assert code_digest("a", "012345") != code_digest("b", "012345")


def test_only_what_its_owner_knows_is_shown() -> None:
    assert hidden(Channel.SMS, "+40722123456") == "+40 … 456"
    assert hidden(Channel.EMAIL, "ana.pop@exemplu.ro") == "an…@exemplu.ro"


def test_an_emergency_is_always_told_and_the_rest_if_it_is_wanted() -> None:
    for topic in Topic:
        assert may_tell(topic, CHOSEN, 0, 0, DAY)
        assert may_tell(topic, (), 0, 0, DAY) is (topic is Topic.EMERGENCY)
        assert may_tell(topic, CHOSEN, 0, MOST_A_DAY, DAY) is (topic is Topic.EMERGENCY)
        assert may_tell(topic, CHOSEN, 0, MOST_A_DAY - 1, DAY)


@pytest.mark.parametrize("topic", Topic)
def test_one_is_enough_for_a_while(topic: Topic) -> None:
    apart = int(LEAST_APART[topic].total_seconds()) if topic in LEAST_APART else 0
    assert may_tell(topic, CHOSEN, DAY, 0, DAY + apart)
    assert not apart or not may_tell(topic, CHOSEN, DAY, 0, DAY + apart - 1)


def test_no_notice_says_what_it_is_about() -> None:
    assert tuple(LANGUAGES) == notice_words.LANGUAGES
    telling = ("spital", "hospital", "imagin", "image", "urgen", "emergenc", "pacient", "patient", "medic", "investig")
    for topic in Topic:
        for language in LANGUAGES:
            for channel in Channel:
                one = notice(channel, "x", language, topic, "https://portal.example/portal/")
                text = f"{one.subject} {one.body}".lower()
                assert "https://portal.example/portal/" in text
                assert not [word for word in telling if word in text]


def test_a_message_by_sms_is_one_of_plain_letters() -> None:
    portal = "https://portal.regiunea-nord-est.ro/portal/"
    assert plain("Vă rugăm să intrați: „șțăâî”") == "Va rugam sa intrati: staai"
    for language in LANGUAGES:
        texts = [notice(Channel.SMS, "x", language, topic, portal).body for topic in Topic]
        texts.append(code_notice(Channel.SMS, "x", language, "012345").body)
        assert all(text.isascii() and len(text) <= 160 for text in texts), texts
