#!/usr/bin/env python3
"""Record and take back the sample patients' consents at the desks of their hospitals, as two members of staff do.

A consent under a hospital's own number is recorded there, one under the national number at A. What is recorded already
is left as it is; one that has expired by now is not recorded. Runs in the container `workstation`.
"""

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from region import HOSPITALS, INDEX, SAMPLE, A, Hospital

RECORDED = SAMPLE.parent / "recorded-consents.json"
"""What was recorded: id in the sample data to hospital and the consent's own id."""

LONGEST = timedelta(days=360)
"""A consent on paper holds for a year at most."""

DONE_S = 30


def main() -> int:
    """Carry out one command; return 0 if everything became done."""
    parser = argparse.ArgumentParser(description="Record the demonstration's consents.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("all", help="record all of the sample data")
    agree = commands.add_parser("agree", help="record one like another patient's")
    agree.add_argument("copied")
    agree.add_argument("new")
    agree.add_argument("person")
    withdraw = commands.add_parser("withdraw", help="take one back")
    withdraw.add_argument("id")
    arguments = parser.parse_args()
    if arguments.command == "all":
        for file in sorted((SAMPLE / "consents").glob("*.json")):
            record(json.loads(file.read_text("utf-8")))
    elif arguments.command == "agree":
        record(like(arguments.copied, arguments.new, arguments.person))
    else:
        take_back(arguments.id)
    return 0


def like(copied: str, new: str, person: str) -> dict[str, Any]:
    """Return a consent of the sample data as if another patient had given it."""
    consent: dict[str, Any] = json.loads((SAMPLE / "consents" / f"{copied}.json").read_text("utf-8"))
    (one,) = [one for one in INDEX["persons"] if one["key"] == person]
    consent["id"] = new
    consent["patient"]["identifier"]["value"] = one["national_number"]
    consent["patient"]["display"] = one["name"]
    return consent


def record(consent: dict[str, Any]) -> None:
    """Record a consent: the clerk writes it down, the administrator confirms what was written."""
    known, sample_id = recorded(), consent.pop("id")
    if sample_id in known:
        return
    today = datetime.now(UTC).date()
    period = consent["provision"]["period"]
    if period.get("end", str(today)) < str(today):
        print(f"expired, left out: {sample_id}")
        return
    if consent["provision"]["type"] == "permit":
        period["end"] = min(period.get("end", "9999"), str(today + LONGEST))
    hospital = desk_of(consent["patient"]["identifier"]["system"].rpartition(":")[2])
    id = confirmed(hospital, send(hospital, "", {"Resource": consent}, clerk(hospital)))
    RECORDED.write_text(json.dumps({**known, sample_id: [hospital.id, id]}), "utf-8")
    print(f"recorded: {sample_id} at {hospital.id}")


def take_back(sample_id: str) -> None:
    """Take a consent back where it was recorded."""
    hospital_id, id = recorded()[sample_id]
    (hospital,) = [one for one in HOSPITALS if one.id == hospital_id]
    confirmed(hospital, send(hospital, f"/{id}/withdrawal", {}, clerk(hospital)))
    print("done on every key server and at every hospital")


def confirmed(hospital: Hospital, draft: dict[str, Any]) -> str:
    """Confirm a draft as the second member of staff, wait until it is done, return the consent's id."""
    id = str(draft["ID"])
    entry = send(hospital, f"/{id}/confirmation", {"Sha256": draft["Sha256"]}, hospital.login)
    end = time.monotonic() + DONE_S
    while not entry["Attested"]["Done"] or entry["Attested"]["WaitingForKeyServers"]:
        if time.monotonic() > end:
            sys.exit(f"not done: {entry['Attested']}")
        time.sleep(0.5)
        entry = requests.get(f"{hospital.url}/usmed/consents/{id}", auth=hospital.login, timeout=30).json()
    return id


def send(hospital: Hospital, path: str, body: dict[str, Any], login: tuple[str, str]) -> dict[str, Any]:
    """Post to a hospital's desk."""
    answer = requests.post(f"{hospital.url}/usmed/consents{path}", json=body, auth=login, timeout=30)
    if answer.status_code != 200:
        sys.exit(f"{hospital.id}: HTTP {answer.status_code} {answer.text}")
    return dict(answer.json())


def clerk(hospital: Hospital) -> tuple[str, str]:
    """Return the log-in of the hospital's desk."""
    return "clerk", os.environ[f"USMED_CLERK_PASSWORD_{hospital.letter}"]


def desk_of(issuer: str) -> Hospital:
    """Return where a consent under numbers of this issuer is recorded."""
    owner = {one["issuer"]: one["id"] for one in INDEX["hospitals"]}.get(issuer)
    return next((one for one in HOSPITALS if one.id == owner), A)


def recorded() -> dict[str, Any]:
    """Return what was recorded before."""
    return dict(json.loads(RECORDED.read_text("utf-8"))) if RECORDED.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
