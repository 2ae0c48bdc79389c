"""A run that the daemon marked as failed while its pod was starting: it must not build beside its retry."""

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.execution.api import execute_run
from lakehouse_analytics.runs.failed_launch import refuse_failed_launch

BUILT: list[str] = []


@dg.op
def build(context: dg.OpExecutionContext) -> None:
    refuse_failed_launch(context.instance, context.run_id)
    BUILT.append(context.run_id)


@dg.job(executor_def=dg.in_process_executor)
def nightly() -> None:
    build()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    BUILT.clear()
    with dg.instance_for_test() as made:
        yield made


def start(instance: dg.DagsterInstance, *, launch_fails: bool) -> dg.DagsterRun:
    """A run as its worker finds it, if the daemon's report of the failed launch arrives while the worker starts."""
    run = instance.create_run_for_job(nightly)
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_STARTING", "nightly"), run.run_id)
    worker = instance.get_run_by_id(run.run_id)
    assert worker
    if launch_fails:
        instance.report_run_failed(run, "Caught an unrecoverable error while dequeuing the run.")
    execute_run(dg.reconstructable(nightly_job), worker, instance, raise_on_error=False)
    found = instance.get_run_by_id(run.run_id)
    assert found
    return found


def nightly_job() -> dg.JobDefinition:
    return nightly


def test_a_run_that_was_marked_as_failed_builds_nothing(instance: dg.DagsterInstance) -> None:
    run = start(instance, launch_fails=True)
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert BUILT == []
    [failure] = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert failure.dagster_event
    assert "marked as failed while it was being launched" in str(failure.dagster_event.event_specific_data)


def test_a_run_that_was_launched_builds(instance: dg.DagsterInstance) -> None:
    run = start(instance, launch_fails=False)
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert [run.run_id] == BUILT
