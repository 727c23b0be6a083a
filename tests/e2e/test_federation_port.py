"""Other hospitals reach three signed routes and nothing else; whatever else comes is refused, named and recorded."""

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
import requests

from e2e import signed
from e2e.conftest import World
from e2e.studies import Patient, Study, national_number
from support.region import AUTH, permit

STUDY = Study("at the door", Patient(national_number(851)), instances=1)
PERSON = [("RO-CNP", STUDY.patient.number)]
ROUTES = {
    signed.LOOKUP: signed.lookup(PERSON),
    signed.MANIFEST: signed.of_study(STUDY.uid, PERSON),
    signed.INSTANCES: signed.of_study(STUDY.uid, PERSON) | {"instances": [[0, STUDY.sop_uid(1, 1)]]},
}


@pytest.fixture(scope="module", autouse=True)
def stored(world: World) -> None:
    """Store a study at A that B may have."""
    world.place([(world.a, STUDY)])
    world.region.consent(permit("RO-CNP", STUDY.patient.number, recipients=[world.b.id]))


def refused_since(world: World, moment: str) -> list[dict[str, object]]:
    """Return the records of what A has refused at its door since a record's time."""
    # The record of a lookup is waited for, and records are written in their order: after it, all are there.
    assert signed.send(world.b, world.a, signed.LOOKUP, ROUTES[signed.LOOKUP]).status_code == 200
    return [one for one in world.a.audit() if one["event"] == "refused" and one["at"] > moment]


@pytest.mark.parametrize("path", ROUTES)
def test_a_signed_request_of_a_member_is_served(world: World, path: str) -> None:
    answer = signed.send(world.b, world.a, path, ROUTES[path])
    assert answer.status_code == 200


def _unsigned(world: World, path: str) -> requests.Response:
    return signed.send(world.b, world.a, path, ROUTES[path], headers={})


def _with_orthancs_password(world: World, path: str) -> requests.Response:
    return requests.post(
        signed.address_of(world.a) + path,
        json=signed.complete(world.b, ROUTES[path]),
        auth=AUTH,
        verify=str(world.a.certificate_file),
        timeout=30,
    )


def _signed_for_another_route(world: World, path: str) -> requests.Response:
    return signed.send(world.b, world.a, path, ROUTES[path], signed={"target": "/federation/v1/other"})


def _signed_for_another_hospital(world: World, path: str) -> requests.Response:
    return signed.send(world.b, world.a, path, ROUTES[path], signed={"receiver": world.c.id})


def _in_anothers_name(world: World, path: str) -> requests.Response:
    """C, which has no consent, signs with its own key that it is B, which has."""
    return signed.send(world.c, world.a, path, ROUTES[path], signed={"sender": world.b.id})


def _replayed(world: World, path: str) -> requests.Response:
    same = {"jti": secrets.token_urlsafe(18)}
    assert signed.send(world.b, world.a, path, ROUTES[path], signed=same).status_code == 200
    return signed.send(world.b, world.a, path, ROUTES[path], signed=same)


FORGERIES: list[Callable[[World, str], requests.Response]] = [
    _unsigned, _with_orthancs_password, _signed_for_another_route, _signed_for_another_hospital, _in_anothers_name,
    _replayed,
]  # fmt: skip
"""What else can be wrong with a request is in test_bad_input.py."""


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__.strip("_"))
def test_whatever_else_comes_is_refused_and_recorded(
    world: World, forge: Callable[[World, str], requests.Response], path: str
) -> None:
    refused_since(world, "")
    before = world.a.audit()[-1]["at"]
    answer = forge(world, path)
    assert answer.status_code == 401
    assert answer.json()["error"] in ("unsigned", "replayed")
    assert answer.json()["message"]
    assert STUDY.uid not in answer.text
    (record,) = refused_since(world, before)
    assert record["outcome"] == "denied"
    assert record["reason"]
    assert record["detail"] == {"address": "127.0.0.1"}


ORTHANC_PATHS = [
    "/", "/system", "/studies", "/patients", "/instances", "/statistics", "/tools/find", "/app/explorer.html",
    "/dicom-web/studies", "/wado", "/usmed/status", "/usmed/transfers", "/usmed/patients/1", "/modalities", "/peers",
    "/jobs", "/changes", "/plugins", "/federation", "/federation/v1", "/federation/v1/lookup/..%2f..%2fsystem",
    "/federation/v1/../../studies", "/federation/v1/lookup/", "//studies", "/v1/resolve",
]  # fmt: skip


@pytest.mark.parametrize("path", ORTHANC_PATHS)
def test_nothing_of_orthanc_is_behind_the_federation_port(world: World, path: str) -> None:
    """Not with Orthanc's password, not with a member's signature."""
    for method in ("GET", "POST", "PUT", "DELETE"):
        with_password = requests.request(
            method, signed.address_of(world.a) + path, auth=AUTH, verify=str(world.a.certificate_file), timeout=30
        )
        assert with_password.status_code in (400, 401, 404), (method, path)
    answer = signed.send(world.b, world.a, path, {})
    # requests tidies a path with dots up, so that it is another one than was signed.
    assert answer.status_code in (400, 404) or (answer.status_code == 401 and ".." in path)
    assert "Orthanc" not in answer.text
    assert STUDY.uid not in answer.text


def test_the_routes_are_for_post_only(world: World) -> None:
    for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
        for path, document in ROUTES.items():
            answer = signed.send(world.b, world.a, path, document, method=method)
            assert answer.status_code in (404, 405), (method, path)


def test_the_federation_routes_are_not_on_orthancs_own_port(world: World) -> None:
    for path, document in ROUTES.items():
        assert world.a.post(path, signed.complete(world.b, document)).status_code == 403


def test_health_tells_a_passer_by_that_it_is_up_and_no_more(world: World) -> None:
    answer = requests.get(
        signed.address_of(world.a) + "/health", verify=str(world.a.certificate_file), timeout=30
    )
    assert (answer.status_code, answer.json()) == (200, {"status": "up"})


def test_without_tls_there_is_no_answer(world: World) -> None:
    """A plain HTTP request on the TLS port gets no data."""
    with socket.create_connection((world.a.address, world.a.federation_port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        with suppress(OSError):
            assert b'"up"' not in connection.recv(4096)
