"""Cleans up runs without a Kubernetes Job, and Jobs without a run.

Dagster's run monitoring checks the Jobs of runs that have started. It does not handle three cases: a Job that continues
to write although its run was marked as ended, because its pod could not be reached; a run whose Job disappears while
the daemon is down; and a pod that dies before its run has started, which Dagster notices only after
`start_timeout_seconds`.
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

#: Labels that the run launcher of dagster-k8s sets on its Jobs.
RUN_WORKERS = "app.kubernetes.io/component=run_worker"
RUN_ID = "dagster/run-id"
#: Metadata of the launcher's event with the namespace of a run.
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
    """Access to the Jobs of a namespace."""

    @property
    def namespace(self) -> str:
        """Name of the namespace."""

    def list(self) -> Sequence[RunJob]:
        """List the Jobs that execute runs."""

    def delete(self, name: str) -> None:
        """Delete a Job and its pods. A Job that does not exist is not an error."""

    def end(self, name: str) -> str:
        """Return how the pod of a finished Job ended, for a message."""


@dataclass(frozen=True)
class ReapResult:
    """The deleted Jobs, by name, and the failed runs, by id."""

    jobs: Sequence[str] = ()
    runs: Sequence[str] = ()


def reap(instance: DagsterInstance, jobs: Jobs, now: datetime, grace: timedelta) -> ReapResult:
    """Delete Jobs whose run has ended, and fail runs whose Job is gone or ended before they started.

    Finished Jobs are left for Kubernetes to remove, because their pods show what happened. Jobs of runs that are not in
    the instance are kept, too: they may belong to another Dagster. Runs launched in other namespaces are ignored.

    Args:
        instance: The instance of the runs.
        jobs: The Jobs of the namespace in which its runs are launched.
        now: The current time, with a time zone.
        grace: Time after the last change of a run or a Job during which a run without a Job, or a Job without a run, is
            considered normal.
    """
    # List the Jobs first. A run launched after that has no Job in this list, but is younger than the grace period. A
    # finished pod has stored its events before it ended, so the run's status is read afterwards.
    listed = jobs.list()
    ended = [*_without_run(instance, jobs, listed, now - grace)]
    failed = [*_dead_before_start(instance, jobs, listed), *_without_job(instance, jobs.namespace, listed, now - grace)]
    return ReapResult(ended, failed)


def _dead_before_start(instance: DagsterInstance, jobs: Jobs, listed: Sequence[RunJob]) -> Iterator[str]:
    finished = {job.run_id: job.name for job in listed if job.finished}
    if not finished:
        return
    for run in instance.get_runs(RunsFilter(run_ids=[*finished], statuses=[DagsterRunStatus.STARTING])):
        end = jobs.end(finished[run.run_id])
        logger.warning("Run %s is marked as failed: its pod ended before the run started (%s).", run.run_id, end)
        instance.report_run_failed(run, f"Its pod ended before the run started: {end}.")
        yield run.run_id


def _without_run(instance: DagsterInstance, jobs: Jobs, listed: Sequence[RunJob], before: datetime) -> Iterator[str]:
    running = [job for job in listed if not job.finished and job.created < before]
    if not running:
        return
    wanted = RunsFilter(run_ids=[job.run_id for job in running])
    records = {one.dagster_run.run_id: one for one in instance.get_run_records(wanted)}
    for job in running:
        record = records.get(job.run_id)
        if not record or not record.dagster_run.is_finished or (record.end_time or 0) > before.timestamp():
            continue
        logger.warning("Job %s is deleted: its run is %s.", job.name, record.dagster_run.status.value)
        jobs.delete(job.name)
        yield job.name


def _without_job(
    instance: DagsterInstance, namespace: str, listed: Sequence[RunJob], before: datetime
) -> Iterator[str]:
    known = {job.run_id for job in listed}
    for record in instance.get_run_records(RunsFilter(statuses=RUNNING, updated_before=before)):
        run_id = record.dagster_run.run_id
        # Runs that were executed in a shell have no namespace.
        if run_id in known or _launched_in(instance, run_id) != namespace:
            continue
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            continue
        logger.warning("Run %s is %s, but its Job is gone. It is marked as ended.", run_id, run.status.value)
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "Its Kubernetes Job is gone.")
        else:
            instance.report_run_failed(run, "Its Kubernetes Job is gone.")
        yield run_id


def _launched_in(instance: DagsterInstance, run_id: str) -> str | None:
    """Return the namespace that the launcher recorded when it created the run's Job."""
    for log in instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT):
        event = log.dagster_event
        for name, value in (event.engine_event_data.metadata if event else {}).items():
            if name == LAUNCHED_IN:
                return str(value.value)
    return None


class ClusterJobs:
    """The Jobs of a namespace in a cluster, accessed with the pod's service account or KUBECONFIG."""

    def __init__(self, namespace: str) -> None:
        """Connect to the cluster.

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
            # Deletes its pods, too, which get their grace period.
            self._api.delete_namespaced_job(name, self.namespace, propagation_policy="Background")
        except ApiException as error:
            if error.status != 404:
                raise

    def end(self, name: str) -> str:
        """See `Jobs`. If the pods are gone or cannot be listed, the message says so."""
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
