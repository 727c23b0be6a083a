"""The errors of all actors. Two roots matter most: the peer lied, or the peer was unreachable."""

from collections.abc import Sequence


class UsmedError(Exception):
    """Root of every error that USMED raises on purpose. `str(error)` is fit for a person to read."""


class PeerDataError(UsmedError):
    """What came from outside is malformed, altered, wrongly signed or contradicts itself."""


class TransportError(UsmedError):
    """A peer did not answer, or not in time: nothing is known about what it would have said."""


class RefusedError(UsmedError):
    """A peer answered, properly signed, and refused.

    `code` is the machine-readable reason that the peer gave (`unknown`, `replayed`, `expired`, …).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class IdentityConflictError(UsmedError):
    """Storing or showing this would put two different persons under one patient."""


class ConfigurationError(UsmedError):
    """Settings or a region manifest are wrong; `problems` lists every fault, each with its path."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s):\n{lines}")
