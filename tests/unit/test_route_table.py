"""The table of routes: what is not listed is denied, an exact part goes first, and finding it costs next to nothing."""

import time
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from usmed.domain.errors import ConfigurationError
from usmed.domain.route_table import RouteTable
from usmed.domain.staff_role import Person
from usmed.hospital.arrivals_pages import create_arrivals_pages
from usmed.hospital.audit_pages import create_audit_pages
from usmed.hospital.enrolment_pages import create_enrolment_pages
from usmed.hospital.log_in_pages import create_log_in_pages
from usmed.hospital.pages import create_pages
from usmed.hospital.paper_pages import add_paper_pages
from usmed.hospital.staff.gate import MOST_KINDS, QUIET_S, Gate, Refusals
from usmed.hospital.staff.log_ins import OrthancLogIns, basic_credentials
from usmed.hospital.staff.rules import permissions, roles, route_table
from usmed.hospital.statistics_pages import create_statistics_pages

TABLE = RouteTable(
    {
        "read": {"routes": ["GET /", "GET /jobs/{id}", "GET /jobs/{id}/{key}", "GET $web/studies", "GET /jobs"]},
        "act": {"routes": ["POST,PUT /jobs/{id}/cancel", "DELETE /jobs/{id}", "GET /files/{path...}"]},
    },
    {"web": "dicom/web"},
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", "read"),
        ("GET", "/jobs", "read"),
        ("GET", "/jobs/", "read"),
        ("GET", "/jobs/1", "read"),
        ("DELETE", "/jobs/1", "act"),
        ("POST", "/jobs/1/cancel", "act"),
        ("PUT", "/jobs/1/cancel", "act"),
        ("GET", "/jobs/1/cancel", "read"),
        ("GET", "/dicom/web/studies", "read"),
        ("GET", "/files/a", "act"),
        ("GET", "/files/a/b/c", "act"),
        # Listed nowhere.
        ("PUT", "/jobs", None),
        ("", "/jobs", None),
        ("get", "/jobs", None),
        ("GET", "/Jobs", None),
        ("GET", "/files", None),
        ("GET", "/job", None),
        ("GET", "/jobs/1/2/3", None),
        ("GET", "jobs", None),
        ("GET", "", None),
        ("GET", "//jobs", None),
        ("GET", "/jobs//1", None),
        ("GET", "/jobs/1//", None),
        ("GET", "/files/../jobs", None),
        ("GET", "/jobs/.", None),
    ],
)
def test_which_permission_a_request_needs(method: str, path: str, expected: str | None) -> None:
    assert TABLE.permission(method, path) == expected


def test_what_is_wrong_in_a_table_is_told_at_once() -> None:
    wrong = ["FETCH /a", "GET /b/{x...}/c", "GET /{X}", "GET $none/a", "GET /d", "GET /d"]
    with pytest.raises((ConfigurationError, KeyError)):
        RouteTable({"a": {"routes": wrong}}, {})
    wrong.remove("GET $none/a")
    with pytest.raises(ConfigurationError) as refusal:
        RouteTable({"a": {"routes": wrong}}, {})
    assert len(refusal.value.problems) == 4


# ---- ours ----


def rules_of_pages() -> set[tuple[str, str]]:
    """Return method and path of everything that the node's own pages answer, parts that vary as {}."""
    # Nothing is called while routes are made.
    nothing = cast("Any", MagicMock())
    desk = create_enrolment_pages(nothing)
    add_paper_pages(desk, nothing, nothing, dict)
    code = create_pages.__code__
    arguments: dict[str, Any] = dict.fromkeys(code.co_varnames[: code.co_kwonlyargcount], nothing)
    staff_pages = {
        "arrivals": create_arrivals_pages(nothing), "desk": desk, "audit": create_audit_pages(nothing),
        "statistics": create_statistics_pages(nothing), "": create_log_in_pages(nothing, nothing),
    }  # fmt: skip
    app = create_pages(**{**arguments, "staff_pages": staff_pages})
    found = set()
    for rule in app.url_map.iter_rules():
        parts = ("/usmed" + str(rule)).rstrip("/").split("/")
        path = "/".join("{}" if "<" in part else part for part in parts)
        found |= {(method, path) for method in (rule.methods or ()) if method not in ("HEAD", "OPTIONS")}
    # Where the gate sends what it turns away; nobody asks for it by that address.
    return {one for one in found if one[1] != "/usmed/refused"}


def test_every_page_of_ours_is_listed_and_nothing_that_is_gone() -> None:
    listed = {
        (method, "/".join("{}" if "{" in part else part for part in path.split("/")))
        for method, path, _ in route_table({})
        if path.startswith("/usmed")
    }
    assert listed == rules_of_pages()


def test_every_permission_is_explained_and_guards_something() -> None:
    for name, document in permissions().items():
        assert set(document) - {"personal"} == {"means", "routes"}, name
        assert document["means"]
        assert document["routes"]


