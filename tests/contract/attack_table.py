"""The attackers' table: who tries what, what answers, and what the audit log has to say of it.

A row is a function that tries it on a `Scene` and returns the answer. `test_patient_attacks` runs all rows;
`docs/explanation/threat-model.md` shows them, which `tests/unit/test_threat_model.py` compares.
"""

from collections.abc import Callable
from dataclasses import dataclass

from werkzeug.test import TestResponse

from contract.attack_region import Scene
from usmed.domain.region import HUB

type Try = Callable[[Scene], TestResponse]


@dataclass(frozen=True, slots=True)
class Attack:
    """A row.

    Attributes:
        who: the attacker.
        tries: what.
        act: tries it.
        status: of HTTP, of the answer.
        says: the code of the answer to a script or a member, or words on the page.
        recorded: words of the reason in the audit record; empty where nothing is refused to anybody, because what was
            sent has no effect.
        log: in whose audit log.
    """

    who: str
    tries: str
    act: Try
    status: int
    says: str
    recorded: str
    log: str


ATTACKS: dict[str, Attack] = {}


def attack(who: str, tries: str, status: int, says: str, recorded: str, log: str = HUB) -> Callable[[Try], Try]:
    """Put a function into the table, under its name."""

    def add(act: Try) -> Try:
        name = act.__name__  # type: ignore[attr-defined]
        assert name not in ATTACKS
        ATTACKS[name] = Attack(who, tries, act, status, says, recorded, log)
        return act

    return add


def table() -> str:
    """Return the table as the documentation shows it."""
    lines = ["| attacker | tries | gets | in the audit log of | row |", "|---|---|---|---|---|"]
    for name, one in ATTACKS.items():
        log = {HUB: "the hub", "bacau": "the node"}.get(one.log, "each key server")
        where = f"{log}: {one.recorded}" if one.recorded else "nothing: it has no effect"
        lines.append(f"| {one.who} | {one.tries} | {one.status} {one.says} | {where} | `{name}` |")
    return "\n".join(lines)
