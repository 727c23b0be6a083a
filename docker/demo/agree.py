"""Record a consent of a sample patient who gave none, like another's; runs in the hub's container.

Arguments: id of the consent to copy, id of the new one, key of the patient in index.json.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SAMPLE = Path("/sample/data")


def main(copied: str, new: str, person: str) -> int:
    """Record it; return the exit code of `usmed consent record`."""
    consent = json.loads((SAMPLE / "consents" / f"{copied}.json").read_text(encoding="utf-8"))
    persons = json.loads((SAMPLE / "index.json").read_text(encoding="utf-8"))["persons"]
    (one,) = [one for one in persons if one["key"] == person]
    consent["id"] = new
    consent["patient"]["identifier"]["value"] = one["national_number"]
    consent["patient"]["display"] = one["name"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(consent, file)
        file.flush()
        return subprocess.run(["usmed", "consent", "record", "--by", "demo", file.name], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
