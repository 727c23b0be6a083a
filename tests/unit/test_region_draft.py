"""What the commands make of a region manifest, and what they say is different."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.signed_region import SignedRegion
from usmed.domain import region_draft as draft
from usmed.domain.errors import ConfigurationError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
REGION = SignedRegion()
OTHER_KEY = "A" * 43


@pytest.fixture
def document() -> dict[str, Any]:
    return REGION.document(4)


def test_the_next_version_holds_as_long_as_the_one_before(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    made = draft.next_draft(document, NOW, None, count_up=True)
    assert (made["version"], made["issued"], made["expires"]) == (5, "2026-11-22T12:00:00Z", "2027-02-22T12:00:00Z")
    assert document == before
    made = draft.next_draft(document, NOW, timedelta(days=1), count_up=False)
    assert (made["version"], made["expires"]) == (4, "2026-11-23T12:00:00Z")
    # A manifest without an end gets none by itself.
    del document["expires"]
    assert "expires" not in draft.next_draft(document, NOW, None, count_up=True)
    assert draft.next_draft(document, NOW, timedelta(days=1), count_up=True)["expires"] == "2026-11-23T12:00:00Z"


def test_a_first_draft_says_what_it_lacks() -> None:
    hub = {"address": "https://hub:8443", "public_key": OTHER_KEY}
    made = draft.first_draft(region="r", name="R", hub=hub, issued=NOW, life=timedelta(days=365), threshold=2)
    hard, missing = draft.faults(made, "draft")
    assert hard == []
    assert [one.split(":")[0] for one in missing] == ["$.hospitals", "$.key_servers"]
    hard, missing = draft.faults({**made, "version": 0, "hub": {}}, "draft")
    assert {one.split(":")[0] for one in hard} == {"$.version", "$.hub.address", "$.hub.public_key"}
    for kind in (draft.HOSPITALS, draft.KEY_SERVERS):
        for entry in REGION.document()[kind]:
            draft.add(made, kind, entry)
    assert draft.faults(made, "draft") == ([], [])
    assert draft.faults(without_end(made), "draft") == ([], ["$.expires: is missing"])


def without_end(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "expires"}


NEW = {"id": "sud", "issuers": ["A", "B"], "public_key": OTHER_KEY}
CHANGES: list[tuple[Callable[[Any], object], list[str]]] = [
    (lambda d: draft.remove(d, draft.HOSPITALS, "bacau"), ["- hospital bacau: name bacau; address https"]),
    (lambda d: draft.remove(d, draft.KEY_SERVERS, "keys-3"), ["- key server keys-3: name keys-3; address "]),
    (
        lambda d: draft.add(d, draft.HOSPITALS, {**d["hospitals"][0], **NEW}),
        [f"+ hospital sud: name iasi; address https://iasi:8043; key {OTHER_KEY}; issuers A, B"],
    ),
    (
        lambda d: draft.change_key_server(d, "keys-2", {"public_key": OTHER_KEY}, {"name": "Alt"}),
        ["~ key server keys-2: key ", "~ key server keys-2: administrator keys-2 -> Alt"],
    ),
    (
        lambda d: draft.change_key_server(d, "keys-2", {}, {"public_key": OTHER_KEY}),
        ["~ key server keys-2: administrator's key "],
    ),
    (lambda d: d.update(threshold=3), ["~ region: threshold 2 -> 3"]),
    (lambda d: d.update(name="a\u202eb"), ["~ region: name Regiunea Moldova -> 'a\\u202eb'"]),
    (lambda d: d.update(name="a\x1b[2Kb"), ["~ region: name Regiunea Moldova -> 'a\\x1b[2Kb'"]),
    (
        lambda d: d.update(national_number={"issuer": "RO-CNP", "kind": "ro.cnp"}),
        ["~ region: national number none -> RO-CNP (ro.cnp)"],
    ),
    (lambda d: draft.set_portal(d, "https://p.example"), ["~ region: portal none -> https://p.example"]),
    (lambda d: d["hub"].update(address="https://x:1"), ["~ the hub: address https://hub:8443 -> https://x:1"]),
    (lambda d: d["hub"].update(tls_certificate="x"), ["~ the hub: TLS certificate none -> no certificate"]),
    (lambda d: d["hospitals"][0].update(issuers=["X"]), ["~ hospital iasi: issuers IASI -> X"]),
    (lambda d: d.update(expires="2030-01-01T00:00:00Z"), ["~ region: expires 2027-02-21T09:00:00Z -> 2030"]),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_every_change_is_told(document: dict[str, Any], change: Callable[[Any], object], told: list[str]) -> None:
    before = copy.deepcopy(document)
    change(document)
    lines = draft.differences(before, document)
    assert len(lines) == len(told)
    for line, start in zip(lines, told, strict=True):
        assert line.startswith(start)
        assert line.isprintable()
    assert draft.differences(document, document) == []


def test_a_portal_is_set_changed_and_removed(document: dict[str, Any]) -> None:
    draft.set_portal(document, "https://portal.example")
    before = copy.deepcopy(document)
    draft.set_portal(document, "https://other.example:8443")
    assert draft.faults(document, "draft") == ([], [])
    assert draft.differences(before, document) == [
        "~ region: portal https://portal.example -> https://other.example:8443"
    ]
    draft.remove_portal(document)
    assert draft.differences(before, document) == ["~ region: portal https://portal.example -> none"]
    draft.set_portal(document, "https://10.0.0.1")
    hard, missing = draft.faults(document, "draft")
    assert (len(hard), missing) == (1, [])
    assert hard[0].startswith("$.portal.address: must be https://NAME")


def test_no_member_of_a_manifest_escapes_the_comparison(document: dict[str, Any]) -> None:
    """A part that `differences` overlooks could be changed under an administrator's eyes."""

    def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        if isinstance(value, dict):
            return [one for key, inner in value.items() for one in leaves(inner, (*path, key))]
        if isinstance(value, list):
            return [one for number, inner in enumerate(value) for one in leaves(inner, (*path, number))]
        return [path]

    complete = copy.deepcopy(document)
    complete["national_number"] = {"issuer": "RO-CNP", "kind": "ro.cnp"}
    complete["portal"] = {"address": "https://portal.example"}
    complete["hub"]["tls_certificate"] = complete["hospitals"][0]["tls_certificate"] = "old"
    complete["key_servers"][0]["tls_certificate"] = "old"
    for path in leaves(complete):
        changed = copy.deepcopy(complete)
        element: Any = changed
        for step in path[:-1]:
            element = element[step]
        element[path[-1]] = None if path[-1] == "tls_certificate" else "changed"
        if path[-1] == "tls_certificate":
            del element["tls_certificate"]
        assert draft.differences(complete, changed) != [], path


def test_what_cannot_be_done_is_refused(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    impossible: list[tuple[Callable[[], None], str]] = [
        (lambda: draft.add(document, draft.HOSPITALS, {"id": "iasi"}), "there is a hospital 'iasi' already"),
        (lambda: draft.remove(document, draft.HOSPITALS, "keys-1"), r"no hospital 'keys-1' \(there is: iasi, bacau\)"),
        (lambda: draft.remove(document, draft.KEY_SERVERS, "x"), "no key server 'x'"),
        (lambda: draft.change_key_server(document, "keys-1", {}, {}), "nothing of 'keys-1' would change"),
        (lambda: draft.remove_portal(document), "there is no portal"),
        (lambda: draft.change_key_server(document, "iasi", {}, {}), "no key server 'iasi'"),
    ]
    for attempt, message in impossible:
        with pytest.raises(ConfigurationError, match=message):
            attempt()
    assert document == before


def test_times_of_yaml_become_text() -> None:
    assert draft.json_values({"issued": NOW, "list": [NOW], 1: 2}) == {
        "issued": "2026-11-22T12:00:00Z", "list": ["2026-11-22T12:00:00Z"], "1": 2
    }  # fmt: skip
