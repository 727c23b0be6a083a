"""Registers callbacks with Orthanc, and keeps them.

When Orthanc stops, the Python plugin (7.1) lets go of its callbacks without holding Python's lock. One that nobody else
refers to would be freed by that, and Orthanc would end with a segmentation fault.
"""

from collections.abc import Callable
from typing import Any

_kept: list[Any] = []


def keep_and_register(function: Callable[..., None], *arguments: Any) -> None:
    """Call one of the SDK's `Register…` functions."""
    _kept.append(arguments)
    function(*arguments)
