"""Starts dbt's process as early as possible in a process that is there for one run.

Importing dbt takes as long as importing Dagster and loading the location. In a run's pod both happen at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

#: Jobs that run no dbt.
WITHOUT_DBT = frozenset({"airbyte_sync", "iceberg_maintenance"})
_COMMANDS = ("execute_run", "execute_step")


def start(argv: Sequence[str] | None = None) -> bool:
    """Start dbt's process if this process is Dagster's worker of one run, which builds something.

    Args:
        argv: The command line: of a pod, `dagster api execute_run <JSON>`.

    Returns:
        Whether it was started.
    """
    if not runs_dbt([*(sys.orig_argv if argv is None else argv)]):
        return False
    from lakehouse_analytics.dbt.session import start_early

    start_early()
    return True


def runs_dbt(argv: Sequence[str]) -> bool:
    """Whether a command line is that of a run, or of one step, that builds something."""
    place = next((number for number, word in enumerate(argv) if word in _COMMANDS), None)
    if place is None or "api" not in argv[:place]:
        return False
    return not any(_job(word) in WITHOUT_DBT for word in argv[place + 1 :])


def _job(said: str) -> str | None:
    """The job that Dagster's arguments name."""
    try:
        job = json.loads(said)["job_origin"]["job_name"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(job)
