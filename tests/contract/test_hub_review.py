"""Registrars and the patient index: what is proposed, decided, undone, and that nothing is joined by a likeness."""

from typing import Any

import pytest

from contract.hub_region import CNP, Region, study
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub import charts
from usmed.hub.decisions import Kind
from usmed.hub.finder import Finder
from usmed.hub.review import Review

WHO = {"by": "Maria Ionescu", "reason": "identity card seen at Iași"}
OWN, THEIRS = ("SF-SPIRIDON", "7"), ("BACAU", "9")


@pytest.fixture
def review(region: Region) -> Review:
    return Review(region.database, lambda: region.manifest, region.clock)


def find(region: Region) -> None:
    finder = Finder(region.database, lambda: region.manifest, region.clock)
    while finder.step():
        pass


def ids(review: Review, *numbers: tuple[str, str]) -> list[int]:
    return [review.named(PatientIdentifier(*one))[-1].chart.id for one in numbers]


def known_as(region: Region, number: tuple[str, str], asking: str = "suceava") -> set[str]:
    """The hospitals that hold something of a number's person, as the hub tells."""
    return {one["hospital"] for one in region.resolve(asking, *number)["holders"]}


def same_person(region: Region) -> tuple[dict[str, Any], dict[str, Any]]:
    """Feed one man's studies at two hospitals that share no number and have his birth date differently."""
    one = study("1.1", OWN, name="Ştefănescu^Ion", birth_date="19630605")
    other = study("2.1", THEIRS, name="ION^STEFANESCU", birth_date="19630506")
    region.feed("iasi", one)
    region.feed("bacau", other)
    region.permit(*OWN)
    region.permit(*THEIRS)
    find(region)
    return one, other


def test_a_likeness_is_proposed_and_joins_nobody(region: Region, review: Review) -> None:
    same_person(region)
    (found,), count = review.queue()
    assert (found.one.chart.hospital, found.other.chart.hospital, count) == ("iasi", "bacau", 1)
    assert found.score == 96
    assert found.one.person != found.other.person
    assert known_as(region, OWN) == {"iasi"}


def test_a_link_is_found_holds_and_is_undone(region: Region, review: Review) -> None:
    one, other = same_person(region)
    cursor = region.post("bacau", "/v1/consents/changes", {"since": 0})["cursor"]
    made = review.link(*ids(review, OWN, THEIRS), **WHO).decision
    assert known_as(region, OWN) == known_as(region, THEIRS) == {"iasi", "bacau"}
    assert review.queue() == ([], 0)
    # Who has remembered a consent for a number hears that another may apply.
    assert region.post("bacau", "/v1/consents/changes", {"since": cursor})["changes"] != []
    # Whatever is announced later, and when the charts come back.
    region.feed("iasi", study("1.2", OWN, birth_date="19630605"), study("1.3", OWN, ("RO-CNP", CNP), birth_date=""))
    region.post("iasi", "/v1/studies/feed", {"delete": ["1.1", "1.2"]})
    region.post("bacau", "/v1/studies/feed", {"delete": ["2.1"]})
    assert known_as(region, OWN) == {"iasi"}
    region.feed("bacau", other)
    region.feed("iasi", one)
    find(region)
    assert known_as(region, THEIRS) == {"iasi", "bacau"}
    assert review.queue() == ([], 0)
    review.undo(made.id, **WHO)
    assert known_as(region, OWN) == {"iasi"}
    assert known_as(region, THEIRS) == {"bacau"}
    find(region)
    assert review.queue()[1] == 1
    with pytest.raises(RefusedError, match="was undone"):
        review.undo(made.id, **WHO)
    assert [(one.kind, one.undoes) for one in review.history()] == [(Kind.UNDO, made.id), (Kind.LINK, None)]
    events = [one for one in region.audit.tail() if one["event"] == "identity"]
    assert {one["agent"] for one in events} == {"Maria Ionescu"}
    assert [(one["detail"]["what"], one["patient"]) for one in events] == [
        ("link", "BACAU:9"), ("link", "SF-SPIRIDON:7"), ("undo", "BACAU:9"), ("undo", "SF-SPIRIDON:7"),
    ]  # fmt: skip
    assert "tef" not in str(events)
    assert region.audit.verify().unbroken


