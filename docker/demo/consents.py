"""Record the sample patients' consents; runs in the hub's container, as a clerk would there.

Only those that the hub does not know yet: recording one again would make a new version of it, and what somebody
withdrew since stays withdrawn. One that has expired by now is not recorded, as a clerk would not record it either.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

FOLDER = Path("/sample/data/consents")


def main() -> int:
    """Record what is missing; return the exit code of the command that does it."""
    listed = subprocess.run(["usmed", "consent", "list", "--json"], capture_output=True, text=True, check=True).stdout
    known = {json.loads(line)["id"] for line in listed.splitlines()}
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    new = []
    for file in sorted(FOLDER.glob("*.json")):
        consent = json.loads(file.read_text(encoding="utf-8"))
        if consent["id"] in known:
            continue
        if consent["provision"]["period"].get("end", today) < today:
            print(f"expired, left out: {consent['id']}")
        else:
            new.append(str(file))
    if not new:
        print("nothing new")
        return 0
    return subprocess.run(["usmed", "consent", "record", "--by", "demo", *new], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
