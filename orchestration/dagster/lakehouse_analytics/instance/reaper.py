"""Runs and their Kubernetes Jobs that have lost each other.

Run monitoring ends a run whose Job is gone, while the daemon is there. Nobody ends a Job whose run was marked as ended
while its pod could not be reached: it holds its place in the cluster, and goes on writing tables.
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
        """One and its pods; one that is gone already is well."""


@dataclass(frozen=True)
class Reaped:
    """What was set right."""

    jobs: Sequence[str] = ()
    runs: Sequence[str] = ()


def reap(instance: DagsterInstance, jobs: Jobs, now: datetime, grace: timedelta) -> Reaped:
    """Delete Jobs that go on although their run has ended, and fail runs that have lost their Job.

    Finished Jobs stay until their time to live is over: their pods tell what happened. So do Jobs of runs that the
    instance does not know: they may be another Dagster's. Runs launched in other namespaces are not judged.

    Args:
        instance: Of the runs.
        jobs: Of the namespace in which its runs are launched.
        now: Aware.
        grace: How long after a run's or a Job's last change both may still be finding each other.
    """
    # Jobs first: a run launched in between has none in the list, but is younger than the grace.
    there = jobs.list()
    ended = [*_without_run(instance, jobs, there, now - grace)]
    return Reaped(ended, [*_without_job(instance, jobs.namespace, there, now - grace)])


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
        logger.warning("Job %s goes on, and its run is %s: deleted.", job.name, record.dagster_run.status.value)
        jobs.delete(job.name)
        yield job.name


def _without_job(instance: DagsterInstance, namespace: str, there: Sequence[RunJob], before: datetime) -> Iterator[str]:
    known = {job.run_id for job in there}
    for record in instance.get_run_records(RunsFilter(statuses=RUNNING, updated_before=before)):
        run_id = record.dagster_run.run_id
        # A run in somebody's shell was launched nowhere.
        if run_id in known or _launched_in(instance, run_id) != namespace:
            continue
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            continue
        logger.warning("run %s is %s, and its Job is gone: failed.", run_id, run.status.value)
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "Its Kubernetes Job is gone.")
        else:
            instance.report_run_failed(run, "Its Kubernetes Job is gone.")
        yield run_id


def _launched_in(instance: DagsterInstance, run_id: str) -> str | None:
    """The namespace that the launcher has told of, when it made the run's Job."""
    for log in instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT):
        event = log.dagster_event
        for name, value in (event.engine_event_data.metadata if event else {}).items():
            if name == LAUNCHED_IN:
                return str(value.value)
    return None


class ClusterJobs:
    """Of the namespace in which this pod is, or of the one named, by its service account or KUBECONFIG."""

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
        self.namespace, self._api = namespace, client.BatchV1Api()

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


def _job(item: Any) -> RunJob:
    labels: Mapping[str, str] = item.metadata.labels
    ended = {"Complete", "Failed"}
    finished = any(one.type in ended and one.status == "True" for one in item.status.conditions or [])
    return RunJob(item.metadata.name, labels[RUN_ID], item.metadata.creation_timestamp, finished)
