"""Libraries without what they would load for uses that a node has none of: 25 MB of every node's memory.

pydicom takes numpy for pixels and requests for its own test data, alembic's template engine takes pygments for pages
about its own errors. Each does without where they are not installed. To be called before anything else imports them.
"""

import importlib
import sys

LEFT_OUT = {
    ("pydicom", "pydicom.filewriter", "pydicom.datadict"): ("numpy", "requests", "tqdm", "PIL"),
    ("alembic.util", "alembic.command"): ("pygments",),
}


def import_lean() -> None:
    """Import the keys of `LEFT_OUT` as if their values were not installed.

    Whoever wants one of those can import it afterwards.
    """
    for wanted, unwanted in LEFT_OUT.items():
        absent = [name for name in unwanted if name not in sys.modules]
        for name in absent:
            # What is None here cannot be imported (the import system, "The module cache").
            sys.modules[name] = None  # type: ignore[assignment]
        try:
            for module in wanted:
                importlib.import_module(module)
        finally:
            for name in absent:
                del sys.modules[name]