def test_no_route_that_changes_something_is_open_to_anybody() -> None:
    open_to_all = [(method, path) for method, path, needed in route_table({}) if needed in ("anybody", "staff")]
    changing = {path for method, path in open_to_all if method != "GET"}
    assert changing == {"/usmed/log-in", "/usmed/log-out"}


def test_the_roots_of_dicomweb_are_those_of_the_configuration() -> None:
    table = route_table({"Root": "/web/", "WadoRoot": "/image"})
    assert table.permission("GET", "/web/studies") == "archive.find"
    assert table.permission("GET", "/image") == "archive.view"
    assert table.permission("GET", "/dicom-web/studies") is None


# ---- the gate ----


def gate(users: dict[str, str], **options: Any) -> tuple[Gate, list[tuple[str, str, str]]]:
    written: list[tuple[str, str, str]] = []
    other, anonymous, checked = options.get("other", ""), options.get("anonymous", ""), options.get("checked", True)
    log_ins = OrthancLogIns(roles("")[0], users, other, anonymous, checked=checked)
    refusals = Refusals(lambda *one: written.append(one), options.get("clock", time.monotonic))
    return Gate(route_table({}), log_ins.person, refusals), written


def admit(door: Gate, method: str, path: str, headers: dict[str, str], address: str) -> Person | None:
    person, refused = door.decide(method, path, headers, address)
    return None if refused else person


ANA = {"authorization": "Basic YW5hOng="}
"""ana, with the password x."""


def test_who_has_the_permission_passes_and_who_has_not_is_written_down() -> None:
    door, written = gate({"ana": "desk-clerk"})
    person = admit(door, "GET", "/patients/1", ANA, "10.0.0.1")
    assert person is not None
    assert (person.name, person.role, person.proved) == ("ana", "desk-clerk", "Basic")
    assert admit(door, "GET", "/instances/1/file", ANA, "10.0.0.1") is None
    assert admit(door, "GET", "/secret", ANA, "10.0.0.1") is None
    assert written == [
        ("10.0.0.1", "ana", "has not the permission 'archive.view' (role desk-clerk)"),
        ("10.0.0.1", "ana", "asked for an address that is not listed (role desk-clerk)"),
    ]


@pytest.mark.parametrize("authorization", ["", "Bearer x", "Basic !", "Basic Og=="])
def test_nobody_sees_what_is_open_and_nothing_else(authorization: str) -> None:
    headers = {"authorization": authorization} if authorization else {}
    door, written = gate({"ana": "administrator"}, other="administrator")
    assert admit(door, "GET", "/app/explorer.html", headers, "a") is not None
    assert admit(door, "GET", "/system", headers, "a") is None
    assert written == [("a", "", "has not the permission 'staff' (role none)")]


def test_a_user_without_a_role_may_nothing() -> None:
    door, written = gate({})
    assert admit(door, "GET", "/system", ANA, "a") is None
    # Whose password is right, but who has no role here, is not a member of staff.
    assert written == [("a", "", "has not the permission 'staff' (role none)")]
    assert admit(gate({}, other="surgeon")[0], "GET", "/patients", ANA, "a") is not None


def test_where_no_password_is_checked_everybody_has_one_role_and_nobody_is_proved() -> None:
    door, _ = gate({"ana": "administrator"}, anonymous="radiologist", checked=False)
    person = admit(door, "GET", "/patients", ANA, "a")
    assert person is not None
    assert (person.name, person.role, person.proved) == ("ana", "radiologist", "")
    assert admit(door, "DELETE", "/patients/1", ANA, "a") is None
    assert admit(gate({}, checked=False)[0], "GET", "/system", ANA, "a") is None


def test_refusals_of_one_kind_are_written_down_once_in_a_while_with_their_number() -> None:
    now = [1000.0]
    door, written = gate({"ana": "researcher"}, clock=lambda: now[0])
    for _ in range(5000):
        admit(door, "GET", "/patients", ANA, "a")
    assert len(written) == 1
    now[0] += QUIET_S
    admit(door, "GET", "/patients", ANA, "a")
    assert written[1][2].endswith("(4999 more since the last of these records)")
    for number in range(5 * MOST_KINDS):
        admit(door, "GET", "/patients", {}, f"10.0.0.{number}")
    assert len(written) <= 2 + MOST_KINDS


def test_a_log_in_is_read_as_the_header_says() -> None:
    assert basic_credentials("Basic YW5hOng=") == ("ana", "x")
    assert basic_credentials("basic YW5hOg==") == ("ana", "")
    assert basic_credentials("Basic YW5h") is None
    assert basic_credentials("Basic /w==") is None
    assert basic_credentials("") is None


def test_the_gate_costs_less_than_a_thirtieth_of_a_millisecond() -> None:
    door, _ = gate({"ana": "radiologist"})
    path = "/dicom-web/studies/1.2.3/series/1.2.3.4/instances/1.2.3.4.5/frames/1"
    best = min(_timed(door, path) for _ in range(5))
    assert best < 30e-6


def _timed(door: Gate, path: str) -> float:
    start = time.perf_counter()
    for _ in range(500):
        assert admit(door, "GET", path, ANA, "a") is not None
    return (time.perf_counter() - start) / 500