def test_a_chart_that_contradicts_the_linked_ones_does_not_part_them(region: Region, review: Review) -> None:
    same_person(region)
    review.link(*ids(review, OWN, THEIRS), **WHO)
    region.feed("iasi", study("1.9", OWN, name="Popa^Ana", birth_date="19800101", sex="F"))
    assert known_as(region, THEIRS) == {"iasi", "bacau"}
    assert len(review.person(ids(review, THEIRS)[0])) == 2


def test_who_is_different_is_not_proposed_again(region: Region, review: Review) -> None:
    one, _ = same_person(region)
    first, second = ids(review, OWN, THEIRS)
    made = review.different(first, second, **WHO).decision
    region.feed("iasi", {**one, "patient": {**one["patient"], "name": "Stefanescu^Ion"}})
    find(region)
    assert review.queue() == ([], 0)
    with pytest.raises(RefusedError, match=f"undo decision {made.id} first"):
        review.link(first, second, **WHO)
    # Not by a number either that a hospital may type in later.
    region.feed("iasi", study("1.5", OWN, ("RO-CNP", CNP), birth_date=""))
    region.feed("bacau", study("2.5", THEIRS, ("RO-CNP", CNP), birth_date=""))
    assert known_as(region, THEIRS) == {"bacau"}
    assert known_as(region, OWN) == {"iasi"}
    review.undo(made.id, **WHO)
    find(region)
    assert known_as(region, OWN) == {"iasi"}, "the birth dates differ"
    assert review.queue()[1] >= 1


@pytest.mark.parametrize("goes", [False, True])
def test_a_link_by_a_number_is_unlinked_and_the_number_stays_with_one(
    region: Region, review: Review, goes: bool
) -> None:
    number = PatientIdentifier("RO-CNP", CNP)
    region.feed("iasi", study("1.1", OWN, ("RO-CNP", CNP)))
    wrong = study("2.1", THEIRS, ("RO-CNP", CNP))
    region.feed("bacau", wrong)
    for one in (OWN, THEIRS, ("RO-CNP", CNP)):
        region.permit(*one)
    assert known_as(region, OWN) == {"iasi", "bacau"}
    made = review.unlink(ids(review, THEIRS), takes=[number] if goes else [], **WHO).decision
    assert known_as(region, OWN) == {"iasi"}
    assert known_as(region, THEIRS) == {"bacau"}
    assert known_as(region, ("RO-CNP", CNP)) == ({"bacau"} if goes else {"iasi"})
    # The same again, and more of the same patient's, changes nothing.
    region.feed("bacau", wrong, study("2.2", THEIRS, ("RO-CNP", CNP), birth_date=""))
    region.feed("iasi", study("1.2", OWN, ("RO-CNP", CNP), birth_date=""))
    assert known_as(region, OWN) == {"iasi"}
    assert known_as(region, THEIRS) == {"bacau"}
    review.undo(made.id, **WHO)
    assert known_as(region, OWN) == {"iasi", "bacau"}


def test_an_unlink_parts_what_a_registrar_had_linked(region: Region, review: Review) -> None:
    same_person(region)
    first, second = ids(review, OWN, THEIRS)
    review.link(first, second, **WHO)
    review.unlink([second], **WHO)
    assert known_as(region, OWN) == {"iasi"}
    with pytest.raises(RefusedError, match="different"):
        review.link(first, second, **WHO)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (study("2.1", THEIRS, sex="F"), "different sexes: M and F"),
        (study("2.1", THEIRS, ("RO-CNP", "9630615123451")), "different national numbers"),
    ],
)
def test_what_contradicts_is_not_linked(region: Region, review: Review, other: dict[str, Any], message: str) -> None:
    region.feed("iasi", study("1.1", OWN, ("RO-CNP", CNP)))
    region.feed("bacau", other)
    with pytest.raises(RefusedError, match=message):
        review.link(*ids(review, OWN, THEIRS), **WHO)
    assert review.history() == []


