"""Runs and Jobs that have lost each other, on a real instance; the Jobs of a real cluster: tests/cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.events import EngineEventData
from dagster._core.test_utils import create_run_for_test
from lakehouse_analytics.cli import main
from lakehouse_analytics.instance.reaper import RunJob, reap

GRACE = timedelta(minutes=15)
NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=1)
STATUS = dg.DagsterRunStatus


class Listed:
    """The Jobs of a namespace, as written down."""

    namespace = "dagster"

    def __init__(self, *jobs: RunJob) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.ends: dict[str, str] = {}

    def list(self) -> Sequence[RunJob]:
        return [*self.jobs.values()]

    def delete(self, name: str) -> None:
        del self.jobs[name]

    def end(self, name: str) -> str:
        return self.ends.get(name, "no pod is left")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def a_run(instance: dg.DagsterInstance, status: STATUS, *, launched_in: str | None = "dagster") -> dg.DagsterRun:
    started = STATUS.STARTING if status == STATUS.STARTING else STATUS.STARTED
    run: dg.DagsterRun = create_run_for_test(instance, job_name="j", status=started)
    if launched_in:
        data = EngineEventData(
            {"Kubernetes Job name": f"dagster-run-{run.run_id}", "Kubernetes Namespace": launched_in}
        )
        instance.report_engine_event("Creating Kubernetes run worker job", run, data)
    if status == STATUS.FAILURE:
        instance.report_run_failed(run)
    elif status == STATUS.CANCELING:
        instance.report_run_canceling(run)
    return run


def job(run_id: str, *, finished: bool = False, created: datetime = NOW) -> RunJob:
    return RunJob(f"dagster-run-{run_id}", run_id, created, finished)


OUT_OF_MEMORY = "container dagster: OOMKilled, exit code 137"


def test_a_run_whose_pod_died_before_it_started_fails_at_once(instance: dg.DagsterInstance) -> None:
    dead, waiting, started = (a_run(instance, status) for status in (STATUS.STARTING, STATUS.STARTING, STATUS.STARTED))
    jobs = Listed(job(dead.run_id, finished=True), job(waiting.run_id), job(started.run_id, finished=True))
    jobs.ends[f"dagster-run-{dead.run_id}"] = OUT_OF_MEMORY
    # Without any grace: the pod is gone, and everything that it had to say is stored.
    done = reap(instance, jobs, NOW, GRACE)
    assert [*done.runs] == [dead.run_id]
    run = instance.get_run_by_id(dead.run_id)
    assert run
    assert run.status == STATUS.FAILURE
    [failure] = instance.all_logs(dead.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "Its pod ended before the run started" in failure.message
    assert OUT_OF_MEMORY in failure.message
    assert {one.name for one in jobs.list()} == {f"dagster-run-{each.run_id}" for each in (dead, waiting, started)}
    assert [*reap(instance, jobs, NOW, GRACE).runs] == []


def test_a_run_that_starts_while_the_jobs_are_listed_is_left_alone(instance: dg.DagsterInstance) -> None:
    run = a_run(instance, STATUS.STARTING)

    class Slow(Listed):
        def list(self) -> Sequence[RunJob]:
            there = super().list()
            instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", "j"), run.run_id)
            return there

    assert [*reap(instance, Slow(job(run.run_id, finished=True)), NOW, GRACE).runs] == []


def test_a_job_whose_run_has_ended_is_deleted_and_a_strangers_is_not(instance: dg.DagsterInstance) -> None:
    ended, going = a_run(instance, STATUS.FAILURE), a_run(instance, STATUS.STARTED)
    jobs = Listed(job(ended.run_id), job(going.run_id), job("of-another-dagster"))
    done = reap(instance, jobs, LATER, GRACE)
    assert [*jobs.jobs] == [f"dagster-run-{going.run_id}", "dagster-run-of-another-dagster"]
    assert done.jobs == [f"dagster-run-{ended.run_id}"]
    assert done.runs == []


def test_a_finished_job_stays_for_its_time_to_live(instance: dg.DagsterInstance) -> None:
    ended = a_run(instance, STATUS.FAILURE)
    assert reap(instance, Listed(job(ended.run_id, finished=True)), LATER, GRACE).jobs == []


def test_within_the_grace_nothing_is_judged(instance: dg.DagsterInstance) -> None:
    ended, without = a_run(instance, STATUS.FAILURE), a_run(instance, STATUS.STARTED)
    done = reap(instance, Listed(job(ended.run_id), job("new")), NOW + timedelta(minutes=14), GRACE)
    assert (done.jobs, done.runs) == ([], [])
    old_job = job(ended.run_id, created=NOW - timedelta(days=1))
    assert reap(instance, Listed(old_job), NOW + timedelta(minutes=14), GRACE).jobs == []  # its pod may be at its end
    instance.report_run_failed(without)


@pytest.mark.parametrize(("status", "becomes"), [(STATUS.STARTED, STATUS.FAILURE), (STATUS.CANCELING, STATUS.CANCELED)])
def test_a_run_whose_job_is_gone_ends(instance: dg.DagsterInstance, status: STATUS, becomes: STATUS) -> None:
    lost = a_run(instance, status)
    assert [*reap(instance, Listed(), LATER, GRACE).runs] == [lost.run_id]
    found = instance.get_run_by_id(lost.run_id)
    assert found
    assert found.status == becomes
    assert reap(instance, Listed(), LATER, GRACE).runs == []


@pytest.mark.parametrize("elsewhere", [None, "another-namespace"])
def test_a_run_in_somebodys_shell_or_in_another_namespace_goes_on(
    instance: dg.DagsterInstance, elsewhere: str | None
) -> None:
    a_run(instance, STATUS.STARTED, launched_in=elsewhere)
    assert reap(instance, Listed(), LATER, GRACE).runs == []


def test_outside_a_pod_the_namespace_is_asked_for() -> None:
    done = CliRunner().invoke(main, ["instance", "reap"])
    assert done.exit_code == 2
    assert "--namespace" in done.output


def test_without_a_way_to_kubernetes_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere")
    done = CliRunner().invoke(main, ["instance", "reap", "--namespace", "dagster"])
    assert done.exit_code == 1
    assert "Kubernetes cannot be reached" in done.output


def test_too_short_a_retention_is_refused() -> None:
    done = CliRunner().invoke(main, ["instance", "prune", "--older-than", "7"])
    assert done.exit_code == 2
    assert "7 is not in the range x>=30" in done.output
