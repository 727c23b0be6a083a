"""The log-in page on a real Orthanc: sessions, forms of strangers, and what happens when the plugin does not start."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from host.archive_data import instances
from support.process import Process, eventually
from support.region import AUTH, CLERK, DOCTOR, ROOT, Hospital, Hub, Region, running_region

PAGE: dict[str, Any] = {"AuthenticationEnabled": False}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder: Path = tmp_path_factory.mktemp("page")
    one = Hospital(
        "page", "Spitalul cu poartă", "PAGE", folder / "page", orthanc=PAGE, section={"Staff": {"LogIn": "page"}}
    )
    with running_region(folder, [one], Hub(folder / "hub")):
        for file in list(instances())[:4]:
            one.store(file)
        yield one


def log_in(node: Hospital, who: tuple[str, str]) -> requests.Session:
    """Return a browser's session: a cookie, and an origin with all that it sends."""
    session = requests.Session()
    session.headers.update({"Origin": node.url, "Accept": "text/html"})
    form = {"name": who[0], "password": who[1], "next": "app/explorer.html"}
    answer = session.post(f"{node.url}/usmed/log-in", data=form, allow_redirects=False, timeout=20)
    assert (answer.status_code, answer.headers["Location"]) == (303, "../app/explorer.html")
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    return session


def test_nobody_sees_a_patient_and_everybody_the_log_in_page(node: Hospital) -> None:
    for path in ("/patients", "/studies?expand", "/system", "/tools/find", "/dicom-web/studies", "/usmed/transfers"):
        assert requests.get(node.url + path, timeout=20).status_code == 403
    assert requests.get(f"{node.url}/app/explorer.html", timeout=20).ok
    session = requests.get(f"{node.url}/usmed/session", timeout=20).json()
    assert session == {"User": None, "LoggedIn": False, "Page": True}
    asked = requests.get(f"{node.url}/usmed/desk/start?a=1", headers={"Accept": "text/html"}, timeout=20)
    assert asked.url == f"{node.url}/usmed/log-in?next=usmed%2Fdesk%2Fstart%3Fa%3D1"
    assert asked.headers["Content-Type"].startswith("text/html")
    assert 'name="password"' in asked.text


def test_a_session_opens_everything_of_the_role_until_it_is_left(node: Hospital) -> None:
    session = log_in(node, DOCTOR)
    study = session.get(f"{node.url}/studies", timeout=20).json()[0]
    assert session.get(f"{node.url}/studies/{study}", timeout=20).ok
    assert session.get(f"{node.url}/usmed/session", timeout=20).json()["User"] == "doctor"
    assert session.delete(f"{node.url}/studies/{study}", timeout=20).status_code == 403
    cookie = session.cookies["usmed-session"]
    session.post(f"{node.url}/usmed/log-out", timeout=20)
    again = requests.get(f"{node.url}/studies", headers={"Cookie": f"usmed-session={cookie}"}, timeout=20)
    assert again.status_code == 403


def test_another_site_cannot_use_somebodys_session(node: Hospital) -> None:
    session = log_in(node, AUTH)
    label = f"{node.url}/studies/{node.get('/studies').json()[0]}/labels"
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": None}, {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example", "Host": f"{node.address}:{node.http_port}"},
    ):  # fmt: skip
        answer = session.put(f"{label}/stolen", headers=headers, timeout=20)
        assert answer.status_code == 403, headers
        disguised = session.get(f"{label}/stolen?_method=PUT", headers=headers, timeout=20)
        assert disguised.status_code in (403, 404), headers
    # A password that a browser remembers is sent by itself, too.
    stolen = requests.put(f"{label}/stolen", auth=AUTH, headers={"Origin": "https://evil.example"}, timeout=20)
    assert stolen.status_code == 403
    assert node.get(label.removeprefix(node.url)).json() == []
    assert session.put(f"{label}/good", timeout=20).status_code == 200
    assert requests.put(f"{label}/program", auth=AUTH, timeout=20).status_code == 200


def test_programs_go_on_with_their_passwords(node: Hospital) -> None:
    assert requests.get(f"{node.url}/studies", auth=AUTH, timeout=20).ok
    assert requests.get(f"{node.url}/studies", auth=(AUTH[0], "wrong"), timeout=20).status_code == 403
    assert requests.get(f"{node.url}/studies", auth=CLERK, timeout=20).ok