def test_a_link_whose_persons_contradict_each_other_further_off_is_refused(region: Region, review: Review) -> None:
    region.feed("iasi", study("1.1", OWN), study("1.2", OWN, ("RO-CNP", CNP), birth_date=""))
    region.feed("bacau", study("2.1", THEIRS), study("2.2", THEIRS, ("RO-CNP", "9630615123451"), birth_date=""))
    one = min(each.chart.id for each in review.person(ids(review, OWN)[0]))
    other = min(each.chart.id for each in review.person(ids(review, THEIRS)[0]))
    with pytest.raises(RefusedError, match="different national numbers"):
        review.link(one, other, **WHO)


def test_a_decision_needs_a_person_a_reason_and_charts_that_are_there(region: Region, review: Review) -> None:
    same_person(region)
    first, second = ids(review, OWN, THEIRS)
    for who in ({"by": "", "reason": "x"}, {"by": "x", "reason": " "}, {"by": "x", "reason": "a\nb"}):
        with pytest.raises(PeerDataError, match="needs a"):
            review.link(first, second, **who)
    with pytest.raises(PeerDataError, match="two charts"):
        review.link(first, first, **WHO)
    with pytest.raises(RefusedError, match="no chart 999"):
        review.different(first, 999, **WHO)
    with pytest.raises(RefusedError, match="all charts"):
        review.unlink([first], **WHO)
    with pytest.raises(RefusedError, match="one person"):
        review.unlink([first, second], **WHO)
    with pytest.raises(RefusedError, match="no decision 5"):
        review.undo(5, **WHO)
    assert review.history() == []


def test_an_undone_link_tells_which_copies_crossed(region: Region, review: Review) -> None:
    same_person(region)
    before = _released(region, "iasi", "bacau", OWN, "1.1", 1)
    region.clock.advance(60)
    made = review.link(*ids(review, OWN, THEIRS), **WHO).decision
    region.clock.advance(60)
    # Bacău knows the patient under its own number only: that is where the study of Iași lies.
    _released(region, "iasi", "bacau", OWN, "1.1", 2)
    _released(region, "bacau", "suceava", THEIRS, "2.1", 3)
    region.clock.advance(60)
    done = review.undo(made.id, **WHO)
    region.clock.advance(60)
    _released(region, "iasi", "bacau", OWN, "1.1", 4)
    found = [(one.source, one.recipient, one.study_instance_uid, one.likely) for one in done.crossed]
    assert found == [("iasi", "bacau", "1.1", True), ("bacau", "suceava", "2.1", False)]
    assert [one.at.timestamp() > before for one in done.crossed] == [True, True]
    assert review.crossed(made.id) == review.crossed(done.decision.id) == list(done.crossed)


def _released(region: Region, source: str, recipient: str, number: tuple[str, str], uid: str, sequence: int) -> int:
    at = int(region.clock().timestamp())
    access = {
        "sequence": sequence, "at": at, "patient": dict(zip(("issuer", "value"), number, strict=True)),
        "recipient": recipient, "role": "", "purpose": "TREAT", "study_instance_uid": uid, "consents": [],
    }  # fmt: skip
    assert region.post(source, "/v1/accesses", {"accesses": [access]}) == {"taken": 1, "problems": []}
    return at


def test_a_renamed_patient_is_compared_anew(region: Region, review: Review) -> None:
    one, _ = same_person(region)
    region.feed("iasi", {**one, "patient": {**one["patient"], "name": "Ungureanu^Vasile"}})
    find(region)
    assert review.queue() == ([], 0)
    with region.database.read() as connection:
        assert len(charts.by_ids(connection, ids(review, OWN))) == 1


def test_who_is_called_otherwise_while_being_compared_is_compared_again(region: Region, review: Review) -> None:
    one = study("1.1", OWN, name="Ştefănescu^Ion")
    region.feed("iasi", one)
    region.feed("bacau", study("2.1", THEIRS, name="ION^STEFANESCU"))
    renamed = {**one, "patient": {**one["patient"], "name": "Ungureanu^Vasile"}}

    class Slow(Finder):
        def _near(self, *given: Any) -> Any:
            region.feed("iasi", renamed)
            return super()._near(*given)

    Slow(region.database, lambda: region.manifest, region.clock).step()
    find(region)
    assert review.queue() == ([], 0)
