"""Tunes Python's garbage collector for importing and loading the code location.

A project of 5,000 models creates two million objects that live as long as the process. By default, Python collects
garbage after every 700 new objects, and searches all of them again whenever their number has grown by a quarter. That
took half of the time of a load, without finding anything.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

Loaded = TypeVar("Loaded")

#: New objects between two collections. Importing and loading create about as many that stay, and so does Dagster when
#: it describes what was loaded.
YOUNG = 20_000
#: Maximum number of objects of earlier loads that a process may keep although they are not used any more.
MAX_FROZEN = 1_000_000
#: Modules that print, when the interpreter ends, which of their types are still alive. Those built with nanobind do.
REPORT_LEAKS = ("_duckdb",)


def collect_garbage_rarely() -> None:
    """Raise the number of new objects between two collections to `YOUNG`, unless it is higher already."""
    young, *older = gc.get_threshold()
    if young:  # otherwise the collector is off
        gc.set_threshold(max(young, YOUNG), *older)


def without_garbage_collection(load: Callable[[], Loaded]) -> Callable[[], Loaded]:
    """Disable the garbage collector during a load, and exclude the loaded objects from later collections.

    Args:
        load: Loads the code location.

    Returns:
        The wrapped `load`. If it is called repeatedly, the objects of earlier loads are freed once there are
        `MAX_FROZEN`.
    """

    @wraps(load)
    def loading() -> Loaded:
        if gc.get_freeze_count() > MAX_FROZEN:
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
