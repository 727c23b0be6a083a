"""Which region manifest a process believes: across restarts, from a file, from a hub, and from one that lies."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.hub_region import Clock
from support.signed_region import SignedRegion
from usmed.domain.errors import ConfigurationError, PeerDataError, TransportError
from usmed.domain.quorum import QuorumError
from usmed.platform.audit_log import AuditLog
from usmed.platform.region_file import RegionFile, read_region
from usmed.platform.region_store import RegionStore, starting_region
from usmed.platform.region_watch import RegionWatcher
from usmed.platform.storage import open_database

HALF_A_YEAR_S = 183 * 86400.0


class Process:
    """A process that believes a region manifest: its database outlives it."""

    def __init__(self, url: str, region: SignedRegion) -> None:
        self.url, self.region, self.clock = url, region, Clock()

    @contextmanager
    def started(self, file: RegionFile | None = None) -> Iterator[RegionStore]:
        database = open_database(self.url, [])
        self.audit = AuditLog(database)
        try:
            yield RegionStore(database, self.audit, self.clock, agent="iasi", file=file or self.region.file())
        finally:
            self.audit.close()
            database.close()

    def events(self) -> list[tuple[Any, str, str]]:
        """Return version, outcome and reason of all records."""
        found = self.audit.tail()
        return [(one["detail"].get("version"), one["outcome"], one.get("reason", "")) for one in found]


@pytest.fixture
def region() -> SignedRegion:
    return SignedRegion()


@pytest.fixture
def process(database_url: str, region: SignedRegion) -> Process:
    return Process(database_url, region)


def test_the_first_is_believed_and_the_next_follows(process: Process, region: SignedRegion) -> None:
    with process.started() as store:
        assert store.current().version == 1
        assert store.offer([region.signed(2)], "test") is True
        assert store.current().version == 2
        # Again, as at each poll: no news, and no record.
        for again in (region.signed(2), region.signed(1), region.signed(2, "keys-2", "keys-3")):
            assert store.offer([again], "test") is False
        assert process.events() == [(1, "success", ""), (2, "success", "")]
        assert process.audit.tail()[1]["detail"]["signed_by"] == ["keys-1", "keys-2"]
        assert process.audit.verify().unbroken


def test_a_rollback_is_refused_after_a_restart(process: Process, region: SignedRegion) -> None:
    with process.started() as store:
        assert store.offer([region.signed(2)], "test")
    # The file at installation is still version 1, and is no rollback: it was believed.
    with process.started() as store:
        assert store.current().version == 2
        assert len(process.events()) == 2
    # One that nobody has seen here, properly signed, is.
    other = RegionFile(region.file().manifest, region.signed(1, name="Alta"))
    with process.started(other) as store:
        assert (store.current().version, store.current().name) == (2, "Regiunea Moldova")
        assert "version 1, (" in process.events()[-1][2]
        assert process.events()[-1][1] == "denied"
    assert starting_region(process.url, region.file()).version == 2
    assert starting_region(process.url, region.file(3)).version == 3


def test_a_version_older_than_the_installation_is_refused(process: Process, region: SignedRegion) -> None:
    with process.started(region.file(3)) as store:
        assert store.offer([region.signed(2)], "test") is False
        assert "is older than the one in use, version 3" in process.events()[-1][2]


REST = ["keys-2", "keys-3", "keys-4"]
REFUSED: list[tuple[str, Callable[[SignedRegion], list[Any]], str]] = [
    ("k-1 of the old", lambda r: [r.signed(2, "keys-2", "keys-4", servers=REST)], "version 1"),
    ("k-1 of the new", lambda r: [r.signed(2, "keys-1", "keys-2", servers=REST)], "1 of the 2"),
    ("one signature", lambda r: [r.signed(2, "keys-1")], "1 of the 2"),
    ("one signature twice", lambda r: [twice(r.signed(2, "keys-1"))], "signed twice"),
    ("a gap", lambda r: [r.signed(3)], "version 3 cannot follow version 1"),
    ("a gap in a chain", lambda r: [r.signed(2), r.signed(4)], "version 4 cannot follow version 2"),
    ("backwards", lambda r: [r.signed(2), r.signed(1)], "version 1 cannot follow version 2"),
    ("the same version, other bytes", lambda r: [r.signed(1, name="Alta")], "is another than the one believed before"),
    ("expired", lambda r: [r.signed(2, expires="2026-11-21T09:30:00Z")], "expired at 2026-11-21 09:30"),
    ("a chain whose last has expired", lambda r: [r.signed(2), r.signed(3, expires="2026-11-21T09:30:00Z")], "expired"),
    ("another region", lambda r: [r.signed(2, region="sud")], "'sud'"),
    ("faults", lambda r: [r.signed(2, hospitals=[])], "names no hospital"),
    ("no end", lambda r: [r.signed(document=without(r.document(2), "expires"))], "$.expires: is missing"),
    ("no threshold", lambda r: [r.signed(document=without(r.document(2), "threshold"))], "$.threshold: is missing"),
    ("garbage", lambda r: [{"payload": "x", "signatures": [{}]}], ""),
    ("nothing at all", lambda r: [None], "exactly the members"),
    ("a draft", lambda r: [r.document(2)], "exactly the members"),
    ("version of another kind", lambda r: [r.signed(document={**r.document(2), "version": "2"})], "must be a int"),
]


def twice(signed: dict[str, Any]) -> dict[str, Any]:
    return {**signed, "signatures": signed["signatures"] * 2}


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


@pytest.mark.parametrize(("make", "reason"), [one[1:] for one in REFUSED], ids=[one[0] for one in REFUSED])
def test_what_does_not_follow_is_refused_and_recorded_once(
    process: Process, region: SignedRegion, make: Callable[[SignedRegion], list[Any]], reason: str
) -> None:
    with process.started() as store:
        offered = make(region)
        for _ in range(3):
            assert store.offer(offered, "the hub") is False
        assert store.current().version == 1
        _, *refused = process.events()
        assert len(refused) == 1
        assert refused[0][1] == "denied"
        assert reason in refused[0][2]
        with pytest.raises((PeerDataError, ConfigurationError)):
            store.take(offered, "the hub")
        # And nothing half-way: the right one still follows.
        assert store.offer([region.signed(2)], "the hub")
        assert [one[0] for one in process.events()] == [1, None, 2]


def test_a_removed_administrator_no_longer_counts(process: Process, region: SignedRegion) -> None:
    rest = ["keys-2", "keys-3"]
    with process.started() as store:
        assert store.offer([region.signed(2, *rest, servers=rest)], "test")
        with pytest.raises(QuorumError, match="'keys-1' is nobody whose signature counts"):
            store.take([region.signed(3, "keys-1", "keys-2", servers=rest)], "test")
        # Nor by coming back in the very version that he signs.
        with pytest.raises(QuorumError, match="as the administrators of version 2"):
            store.take([region.signed(3, "keys-1", "keys-2")], "test")
        assert store.offer([region.signed(3, "keys-3", "keys-2")], "test")


def test_a_chain_is_taken_in_one_step(process: Process, region: SignedRegion) -> None:
    # Who was away for long passes versions that expired meanwhile.
    chain = [region.signed(2, expires="2026-11-21T09:30:00Z"), region.signed(3), region.signed(4)]
    with process.started() as store:
        assert store.offer([region.signed(1), *chain], "the hub") is True
        assert store.current().version == 4
        assert [one[0] for one in process.events()] == [1, 2, 3, 4]
        assert store.after(1) == chain
        assert store.after(3) == chain[2:]
        assert store.after(4) == []
    with process.started() as store:
        assert (store.current().version, store.after(0)) == (4, [region.signed(1), *chain])


def test_a_frozen_region_expires_but_is_still_known(process: Process, region: SignedRegion) -> None:
    with process.started() as store:
        assert not store.current().is_expired(process.clock())
        process.clock.advance(HALF_A_YEAR_S)
        assert store.current().is_expired(process.clock())
        assert store.current().version == 1
        assert store.offer([region.signed(2)], "test") is False
        assert store.offer([region.signed(2, expires="2028-01-01T00:00:00Z")], "test") is True
        assert not store.current().is_expired(process.clock())
    # Not even the first start of a node is held up: local care goes on.
    process.clock.advance(4 * HALF_A_YEAR_S)
    with process.started() as store:
        assert store.current().is_expired(process.clock())


def test_what_is_stored_is_checked(process: Process, region: SignedRegion) -> None:
    with process.started():
        pass
    database = open_database(process.url, [])
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE region_version SET digest = 'x'")
    database.close()
    with pytest.raises(ConfigurationError, match="somebody has changed the database"), process.started():
        pass


def test_two_processes_of_one_actor_agree(process: Process, region: SignedRegion) -> None:
    with process.started() as one, process.started() as two:
        assert one.offer([region.signed(2)], "test")
        assert two.offer([region.signed(2)], "test") is False
        assert two.offer([region.signed(2), region.signed(3)], "test")
        assert one.offer([region.signed(3), region.signed(4)], "test")
        assert one.current().version == 4


def test_many_threads_take_one_version_once(process: Process, region: SignedRegion) -> None:
    taken: list[bool] = []
    with process.started() as store:
        offered = [region.signed(2)]
        threads = [threading.Thread(target=lambda: taken.append(store.offer(offered, "test"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == [False] * 7 + [True]
        assert len(process.events()) == 2


# ---- the watcher ----


@pytest.fixture
def path(tmp_path: Path, region: SignedRegion) -> Path:
    path = tmp_path / "region.json"
    path.write_bytes(region.data(1))
    return path


@contextmanager
def watching(watcher: RegionWatcher) -> Iterator[None]:
    watcher.start()
    try:
        yield
    finally:
        watcher.stop(5.0)


def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_file_that_is_replaced_is_taken_up_while_running(process: Process, region: SignedRegion, path: Path) -> None:
    with process.started(read_region(path)) as store, watching(RegionWatcher(store, path, {}, file_s=0.05)):
        path.write_bytes(b"{half")
        time.sleep(0.2)
        path.write_bytes(region.data(2, "keys-1"))
        time.sleep(0.2)
        path.unlink()
        time.sleep(0.2)
        assert store.current().version == 1
        path.write_bytes(region.data(2))
        eventually(lambda: store.current().version == 2)
        # What is wrong by itself is the file's fault, told in the log; only what could be believed is recorded.
        assert [one[0] for one in process.events()] == [1, 2]


def test_a_file_changed_before_the_watcher_started_is_seen(process: Process, region: SignedRegion, path: Path) -> None:
    with process.started(read_region(path)) as store:
        path.write_bytes(region.data(2))
        watcher = RegionWatcher(store, path, {})
        watcher.look()
        assert store.current().version == 2


class LyingHub:
    """Answers what it is told to."""

    def __init__(self) -> None:
        self.answers: Callable[[int], Any] = lambda version: []
        self.asked = 0

    def __call__(self, version: int) -> list[Any]:
        self.asked += 1
        answer: list[Any] = self.answers(version)
        return answer


def test_newer_versions_come_from_a_hub_that_may_lie(
    process: Process, region: SignedRegion, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = LyingHub()

    def unreachable(version: int) -> Any:
        raise TransportError("the hub was not reached")

    def broken(version: int) -> Any:
        raise RuntimeError

    with process.started(read_region(path)) as store:
        watcher = RegionWatcher(store, path, {"the hub": hub}, file_s=0.02, poll_s=0.05)
        with watching(watcher):
            for lie in (
                unreachable,
                lambda version: [region.signed(version + 1, "keys-1")],
                lambda version: "x",
                lambda version: {},
                lambda version: [None] * 50,
                lambda version: [region.signed(version)],
                broken,
            ):
                before = hub.asked
                hub.answers = lie
                eventually(lambda before=before: hub.asked > before + 2)  # type: ignore[misc]
            assert store.current().version == 1
            chain = {number: region.signed(number) for number in range(2, 6)}
            # Two at a time: asked again at once until there is none.
            hub.answers = lambda version: [chain[n] for n in (version + 1, version + 2) if n in chain]
            eventually(lambda: store.current().version == 5)
        assert [one[:2] for one in process.events()] == [
            (1, "success"), (None, "denied"), (None, "denied"), *((n, "success") for n in range(2, 6))
        ]  # fmt: skip
        assert process.audit.verify().unbroken
    told = [one.getMessage() for one in caplog.records]
    assert len([one for one in told if "the hub was not reached" in one]) == 1


def test_a_file_ahead_of_the_hub_is_taken_once_the_gap_is_closed(
    process: Process, region: SignedRegion, path: Path
) -> None:
    with process.started(read_region(path)) as store:
        path.write_bytes(region.data(3))
        hub = LyingHub()
        watcher = RegionWatcher(store, path, {"the hub": hub})
        watcher.ask()
        watcher.look()
        assert store.current().version == 1
        hub.answers = lambda version: [region.signed(2)] if version < 2 else []
        watcher.ask()
        watcher.look()
        assert store.current().version == 3


def test_the_end_is_announced_in_the_log(
    process: Process, region: SignedRegion, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with process.started(read_region(path)) as store:
        watcher = RegionWatcher(store, path, {})
        for _ in range(3):
            process.clock.advance(HALF_A_YEAR_S / 4.5)
            watcher.remind()
            watcher.remind()
    told = [one.getMessage() for one in caplog.records if "usmed region renew" in one.getMessage()]
    assert ["ends soon" in one for one in told] == [True, False]
    assert "has expired" in told[1]
