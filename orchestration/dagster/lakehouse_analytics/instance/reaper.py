"""Runs and Kubernetes Jobs that no longer belong together.

Dagster's run monitoring checks the Jobs of runs that have started. It leaves three cases: a Job that goes on writing
although its run was marked as ended, because its pod could not be reached; a run whose Job is gone while the daemon is
down; and a pod that dies before its run has started, which Dagster notices only after `start_timeout_seconds`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

if TYPE_CHECKING:
    from dagster import DagsterInstance

logger = logging.getLogger(__name__)

#: As dagster-k8s labels the Jobs of its run launcher.
RUN_WORKERS = "app.kubernetes.io/component=run_worker"
RUN_ID = "dagster/run-id"
#: As its launcher tells where a run goes.
LAUNCHED_IN = "Kubernetes Namespace"
RUNNING = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


@dataclass(frozen=True)
class RunJob:
    """A Kubernetes Job that executes a run."""

    name: str
    run_id: str
    created: datetime
    finished: bool


class Jobs(Protocol):
    """The Jobs of a namespace."""

    @property
    def namespace(self) -> str:
        """Its name."""

    def list(self) -> Sequence[RunJob]:
        """Those of runs."""

    def delete(self, name: str) -> None:
        """Delete a Job and its pods. A Job that is gone already is no error."""

    def end(self, name: str) -> str:
        """How the pod of a finished Job ended, for a message."""


@dataclass(frozen=True)
class Reaped:
    """What was set right."""

    jobs: Sequence[str] = ()
    runs: Sequence[str] = ()


def reap(instance: DagsterInstance, jobs: Jobs, now: datetime, grace: timedelta) -> Reaped:
    """Delete Jobs whose run has ended, and fail runs whose Job is gone or ended before they started.

    Finished Jobs stay until Kubernetes removes them, because their pods show what happened. Jobs of runs that the
    instance does not know stay, too: they may belong to another Dagster. Runs launched in other namespaces are ignored.

    Args:
        instance: The instance of the runs.
        jobs: The Jobs of the namespace in which its runs are launched.
        now: The current time, with a time zone.
        grace: Time after the last change of a run or a Job in which a run without a Job, or a Job without a run, is
            still considered normal.
    """
    # Jobs first: a run that is launched in between has no Job in this list, but is younger than the grace period. What
    # a finished pod had to store was stored before it ended, so that its run's status is read afterwards.
    there = jobs.list()
    ended = [*_without_run(instance, jobs, there, now - grace)]
    failed = [*_dead_before_start(instance, jobs, there), *_without_job(instance, jobs.namespace, there, now - grace)]
    return Reaped(ended, failed)


def _dead_before_start(instance: DagsterInstance, jobs: Jobs, there: Sequence[RunJob]) -> Iterator[str]:
    finished = {job.run_id: job.name for job in there if job.finished}
    if not finished:
        return
    for run in instance.get_runs(RunsFilter(run_ids=[*finished], statuses=[DagsterRunStatus.STARTING])):
        end = jobs.end(finished[run.run_id])
        logger.warning("Run %s is marked as failed: its pod ended before the run started (%s).", run.run_id, end)
        instance.report_run_failed(run, f"Its pod ended before the run started: {end}.")
        yield run.run_id


def _without_run(instance: DagsterInstance, jobs: Jobs, there: Sequence[RunJob], before: datetime) -> Iterator[str]:
    going = [job for job in there if not job.finished and job.created < before]
    if not going:
        return
    wanted = RunsFilter(run_ids=[job.run_id for job in going])
    records = {one.dagster_run.run_id: one for one in instance.get_run_records(wanted)}
    for job in going:
        record = records.get(job.run_id)
        if not record or not record.dagster_run.is_finished or (record.end_time or 0) > before.timestamp():
            continue
        logger.warning("Job %s is deleted: its run is %s.", job.name, record.dagster_run.status.value)
        jobs.delete(job.name)
        yield job.name


def _without_job(instance: DagsterInstance, namespace: str, there: Sequence[RunJob], before: datetime) -> Iterator[str]:
    known = {job.run_id for job in there}
    for record in instance.get_run_records(RunsFilter(statuses=RUNNING, updated_before=before)):
        run_id = record.dagster_run.run_id
        # A run in a shell was not launched in any namespace.
        if run_id in known or _launched_in(instance, run_id) != namespace:
            continue
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            continue
        logger.warning("Run %s is %s and its Job is gone: it is marked as ended.", run_id, run.status.value)
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "Its Kubernetes Job is gone.")
        else:
            instance.report_run_failed(run, "Its Kubernetes Job is gone.")
        yield run_id


def _launched_in(instance: DagsterInstance, run_id: str) -> str | None:
    """The namespace that the launcher recorded when it made the run's Job."""
    for log in instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT):
        event = log.dagster_event
        for name, value in (event.engine_event_data.metadata if event else {}).items():
            if name == LAUNCHED_IN:
                return str(value.value)
    return None


class ClusterJobs:
    """The Jobs of a namespace of a cluster, read with the pod's service account or KUBECONFIG."""

    def __init__(self, namespace: str) -> None:
        """Connect.

        Raises:
            kubernetes.config.ConfigException: There is neither a service account nor a KUBECONFIG.
        """
        from kubernetes import client, config

        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()
        self.namespace, self._api, self._pods = namespace, client.BatchV1Api(), client.CoreV1Api()

    def list(self) -> Sequence[RunJob]:
        """See `Jobs`."""
        found = self._api.list_namespaced_job(self.namespace, label_selector=RUN_WORKERS)
        return [_job(item) for item in found.items if RUN_ID in (item.metadata.labels or {})]

    def delete(self, name: str) -> None:
        """See `Jobs`."""
        from kubernetes.client import ApiException

        try:
            # Its pods with it, which have their grace period.
            self._api.delete_namespaced_job(name, self.namespace, propagation_policy="Background")
        except ApiException as error:
            if error.status != 404:
                raise

    def end(self, name: str) -> str:
        """See `Jobs`. Pods that may not be listed, or are gone, are no reason to leave the run as it is."""
        from kubernetes.client import ApiException

        try:
            pods = self._pods.list_namespaced_pod(self.namespace, label_selector=f"job-name={name}").items
        except ApiException as error:
            return f"its pods cannot be listed: {error.reason}"
        return "; ".join(ends) if (ends := [*_ends(pods)]) else "no pod is left"


def _ends(pods: Sequence[Any]) -> Iterator[str]:
    for pod in pods:
        if pod.status.reason:  # such as Evicted
            yield f"{pod.status.reason}: {pod.status.message}"
        for one in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]:
            ended = one.state.terminated
            if ended and ended.exit_code:
                yield f"container {one.name}: {ended.reason}, exit code {ended.exit_code}"


def _job(item: Any) -> RunJob:
    labels: Mapping[str, str] = item.metadata.labels
    ended = {"Complete", "Failed"}
    finished = any(one.type in ended and one.status == "True" for one in item.status.conditions or [])
    return RunJob(item.metadata.name, labels[RUN_ID], item.metadata.creation_timestamp, finished)
