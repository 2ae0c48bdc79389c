"""The command `lakehouse instance`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

#: File with the namespace of a pod.
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
#: Minimum age of runs to delete. A late retry or a run of a backfill may need the events of younger ones.
MIN_DAYS = 30


@click.group()
def instance() -> None:
    """Maintain Dagster's own instance. Used by the CronJobs of charts/lakehouse-support."""


@instance.command()
@click.option("--older-than", "days", type=click.IntRange(min=MIN_DAYS), default=90, show_default=True,
              help="Days since a run's end.")  # fmt: skip
def prune(days: int) -> None:
    """Delete old runs and events that do not affect the current state.

    The newest events of each asset, partition and check are kept, however old they are, and so are their runs.
    """
    from dagster import DagsterInstance

    from lakehouse_analytics.instance.retention import RetentionError
    from lakehouse_analytics.instance.retention import prune as delete_old

    try:
        with DagsterInstance.get() as ours:
            result = delete_old(ours, datetime.now(UTC) - timedelta(days=days))
    except RetentionError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"deleted: {result.runs} runs, {result.events} events, {result.check_executions} check results")


@instance.command()
@click.option("--namespace", help="Namespace in which runs are launched; by default, that of this pod.")
@click.option("--grace", type=click.IntRange(min=1), default=15, show_default=True,
              help="Minutes for which a run without a Job, or a Job without a run, is considered normal.")  # fmt: skip
def reap(namespace: str | None, grace: int) -> None:
    """Delete Kubernetes Jobs whose run has ended, and fail runs whose pod is gone or died before they started."""
    from dagster import DagsterInstance
    from kubernetes.config import ConfigException

    from lakehouse_analytics.instance.reaper import ClusterJobs
    from lakehouse_analytics.instance.reaper import reap as reap_runs

    where = namespace or (NAMESPACE.read_text().strip() if NAMESPACE.exists() else None)
    if where is None:
        raise click.UsageError("Outside a pod, --namespace must name the namespace in which runs are launched.")
    try:
        jobs = ClusterJobs(where)
    except ConfigException as error:
        raise click.ClickException(f"Kubernetes cannot be reached: {error}") from None
    with DagsterInstance.get() as ours:
        done = reap_runs(ours, jobs, datetime.now(UTC), timedelta(minutes=grace))
    click.echo(f"deleted: {len(done.jobs)} Jobs whose run has ended; failed: {len(done.runs)} runs without a pod")


@instance.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on. In a pod, use 0.0.0.0.")
@click.option("--port", type=click.IntRange(1, 65535), default=9464, show_default=True)
def metrics(host: str, port: int) -> None:
    """Serve metrics of the daemons, the run queue and the ticks for Prometheus."""
    from dagster import DagsterInstance

    from lakehouse_analytics.instance.metrics import serve

    with DagsterInstance.get() as ours:
        try:
            serve(ours, host, port)
        except OSError as error:
            raise click.ClickException(f"{host}:{port}: {error.strerror}. Set --host or --port.") from None
