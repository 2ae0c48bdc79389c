"""Logs warnings about the dbt project once per process that loads the code location, but not in run processes."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Iterable

_LOGGER = logging.getLogger("lakehouse_analytics.definitions")
#: Commands of Dagster that execute a run. The code server that loaded the location has logged the warnings already.
_OF_RUNS = frozenset({"execute_run", "execute_step", "resume_run"})
_logged_warnings: set[str] = set()


def warn_once(warnings: Iterable[str]) -> None:
    """Log each warning, unless this process has logged it already, or executes a run."""
    # The code server of `dagster dev` starts runs by multiprocessing, so `sys.argv` is that of the code server.
    if _OF_RUNS.intersection(sys.argv[1:4]) or multiprocessing.parent_process():
        return
    for warning in warnings:
        if warning not in _logged_warnings:
            _logged_warnings.add(warning)
            _LOGGER.warning(warning)
