"""A node whose Orthanc checks nobody's password: what needs two members of staff is refused, all else goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.region import AUTH, CLERK, Hospital, Hub, eventually, permit, running_region

REASON = "adus inconstient dupa un accident"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder: Path = tmp_path_factory.mktemp("open")
    one = Hospital(
        "open", "Spitalul deschis", "OPEN", folder / "open", orthanc={"AuthenticationEnabled": False},
        section={"Staff": {"Anonymous": "administrator"}},
    )
    with running_region(folder, [one], Hub(folder / "hub")):
        yield one


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/consents", {"Resource": permit("OPEN", "7")}),
        ("/consents/numbers", {"Patient": []}),
        ("/consents/any/withdrawal", {}),
        ("/consents/any/confirmation", {"Sha256": "0"}),
        ("/emergencies", {"PatientID": "7", "Reason": REASON}),
        ("/emergencies/any/confirmation", {}),
    ],
)
@pytest.mark.parametrize("who", [CLERK, AUTH, ("anybody", "no password of theirs")])
def test_nobody_is_believed_to_be_a_member_of_staff(
    node: Hospital, path: str, body: dict[str, object], who: tuple[str, str]
) -> None:
    def written_down() -> list[str]:
        return [one["reason"] for one in node.audit() if one["event"] == "refused"]

    before = written_down()
    refused = node.as_staff(who, path, body)
    assert refused.status_code == 403
    assert "log-ins have to be on" in refused.json()["message"]
    eventually(lambda: len(written_down()) > len(before), 10, "it is written down")
    assert written_down()[-1].startswith(f"{path.removesuffix('/')}: log-ins have to be on")


def test_the_rest_goes_on(node: Hospital) -> None:
    assert node.get("/usmed/patients/7").ok
    assert node.get("/usmed/consents").json() == []
