"""`lakehouse instance`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

#: Where Kubernetes tells a pod its namespace.
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
#: Below it, a late retry or a backfill's run would look for events that are gone.
FEWEST_DAYS = 30


@click.group()
def instance() -> None:
    """Maintenance of Dagster itself, for a CronJob (charts/lakehouse-support)."""


@instance.command()
@click.option("--older-than", "days", type=click.IntRange(min=FEWEST_DAYS), default=90, show_default=True,
              help="Days since a run's end.")  # fmt: skip
def prune(days: int) -> None:
    """Delete runs and events that say nothing of the present.

    The newest events of each asset, partition and check stay, however old, and so do their runs.
    """
    from dagster import DagsterInstance

    from lakehouse_analytics.instance.retention import RetentionError
    from lakehouse_analytics.instance.retention import prune as deleted

    try:
        with DagsterInstance.get() as ours:
            went = deleted(ours, datetime.now(UTC) - timedelta(days=days))
    except RetentionError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"deleted: {went.runs} runs, {went.events} events, {went.check_executions} check results")


@instance.command()
@click.option("--namespace", help="Where runs are launched; in a pod, its own.")
@click.option("--grace", type=click.IntRange(min=1), default=15, show_default=True,
              help="Minutes in which a run may be without its Job, or a Job go on after its run.")  # fmt: skip
def reap(namespace: str | None, grace: int) -> None:
    """Delete Kubernetes Jobs whose run has ended; fail runs whose pod is gone, or died before they started."""
    from dagster import DagsterInstance
    from kubernetes.config import ConfigException

    from lakehouse_analytics.instance.reaper import ClusterJobs
    from lakehouse_analytics.instance.reaper import reap as set_right

    where = namespace or (NAMESPACE.read_text().strip() if NAMESPACE.exists() else None)
    if where is None:
        raise click.UsageError("Outside a pod, --namespace must name the namespace in which runs are launched.")
    try:
        jobs = ClusterJobs(where)
    except ConfigException as error:
        raise click.ClickException(f"Kubernetes cannot be reached: {error}") from None
    with DagsterInstance.get() as ours:
        done = set_right(ours, jobs, datetime.now(UTC), timedelta(minutes=grace))
    click.echo(f"deleted: {len(done.jobs)} Jobs whose run has ended; failed: {len(done.runs)} runs without a pod")


@instance.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address; in a pod 0.0.0.0, every one.")
@click.option("--port", type=click.IntRange(1, 65535), default=9464, show_default=True)
def metrics(host: str, port: int) -> None:
    """Answer Prometheus: the daemons, the queue, the ticks."""
    from dagster import DagsterInstance

    from lakehouse_analytics.instance.metrics import serve

    with DagsterInstance.get() as ours:
        try:
            serve(ours, host, port)
        except OSError as error:
            raise click.ClickException(f"{host}:{port}: {error.strerror}; --host and --port name others.") from None
