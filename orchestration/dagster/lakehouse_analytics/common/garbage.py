"""Python's garbage collector while the code location is imported and loads.

A project of 5,000 models becomes two million objects that live as long as the process. By default Python looks for
garbage after every 700 of them, and through all of them again whenever they have grown by a quarter. That was half of
the time of a load, and it finds none.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

Loaded = TypeVar("Loaded")

#: New objects between two collections: importing and loading make as many that stay, and so does Dagster when it
#: describes what was loaded.
YOUNG = 20_000
#: Objects of earlier loads that a process may keep although nothing refers to them any more.
KEPT = 1_000_000
#: Modules that print, when the interpreter ends, which of their types are still alive. Those built with nanobind do.
REPORT_LEAKS = ("_duckdb",)


def collect_rarely() -> None:
    """Let `YOUNG` objects be made between two collections, or more where more are allowed already."""
    young, *older = gc.get_threshold()
    if young:  # otherwise the collector is off
        gc.set_threshold(max(young, YOUNG), *older)


def without_collecting(load: Callable[[], Loaded]) -> Callable[[], Loaded]:
    """Collect no garbage during a load, and never look through what it made.

    Args:
        load: Loads the code location.

    Returns:
        `load`. A process that loads again and again gives back what earlier loads made when it is `KEPT` objects.
    """

    @wraps(load)
    def loading() -> Loaded:
        if gc.get_freeze_count() > KEPT:
            gc.unfreeze()
            gc.collect()
        enabled = gc.isenabled()
        gc.disable()
        try:
            loaded = load()
            gc.freeze()
            atexit.unregister(_end)
            atexit.register(_end)
        finally:
            if enabled:
                gc.enable()
        return loaded

    return loading


def _end() -> None:
    """Let the interpreter free what loads made, if a module would report it as leaked.

    Otherwise the end of the process frees it, which takes less time.
    """
    if any(name in sys.modules for name in REPORT_LEAKS):
        gc.unfreeze()
