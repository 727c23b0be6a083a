"""The attackers' table, against a running region: every row is refused or has no effect, in words that help, and is on
record; and the region goes on."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from werkzeug.test import TestResponse

from contract import attacks_on_log_in, attacks_on_pages, attacks_on_people
from contract.attack_region import Scene, running_scene
from contract.attack_table import ATTACKS
from contract.key_servers import SERVERS
from support.postgresql import new_database

assert attacks_on_log_in and attacks_on_pages and attacks_on_people  # they fill the table


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    def new() -> str:
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('region') / uuid4().hex}.db"
        return new_database(request.getfixturevalue("postgresql"))

    with running_scene(new) as scene:
        yield scene


@pytest.fixture
def scene(running: Scene) -> Scene:
    running.begin()
    return running


def words_of(answer: TestResponse) -> str:
    """Return what a script or a person reads; of a page that is a problem, it has to say what to do."""
    document: Any = answer.json if answer.is_json else None
    if isinstance(document, dict) and "error" in document:
        assert len(document["message"]) > 20
        return str(document["error"])
    return answer.text


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_said_and_recorded(scene: Scene, name: str) -> None:
    row = ATTACKS[name]
    answer = row.act(scene)
    assert answer.status_code == row.status, answer.text
    assert row.says in words_of(answer)
    assert "Traceback" not in answer.text
    reasons = [one.get("reason", "") for one in scene.refusals(row.log)]
    if row.recorded:
        assert any(row.recorded in one for one in reasons), reasons
    # Whoever is no attacker goes on.
    bystander = scene.bystander()
    assert bystander.log_in().status_code == 200
    bystander.read("/")


def test_after_all_that_a_patient_permits_and_every_key_server_knows_it(scene: Scene) -> None:
    consent = scene.patient().permit(recipients="bacau")
    assert scene.region.holding(consent) == set(SERVERS)


def test_the_table_is_long_enough() -> None:
    assert len(ATTACKS) >= 25
    assert sum(1 for one in ATTACKS.values() if one.recorded) >= 25
