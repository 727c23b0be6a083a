"""Who did not answer is left alone for a while, then tried once."""

import threading

import pytest

from usmed.hospital.circuit import Circuit


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def circuit(time: Time) -> Circuit:
    return Circuit(30, time)


def test_a_peer_nobody_knows_is_asked(circuit: Circuit) -> None:
    assert [circuit.admits("a") for _ in range(3)] == [True] * 3
    assert circuit.reason("a") == ""


def test_a_failure_keeps_everybody_away_from_that_peer_only(circuit: Circuit, time: Time) -> None:
    circuit.failed("a", "no connection")
    assert circuit.reason("a") == "no connection"
    assert not circuit.admits("a")
    time.now += 29.9
    assert not circuit.admits("a")
    assert circuit.admits("b")


def test_after_its_time_exactly_one_tries(circuit: Circuit, time: Time) -> None:
    circuit.failed("a", "no connection")
    time.now += 30
    admitted = []
    gate = threading.Barrier(8)

    def ask() -> None:
        gate.wait()
        admitted.append(circuit.admits("a"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted) == [False] * 7 + [True]
    assert circuit.reason("a") == "no connection"


def test_the_try_decides(circuit: Circuit, time: Time) -> None:
    circuit.failed("a", "no connection")
    time.now += 30
    assert circuit.admits("a")
    circuit.failed("a", "silence")
    time.now += 29
    assert not circuit.admits("a")
    assert circuit.reason("a") == "silence"
    time.now += 1
    assert circuit.admits("a")
    circuit.succeeded("a")
    assert [circuit.admits("a") for _ in range(3)] == [True] * 3
    assert circuit.reason("a") == ""


def test_a_try_that_never_tells_does_not_close_the_way_for_ever(circuit: Circuit, time: Time) -> None:
    circuit.failed("a", "no connection")
    time.now += 30
    assert circuit.admits("a")
    assert not circuit.admits("a")
    time.now += 30
    assert circuit.admits("a")


def test_open_for_no_time_means_never_open(time: Time) -> None:
    circuit = Circuit(0, time)
    circuit.failed("a", "no connection")
    assert circuit.admits("a")
