"""Warnings of the dbt project, once in each process that loads the code location, and not in the processes of runs."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Iterable

_LOGGER = logging.getLogger("lakehouse_analytics.definitions")
#: Dagster's commands that execute a run of a location that a code server has loaded already.
_OF_RUNS = frozenset({"execute_run", "execute_step", "resume_run"})
_told: set[str] = set()


def warn_once(warnings: Iterable[str]) -> None:
    """Log each warning, unless this process has logged it, or executes a run."""
    # A code server starts the runs of `dagster dev` by multiprocessing, which leaves its own arguments in place.
    if _OF_RUNS.intersection(sys.argv[1:4]) or multiprocessing.parent_process():
        return
    for warning in warnings:
        if warning not in _told:
            _told.add(warning)
            _LOGGER.warning(warning)
