"""Who did what stands in the audit log at both ends and at the hub; `usmed audit verify` finds every chain whole."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e import dcmtk, signed
from e2e.conftest import World
from e2e.studies import Patient, Study, national_number
from support.region import ROOT, Hospital, Hub, eventually, permit
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub.accesses import Accesses
from usmed.platform.region_file import load_region
from usmed.platform.storage import open_database

JSON = {"Content-Type": "application/json"}
STUDY = Study("audited", Patient(national_number(801), name="Înregistrat^Ion"), instances=2)
KEPT = Study("audited and kept", Patient(national_number(802), name="Înregistrat^Ion"), instances=2)
NAMES = ("Înregistrat", "Ion")


def command(member: Hospital | Hub, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `usmed audit` on a member's database."""
    return subprocess.run(
        [sys.executable, "-m", "usmed", "audit", *arguments, "--database", member.database_url],
        env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
        capture_output=True,
        text=True,
        check=False,
    )


def trail(member: Hospital | Hub, patient: str) -> list[dict[str, Any]]:
    """Return what a member's log says about one patient, oldest first."""
    printed = command(member, "tail", "-n", "500", "--patient", f"RO-CNP:{patient}")
    assert printed.returncode == 0, printed.stderr
    return [json.loads(line) for line in printed.stdout.splitlines()]


def said(records: Iterable[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Return what happened, who did it, and how it ended."""
    return {(one["event"], one["agent"], one["outcome"]) for one in records}


@pytest.fixture(scope="module", autouse=True)
def happened(world: World) -> None:
    """Let a workstation at B look up and fetch a study of A, and one at C try."""
    world.place([(world.a, STUDY), (world.a, KEPT)])
    world.region.consent(permit("RO-CNP", STUDY.patient.number, recipients=[world.b.id]))
    for hospital in (world.b, world.c):
        for study in (STUDY, KEPT):
            keys = {"PatientID": study.patient.number, "StudyInstanceUID": ""}
            dcmtk.find(hospital, "STUDY", keys)
            hospital.post("/usmed/fetch", {"StudyInstanceUID": study.uid}, headers=JSON)
            # C asks past its own node too.
            person = [("RO-CNP", study.patient.number)]
            signed.send(hospital, world.a, signed.LOOKUP, signed.lookup(person))
            signed.send(hospital, world.a, signed.MANIFEST, signed.of_study(study.uid, person))
    eventually(lambda: world.b.get(f"/usmed/transfers/{STUDY.uid}").json()["State"] == "complete")


def test_at_the_source_stand_lookup_decision_and_release(world: World) -> None:
    found = trail(world.a, STUDY.patient.number)
    assert {("lookup", "parhon", "success"), ("decision", "parhon", "success"), ("release", "parhon", "success"),
            ("refused", "regional", "denied")} <= said(found)  # fmt: skip
    assert not {("release", "regional", "success")} & said(found)
    for one in found:
        if one["event"] in ("decision", "release"):
            assert one["study_instance_uid"] == STUDY.uid
    released = [one for one in found if one["event"] == "release"]
    # How many and why: which consent it was.
    assert sum(one["detail"]["instances"] for one in released) == len(STUDY.sop_uids)
    assert all(one["detail"]["consent"] for one in released)


def test_the_hub_is_told_for_the_patient_who_got_the_study_once(world: World) -> None:
    patient = PatientIdentifier("RO-CNP", STUDY.patient.number)
    database = open_database(world.region.hub.database_url, ["usmed.hub.migrations"])
    manifest = load_region(world.region.file)
    try:
        accesses = Accesses(database, lambda: manifest, lambda: datetime.now(UTC))
        found = eventually(lambda: accesses.of([patient]), 20, "the hub is told")
    finally:
        database.close()
    assert [(one.source, one.recipient, one.study_instance_uid, one.purpose) for one in found] == [
        (world.a.id, world.b.id, STUDY.uid, "TREAT")
    ]
    assert found[0].consents


def test_at_the_receiver_stand_lookup_and_pull(world: World) -> None:
    found = trail(world.b, STUDY.patient.number)
    assert {("lookup", "WS", "success"), ("pull", "admin", "success")} <= said(found)
    (pulled,) = [one for one in found if one["event"] == "pull"]
    assert (pulled["peer"], pulled["study_instance_uid"]) == (world.a.id, STUDY.uid)
    assert pulled["detail"]["instances"] == len(STUDY.sop_uids)


def test_what_was_refused_stands_at_both_ends_too(world: World) -> None:
    for asker in (world.b, world.c):
        assert ("refused", asker.id, "denied") in said(trail(world.a, KEPT.patient.number))
        assert ("lookup", "WS", "success") in said(trail(asker, KEPT.patient.number))
        assert "pull" not in {one["event"] for one in trail(asker, KEPT.patient.number)}


def test_at_the_hub_stand_lookups_and_consents(world: World) -> None:
    found = said(trail(world.hub, STUDY.patient.number))
    assert {("lookup", "parhon", "success"), ("lookup", "regional", "denied")} <= found
    assert "consent" in {event for event, _, _ in found}


def test_no_log_names_a_person(world: World) -> None:
    """Logs and audit logs carry numbers, never names."""
    for member in (world.a, world.b, world.c, world.hub):
        printed = command(member, "tail", "-n", "500").stdout
        assert STUDY.patient.number in printed
        text = printed + (member.process.text() if member.process is not None else "")
        assert not [name for name in NAMES if name in text]


@pytest.mark.parametrize("name", ["a", "b", "c", "hub"])
def test_every_chain_is_whole(world: World, name: str) -> None:
    verified = command(getattr(world, name), "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "unbroken" in verified.stdout
    assert int(verified.stdout.split()[0]) > 0


def test_a_chain_that_was_tampered_with_is_not(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On a copy: a node that runs is not disturbed."""
    copy = tmp_path_factory.mktemp("tampered") / "usmed.db"
    source = sqlite3.connect(world.a.database_url.removeprefix("sqlite:///"))
    with sqlite3.connect(copy) as target:
        source.backup(target)
        (table,) = [
            name
            for (name,) in target.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if "content" in {column[1] for column in target.execute(f"PRAGMA table_info({name})")}
            and "hash" in {column[1] for column in target.execute(f"PRAGMA table_info({name})")}
        ]
        altered = target.execute(
            f"UPDATE {table} SET content = REPLACE(content, 'denied', 'success')"
            f" WHERE sequence = (SELECT MAX(sequence) FROM {table} WHERE content LIKE '%denied%')"
        )
        assert altered.rowcount == 1
    source.close()
    target.close()
    done = subprocess.run(
        [sys.executable, "-m", "usmed", "audit", "verify", "--database", f"sqlite:///{copy}"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "altered" in done.stderr
