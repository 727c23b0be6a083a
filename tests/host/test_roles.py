"""Every address of a real node, for every role and for nobody: allowed exactly as the table says."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from support.region import PASSWORD, ROOT, Hospital, Hub, eventually, running_region
from usmed.domain.route_table import METHODS, paths
from usmed.domain.staff_role import ANYBODY, STAFF
from usmed.hospital.staff.rules import roles, route_table

ROLES, _ = roles("")
NOT_TRIED = {"/tools/shutdown", "/tools/reset", "/tools/execute-script", "/instances/x/export"}
"""By whoever may: two would end the node, and two are off in every node, where Orthanc says 403 as we do."""


@pytest.fixture(scope="module", params=["orthanc", "page"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """A node with a user for each role, of the same name; Orthanc asks for their passwords, or the node itself."""
    folder: Path = tmp_path_factory.mktemp("roles")
    page = request.param == "page"
    users = {"admin": PASSWORD, **dict.fromkeys(ROLES, PASSWORD)}
    one = Hospital(
        "roles", "Spitalul cu roluri", "ROLES", folder / "roles",
        orthanc={"RegisteredUsers": users, "AuthenticationEnabled": not page},
        section={"Staff": {"LogIn": request.param, "Users": {"admin": "administrator"} | {one: one for one in ROLES}}},
    )  # fmt: skip
    with running_region(folder, [one], Hub(folder / "hub")):
        yield one


def status(
    node: Hospital, who: str, method: str, path: str, session: requests.Session | None = None
) -> tuple[int, bytes]:
    auth = (who, PASSWORD) if who else None
    answer = (session or requests).request(
        method, node.url + path, auth=auth, data=b"" if method in ("POST", "PUT") else None, timeout=60,
        allow_redirects=False,
    )  # fmt: skip
    return answer.status_code, answer.content


@pytest.fixture(scope="module")
def orthancs_own(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Method and path of everything that Orthanc lists of itself with our plugins, parts that vary as {}."""
    folder = tmp_path_factory.mktemp("openapi")
    done = subprocess.run(
        ["Orthanc", f"--openapi={folder / 'api.json'}", str(ROOT / "orthanc.json")],
        env={"USMED_STORAGE_DIRECTORY": str(folder / "storage"), "PATH": "/usr/bin:/usr/sbin"},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    listed = json.loads((folder / "api.json").read_text("utf-8"))["paths"]
    found = {(method.upper(), path) for path, methods in listed.items() for method in methods}
    # Those whose example it cannot fetch, having no network, it only names in its log.
    found |= set(re.findall(r"URI without API documentation: (\w+) (/\S*)", done.stderr + done.stdout))
    return {(method, re.sub(r"\{[^}]*\}", "{}", path)) for method, path in found}


def test_orthanc_lists_nothing_that_the_table_does_not(orthancs_own: set[tuple[str, str]]) -> None:
    assert len(orthancs_own) > 280
    listed = {(method, re.sub(r"\{[^}]*\}", "{}", path)) for method, path, _ in route_table({})}
    assert orthancs_own - listed == set()


@pytest.mark.parametrize("role", [*ROLES, ""])
def test_a_role_reaches_what_the_table_says_and_nothing_else(node: Hospital, role: str) -> None:
    permissions = ROLES[role].permissions | {STAFF, ANYBODY} if role else {ANYBODY}
    routes = [one for one in paths(route_table({})) if not (one[1] in NOT_TRIED and one[2] in permissions)]
    # What no table lists, also not for the administrator.
    routes += [(method, "/nothing/of/this/kind", "none") for method in METHODS]
    session = requests.Session()

    def refused(route: tuple[str, str, str]) -> bool:
        code, body = status(node, role, route[0], route[1], session)
        # Orthanc answers our no without a word, and 401 where it wants a password before it asks us.
        ours = not body or b'"error":"no-permission"' in body or b'"error":"log-in"' in body
        return code == 401 or (code == 403 and ours)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(refused, routes))
    if not role and node.section["Staff"]["LogIn"] == "orthanc":
        # It asks for a password before it asks us.
        assert all(answers)
        return
    wrong = [
        (method, path, needed)
        for (method, path, needed), no in zip(routes, answers, strict=True)
        if no is (needed in permissions)
    ]
    assert wrong == []


DISGUISED = [
    ("GET", "/studies/x?_method=DELETE", {}),
    ("POST", "/tools/find", {"X-HTTP-Method-Override": "DELETE"}),
    ("GET", "/tools/find", {"X-HTTP-Method-Override": "DELETE"}),
    ("POST", "/studies/x", {"X-HTTP-Method-Override": "DELETE"}),
    ("GET", "//instances/x/file", {}),
    ("GET", "/tools//reset", {}),
    ("GET", "/patients/../instances/x/file", {}),
    ("GET", "/patients/%2e%2e/instances/x/file", {}),
    ("GET", "/instances/x%2Ffile", {}),
    ("GET", "/instances/x/file/", {}),
    ("GET", "/INSTANCES/x/file", {}),
    ("GET", "/instances/x/file;jsessionid=1", {}),
    ("GET", "/usmed/../instances/x/file", {}),
    ("GET", "/usmed/%2e%2e/instances/x/file", {}),
    ("GET", "/usmed/refused", {}),
    ("POST", "/usmed//emergencies", {}),
    ("GET", "/dicom-web/servers/usmed-checked-x", {}),
]


@pytest.mark.parametrize(("method", "path", "headers"), DISGUISED, ids=[f"{m} {p}" for m, p, _ in DISGUISED])
def test_no_disguise_gets_past(node: Hospital, method: str, path: str, headers: dict[str, str]) -> None:
    prepared = requests.Request(method, node.url, auth=("desk-clerk", PASSWORD), headers=headers).prepare()
    prepared.url = node.url + path
    answer = requests.Session().send(prepared, timeout=20, allow_redirects=False)
    assert answer.status_code in (400, 403, 404, 405)
    assert b"PatientID" not in answer.content
    if answer.status_code == 404:
        assert json.loads(answer.content)["HttpStatus"] == 404


def test_a_refusal_is_written_down_once_and_not_a_thousand_times(node: Hospital) -> None:
    for _ in range(50):
        assert status(node, "researcher", "GET", "/patients")[0] == 403

    def written() -> list[str]:
        return [one["reason"] for one in node.audit() if one.get("agent") == "researcher" and one["event"] == "refused"]

    mine = "has not the permission 'archive.find' (role researcher)"
    eventually(lambda: mine in written(), 10, "it is written down")
    assert written().count(mine) == 1


def test_what_a_role_lacks_no_page_offers(node: Hospital) -> None:
    assert status(node, "radiologist", "POST", "/usmed/emergencies")[0] == 400
    assert status(node, "desk-clerk", "POST", "/usmed/emergencies")[0] == 403
    assert status(node, "desk-clerk", "GET", "/usmed/desk/start")[0] == 200
    assert status(node, "radiologist", "GET", "/usmed/desk/start")[0] == 403
