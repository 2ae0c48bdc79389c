"""Starts dbt's process as soon as the process of a run imports this package.

Importing dbt takes as long as importing Dagster and loading the code location. In a run, both happen at the same time.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import sys
import zlib
from collections.abc import Iterable
from typing import Any

#: Jobs that do not use dbt.
WITHOUT_DBT = frozenset({"airbyte_sync", "iceberg_maintenance"})
#: Types of the arguments that Dagster passes to the process of a run or a step, serialized by `dagster._serdes`.
_ARGUMENTS = frozenset({"ExecuteRunArgs", "ResumeRunArgs", "ExecuteStepArgs"})


def start() -> bool:
    """Start dbt's process if this process executes a run, or a step, that uses dbt.

    Returns:
        Whether it was started.
    """
    # In a pod, this is `dagster api execute_run <arguments>`. A child of the code server gets the same arguments.
    child = getattr(multiprocessing.current_process(), "_args", ()) if multiprocessing.parent_process() else ()
    if not runs_dbt([*sys.orig_argv, *(word for word in child if isinstance(word, str))]):
        return False
    from lakehouse_analytics.dbt.session import start_early

    start_early()
    return True


def runs_dbt(words: Iterable[str]) -> bool:
    """Return whether a process with these command-line arguments executes a job that uses dbt."""
    jobs = [job for word in words if (job := _job(word))]
    return bool(jobs) and WITHOUT_DBT.isdisjoint(jobs)


def _job(word: str) -> str | None:
    arguments = _read(word)
    if not isinstance(arguments, dict) or arguments.get("__class__") not in _ARGUMENTS:
        return None
    origin = arguments.get("pipeline_origin")
    return str(origin.get("pipeline_name")) if isinstance(origin, dict) else None


def _read(word: str) -> Any:
    """Decode Dagster's arguments, which are JSON and may be compressed."""
    if len(word) < len(min(_ARGUMENTS, key=len)):
        return None
    try:
        return json.loads(word if word.startswith("{") else zlib.decompress(base64.b64decode(word, validate=True)))
    except (ValueError, zlib.error):
        return None