def test_guessing_stops_and_does_not_lock_the_others_out(node: Hospital) -> None:
    def tried(password: str) -> str:
        form = {"name": "clerk", "password": password}
        return requests.post(
            f"{node.url}/usmed/log-in", data=form, headers={"Accept-Language": "en"}, allow_redirects=False, timeout=20
        ).text

    said = {tried(f"guess {number}") for number in range(5)} | {tried(CLERK[1])}
    assert all("were tried too often" in one for one in said)
    assert log_in(node, DOCTOR)
    # Once for all within some minutes: whoever goes on and on fills no disk with it.
    (refusal,) = [one for one in node.audit() if one.get("reason", "").startswith("wrong-password")]
    assert refusal["agent"] == "127.0.0.1"
    assert "guess" not in str(refusal)
    assert "clerk" not in str(refusal)


# ---- nothing is open where the plugin does not do its work ----


def _ends(folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Start a node with the log-in page whose configuration was changed; it must end by itself. Return what it said."""
    node = Hospital("page", "Nod", "PAGE", folder / "node", orthanc=PAGE, section={"Staff": {"LogIn": "page"}})
    manifest = folder / "region.json"
    parts = Region(folder, [node], Hub(folder / "hub"))
    manifest.write_bytes(parts.signed(parts.document([node.member()])))
    path = node.write_configuration(manifest)
    configuration = json.loads(path.read_text("utf-8"))
    change(configuration)
    path.write_text(json.dumps(configuration), "utf-8")
    process = Process(["Orthanc", str(path)], folder / "orthanc.log", {}, ROOT)
    process.start()
    try:
        assert process.wait(60) != 0
        with socket.socket() as probe:
            assert probe.connect_ex((node.address, node.http_port)) != 0
    finally:
        process.stop(signal.SIGKILL)
    return process.text()


def _raises(folder: Path) -> str:
    script = folder / "broken.py"
    script.write_text("raise RuntimeError('broken')\n")
    return str(script)


BROKEN: dict[str, tuple[Callable[[dict[str, Any], Path], object], str]] = {
    "no such plugin": (lambda one, folder: one["Plugins"].insert(0, "/none/libOrthancPython.so"), "libOrthancPython"),
    "no such script": (lambda one, folder: one["Python"].update(Path="/none/hospital.py"), "hospital"),
    "a script that raises": (lambda one, folder: one["Python"].update(Path=_raises(folder)), "broken"),
    "a wrong setting": (lambda one, folder: one["Usmed"]["Staff"].update(LogIn="door"), "must be one of orthanc, page"),
    "alone": (lambda one, folder: one["Usmed"].update(Hospital=""), "page needs a Hospital"),
    "Orthanc asks too": (lambda one, folder: one.update(AuthenticationEnabled=True), "must be false where"),
}


@pytest.mark.parametrize(("change", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_without_its_plugin_the_node_does_not_run(
    change: Callable[[dict[str, Any], Path], object], said: str, tmp_path: Path
) -> None:
    assert said in _ends(tmp_path, lambda configuration: change(configuration, tmp_path))


def test_a_gate_that_fails_lets_nobody_in(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'plugins')!r})\n"
        "from usmed.hospital.staff.gate import Gate\n"
        "def decide(*arguments):\n    raise MemoryError('no more')\n"
        "Gate.decide = decide\n"
        "from usmed.hospital.orthanc_host.entry import start\nstart()\n"
    )
    node = Hospital(
        "page", "Nod", "PAGE", tmp_path / "node", orthanc=PAGE, section={"Staff": {"LogIn": "page"}},
        settings={"USMED_PLUGIN": str(script)},
    )  # fmt: skip
    manifest = tmp_path / "region.json"
    parts = Region(tmp_path, [node], Hub(tmp_path / "hub"))
    manifest.write_bytes(parts.signed(parts.document([node.member()])))
    path = node.write_configuration(manifest)
    process = Process(["Orthanc", str(path)], tmp_path / "orthanc.log", {}, ROOT)
    process.start()
    try:
        def answer() -> int:
            try:
                return requests.get(f"{node.url}/patients", auth=AUTH, timeout=5).status_code
            except requests.ConnectionError:
                return 0

        assert eventually(answer, 60, "an answer") == 403
        assert "a request was denied, because the gate has failed" in process.text()
    finally:
        process.stop()
