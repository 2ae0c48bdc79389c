"""Starts dbt's process as soon as a run's process imports this package.

Importing dbt takes as long as importing Dagster and loading the code location. In a run both happen at once.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import sys
import zlib
from collections.abc import Iterable
from typing import Any

#: Jobs that run no dbt.
WITHOUT_DBT = frozenset({"airbyte_sync", "iceberg_maintenance"})
#: What Dagster gives the process of a run, or of one step, as serialized by `dagster._serdes`.
_ARGUMENTS = frozenset({"ExecuteRunArgs", "ResumeRunArgs", "ExecuteStepArgs"})


def start() -> bool:
    """Start dbt's process if this process is there for a run, or one step, that builds something.

    Returns:
        Whether it was started.
    """
    # In a pod `dagster api execute_run <arguments>`; of the code server a child that gets the same arguments.
    child = getattr(multiprocessing.current_process(), "_args", ()) if multiprocessing.parent_process() else ()
    if not runs_dbt([*sys.orig_argv, *(word for word in child if isinstance(word, str))]):
        return False
    from lakehouse_analytics.dbt.session import start_early

    start_early()
    return True


def runs_dbt(words: Iterable[str]) -> bool:
    """Whether a process that was started with these words executes a job that runs dbt."""
    jobs = [job for word in words if (job := _job(word))]
    return bool(jobs) and WITHOUT_DBT.isdisjoint(jobs)


def _job(word: str) -> str | None:
    said = _read(word)
    if not isinstance(said, dict) or said.get("__class__") not in _ARGUMENTS:
        return None
    origin = said.get("pipeline_origin")
    return str(origin.get("pipeline_name")) if isinstance(origin, dict) else None


def _read(word: str) -> Any:
    """Dagster's arguments: JSON, as it is or compressed."""
    if len(word) < len(min(_ARGUMENTS, key=len)):
        return None
    try:
        return json.loads(word if word.startswith("{") else zlib.decompress(base64.b64decode(word, validate=True)))
    except (ValueError, zlib.error):
        return None
