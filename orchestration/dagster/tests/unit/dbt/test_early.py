"""When dbt's process is started before anything else."""

from __future__ import annotations

import multiprocessing

import early_child
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs, ResumeRunArgs
from dagster._serdes import serialize_value
from lakehouse_analytics.dbt.early import WITHOUT_DBT, runs_dbt


def _origin(job: str) -> JobPythonOrigin:
    pointer = ModuleCodePointer("lakehouse_analytics.definitions", "defs", None)
    return JobPythonOrigin(job, RepositoryPythonOrigin("python", pointer))


def _commands(job: str) -> list[list[str]]:
    """What Dagster starts for a run, a resumed run and a step, as this release of it says."""
    origin = _origin(job)
    return [
        [*ExecuteRunArgs(origin, "run", None).get_command_args()],
        [*ResumeRunArgs(origin, "run", None).get_command_args()],
        [*ExecuteStepArgs(origin, "run", ["build"], None).get_command_args()],
    ]


@pytest.mark.parametrize("command", _commands("silver_refresh"))
def test_the_process_of_a_run_or_a_step_starts_dbt(command: list[str]) -> None:
    assert runs_dbt(command)


@pytest.mark.parametrize("job", sorted(WITHOUT_DBT))
def test_the_process_of_a_job_without_dbt_does_not(job: str) -> None:
    assert not any(map(runs_dbt, _commands(job)))


@pytest.mark.parametrize(
    "command",
    [
        ["dagster", "api", "grpc", "--module-name", "lakehouse_analytics.definitions"],
        ["dagster", "dev"],
        ["pytest", "-k", "execute_run"],
        ["python", "-c", '{"__class__": "ExecuteRunArgs"}'],
        ["lakehouse", "demo", "{}", "[]", "{", "e30=", "eJxLTEoGAAJNASc="],
    ],
)
def test_no_other_process_does(command: list[str]) -> None:
    assert not runs_dbt(command)


@pytest.mark.parametrize(("job", "started"), [("silver_refresh", 1), ("airbyte_sync", 0)])
def test_a_run_that_the_code_server_starts_begins_with_dbt(job: str, started: int) -> None:
    # As `DagsterApiServer` starts it: `multiprocessing`, with the serialized arguments first.
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    arguments = serialize_value(ExecuteRunArgs(_origin(job), "run", None))
    child = context.Process(target=early_child.processes, args=(arguments, answer))
    child.start()
    assert answer.get(timeout=60) == started
    child.join(60)
    assert child.exitcode == 0
