"""Lets Orthanc end without a crash, in spite of faults of the Python plugin (7.1). See docs/adr/0013.

When Orthanc stops, the Python plugin lets go of the callbacks without holding Python's lock: one that nobody else
refers to is freed by that, and Orthanc crashes. Changes that Orthanc signals after ORTHANC_STOPPED, as it does when a
study was just stored, are freed twice: when the plugin is finalized, and when its library is unloaded.
"""

import atexit
import os
from collections.abc import Callable
from typing import Any

_kept: list[Any] = []


def keep_and_register(function: Callable[..., None], *arguments: Any) -> None:
    """Call one of the SDK's `Register…` functions, and keep what it was given."""
    _kept.append(arguments)
    function(*arguments)


def end_with_the_interpreter() -> None:
    """Let the process end, with exit code 0, where Python's interpreter does.

    To be called when Orthanc has said that it stops. It finalizes its plugins last, when its servers have stopped, its
    jobs are saved and its database is closed; only memory is left to be freed.
    """
    atexit.register(os._exit, 0)
