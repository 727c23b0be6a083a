"""Libraries without what they would load for uses that a process has none of. numpy alone is 10 MB of each node.

pydicom takes numpy for pixels and requests for its own test data, SQLAlchemy greenlet for asyncio, Alembic's template
engine pygments for pages about its own errors; each does without where that is not installed.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Import as if these packages were not installed. Whoever wants one of them can import it afterwards."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        # What is None here cannot be imported (the import system, "The module cache").
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
