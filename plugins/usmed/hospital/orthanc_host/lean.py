"""pydicom without what it would load for uses that a node has none of: 20 MB of every node's memory.

numpy is for pixels and requests for pydicom's own test data, and pydicom does without either where it is not
installed. To be called before anything else imports pydicom.
"""

import importlib
import sys

LEFT_OUT = ("numpy", "requests", "tqdm", "PIL")


def import_pydicom() -> None:
    """Import pydicom as if `LEFT_OUT` were not installed. Whoever wants one of them can import it afterwards."""
    absent = [name for name in LEFT_OUT if name not in sys.modules]
    for name in absent:
        # What is None here cannot be imported (the import system, "The module cache").
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        for module in ("pydicom", "pydicom.filewriter", "pydicom.datadict"):
            importlib.import_module(module)
    finally:
        for name in absent:
            del sys.modules[name]
