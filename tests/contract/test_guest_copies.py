"""How a guest copy goes: real tables, a real manifest. Orthanc is in memory: e2e `test_withdrawn_copies` has one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from contract.test_guest_store import released
from support.signed_region import SignedRegion
from usmed.domain.identifiers import Naming, PatientIdentifier, orthanc_id
from usmed.domain.manifest import ManifestEntry, StudyManifest
from usmed.domain.pull import Event, State
from usmed.domain.region import parse_region
from usmed.domain.request_signature import sign_document
from usmed.hospital.archive import GUEST_LABEL, Study
from usmed.hospital.guest_copies import GuestCopies
from usmed.hospital.guest_store import GuestStore
from usmed.hospital.pulls import Pulls
from usmed.hospital.store import CHAIN, PullStore
from usmed.hospital.transfer import Transfer
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import Database, open_database

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
UID, PATIENT = "1.2.3", "7"
STUDY = orthanc_id(PATIENT, UID)


@dataclass
class Disk:
    """One study: its instances that no system of the hospital has sent, and its labels."""

    instances: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    labels: frozenset[str] = frozenset({GUEST_LABEL})

    def study(self, study_instance_uid: str) -> list[Study]:
        every = [*self.instances, *self.own]
        return [
            Study(
                STUDY, study_instance_uid, PATIENT, "", "", "", "", "", ("CT",), self.labels, len(every), ()
            )
        ] if every else []  # fmt: skip

    def study_by_orthanc_id(self, orthanc_id: str) -> Study | None:
        return next(iter(self.study(UID)), None)

    def stored_by_plugins(self, study_orthanc_id: str) -> dict[str, str]:
        assert study_orthanc_id == STUDY
        return {one: f"o-{one}" for one in self.instances}

    def delete_instances(self, instance_orthanc_ids: Sequence[str]) -> None:
        self.instances = [one for one in self.instances if f"o-{one}" not in instance_orthanc_ids]

    def clear_provenance(self, study_orthanc_id: str) -> None:
        pass

    def label(self, study_orthanc_id: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        self.labels = self.labels.union(add).difference(remove)


class Node:
    """What deletes copies at Bacau; Iasi has sent them."""

    def __init__(self, database: Database, archive: Disk) -> None:
        self.region = SignedRegion()
        region = parse_region(self.region.document(), "test")
        self.store, self.guests, self.audit = PullStore(database), GuestStore(database), AuditLog(database)
        any_part: Any = archive
        transfer = Transfer(
            hospital="bacau", naming=Naming("BACAU", None), region=lambda: region, store=self.store,
            guests=self.guests, archive=any_part, client=any_part, tickets=any_part, changes=any_part,
            clock=lambda: NOW, connections=1, idle_s=1,
        )  # fmt: skip
        self.pulls = Pulls(
            transfer=transfer, store=self.store, archive=any_part, audit=self.audit, clock=lambda: NOW, workers=1
        )
        self.own_again: list[str] = []
        self.copies = GuestCopies(
            pulls=self.pulls, guests=self.guests, archive=any_part, audit=self.audit, clock=lambda: NOW,
            own_again=self.own_again.append,
        )  # fmt: skip

    def pulled(self, *announced: str, manifest: bool = True) -> None:
        """Have a whole copy; of what it brought nothing but its manifest is known."""
        number = PatientIdentifier("IASI", PATIENT)
        entries = tuple(ManifestEntry(one, "1.9", 5, "0" * 64) for one in announced)
        document = StudyManifest("iasi", "bacau", UID, number, "", "", "c", entries).to_json()
        self.store.ask(UID, source="iasi", patient_id=PATIENT, identifiers=frozenset({number}), requested_by="WS",
                       now=NOW)  # fmt: skip
        self.store.move(UID, Event.START)
        token = sign_document(self.region.keys["iasi"], sender="iasi", document=document) if manifest else ""
        self.store.move(UID, Event.VERIFIED, manifest=token, instances=len(entries))

    def delete(self) -> bool:
        return self.copies.delete(UID, "not used for 30 days")

    def said(self) -> list[tuple[str, int]]:
        events = [one for one in self.audit.tail() if one["event"] == "retention"]
        return [(one["outcome"], one["detail"]["deleted"]) for one in events]


@pytest.fixture
def disk() -> Disk:
    return Disk(["1.1", "1.2"])


@pytest.fixture
def node(database_url: str, disk: Disk) -> Iterator[Node]:
    database = open_database(database_url, [CHAIN])
    made = Node(database, disk)
    yield made
    made.audit.close()
    database.close()


def test_what_was_noted_goes_and_the_hospitals_own_stays(node: Node, disk: Disk) -> None:
    node.pulled("1.1", "1.2")
    released(node.guests, sop_instance_uids=["1.1"])
    disk.own = ["5.5"]
    assert node.delete()
    assert (disk.instances, disk.own, disk.labels, node.own_again) == (["1.2"], ["5.5"], frozenset(), [STUDY])
    assert node.said() == [("success", 1)]
    assert node.store.get(UID) is None


def test_what_was_not_noted_is_learnt_from_the_manifest(node: Node, disk: Disk) -> None:
    disk.instances.append("7.7")
    node.pulled("1.1", "1.2")
    assert node.delete()
    assert (disk.instances, node.said(), node.store.get(UID)) == (["7.7"], [("success", 2)], None)


@pytest.mark.parametrize("labels", [frozenset({GUEST_LABEL}), frozenset()])
def test_a_copy_of_which_nothing_is_known_is_not_forgotten_but_looked_at_by_a_person(
    node: Node, disk: Disk, labels: frozenset[str]
) -> None:
    disk.labels = labels
    node.pulled("1.1", "1.2", manifest=False)
    for _ in range(3):
        assert not node.delete()
        node.copies.finish()
    assert disk.instances == ["1.1", "1.2"]
    row = node.store.get(UID)
    assert row is not None
    assert row.state is State.LEAVING
    assert node.pulls.arriving(UID) == UID
    # Once, not at every try.
    assert node.said() == [("failure", 0)]
    assert "by hand" in node.copies.stuck[UID]
    disk.instances.clear()
    node.copies.finish()
    assert (node.store.get(UID), node.said()[1:], node.copies.stuck) == (None, [("success", 0)], {})


def test_a_manifest_that_cannot_be_verified_is_none(node: Node, disk: Disk) -> None:
    node.pulled("1.1", "1.2")
    node.store.set(UID, manifest=sign_document(node.region.keys["bacau"], sender="iasi", document={}))
    assert not node.delete()
    assert disk.instances == ["1.1", "1.2"]


def test_a_pull_that_never_began_is_forgotten_whatever_of_the_hospitals_own_is_here(node: Node, disk: Disk) -> None:
    disk.labels = frozenset()
    node.store.ask(UID, source="iasi", patient_id=PATIENT, identifiers=frozenset(), requested_by="WS", now=NOW)
    assert node.delete()
    assert (disk.instances, node.store.get(UID)) == (["1.1", "1.2"], None)
