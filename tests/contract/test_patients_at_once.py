"""The load test of the portal, small: nothing acknowledged is lost, nothing is there twice."""

from pathlib import Path

from bench.patients import answer_all

from support.postgresql import new_database


def test_patients_answer_while_nodes_poll(tmp_path: Path, postgresql: str) -> None:
    outcome = answer_all(tmp_path, new_database(postgresql), patients=20, nodes=3, window_s=2.0)
    assert outcome.failures == []
    assert (len(outcome.acknowledged), outcome.kept, outcome.answered) == (20, 20, 20)
    assert outcome.doubled == []
    assert len(outcome.pages) == 6 * 20
    assert outcome.polls
