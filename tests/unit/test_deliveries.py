"""What goes into one request: consents, and the enrolments that their proofs need, each once."""

from usmed.platform.deliveries import MAXIMUM_ENROLMENTS, contents, fitting
from usmed.platform.delivery_store import Item


def token(name: str, hospital: str = "iasi") -> dict[str, str]:
    return {"hospital": hospital, "token": name}


def consent(id: str, *enrolments: dict[str, str]) -> Item:
    record = {"document": {"id": id, "version": 1, "resource": {"status": "active"}}, "proof": {}}
    return Item(id, 1, record, enrolments)


def test_an_enrolment_that_several_consents_need_travels_once() -> None:
    items = [
        consent("a", token("1"), token("2")),
        Item("b", 1, token("2")),
        consent("c", token("2"), token("1"), token("1", "bacau")),
        consent("d"),
    ]
    records, enrolments = contents(items)
    assert records == [items[0].record, items[2].record, items[3].record]
    assert enrolments == [token("1"), token("2"), token("1", "bacau")]


def test_a_batch_ends_before_it_carries_too_many_enrolments() -> None:
    own = [token(str(number)) for number in range(MAXIMUM_ENROLMENTS)]
    first, same, more = consent("a", *own[:-1]), consent("b", *own[:5]), consent("c", own[-1], token("one more"))
    assert fitting([]) == []
    assert fitting([first, same, consent("d", own[-1])]) == [first, same, consent("d", own[-1])]
    assert fitting([first, same, more, same]) == [first, same]
    assert fitting([first, Item("e", 1, own[-1]), Item("f", 1, token("one more"))]) == [first, Item("e", 1, own[-1])]
    # One goes alone, whatever it needs: it could not be brought otherwise.
    assert fitting([consent("g", *own, token("one more")), same]) == [consent("g", *own, token("one more"))]
