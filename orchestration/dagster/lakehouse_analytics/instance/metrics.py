"""Metrics of a Dagster instance for Prometheus.

They are read from Dagster's storage, because a component of Dagster that has died cannot report itself. A scrape takes
four queries.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
import yaml
from dagster import DagsterError, DagsterRunStatus, QueuedRunCoordinator
from dagster_postgres.utils import DagsterPostgresException
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lakehouse_analytics._dagster_internals import (
    DAGSTER_CONFIG_YAML_FILENAME,
    CheckError,
    InstanceRef,
    RunsTable,
    SqlRunStorage,
    TickStatus,
)

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from lakehouse_analytics._dagster_internals import RunCoordinator

logger = logging.getLogger(__name__)

#: Every status always has a sample, so that a sum over some of them is 0 and not empty.
NOT_ENDED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
#: Seconds that a scrape waits for the previous one, so that scrapes do not pile up if the storage hangs.
MAX_WAIT = 10.0

Runs = RunsTable.c


class InstanceMetrics(Collector):
    """The daemons, the run queue and the ticks of an instance, as gauges.

    | metric | labels | |
    |---|---|---|
    | `dagster_storage_up` | | 1 if the storage answered; otherwise 0, and there is no other metric |
    | `dagster_run_queue_enabled` | | 1 if the run coordinator is Dagster's queue; if 0, run limits have no effect |
    | `dagster_daemon_last_heartbeat_timestamp_seconds` | `daemon` | Unix time, 0 if never; for each required daemon |
    | `dagster_daemon_errors` | `daemon` | number of errors in its last heartbeat |
    | `dagster_runs` | `status` | number of runs that have not ended |
    | `dagster_queue_oldest_run_timestamp_seconds` | | Unix time at which the run that waits longest was launched |
    | `dagster_last_tick_failed` | `type`, `name`, `location` | for running schedules and sensors: 1 or 0 |

    Runs of backfills may wait for each other for days, so they do not count as the oldest run of the queue.
    """

    def __init__(self, instance: DagsterInstance) -> None:
        """Create the collector for an instance, which must stay open."""
        self._instance = instance
        self._lock = threading.Lock()

    def describe(self) -> Sequence[GaugeMetricFamily]:
        """Return nothing, so that registering the collector does not query the storage."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read all metrics; if the storage does not answer, only `dagster_storage_up`.

        Raises:
            TypeError: The instance does not store its runs in a SQL database.
        """
        up = GaugeMetricFamily("dagster_storage_up", "Whether Dagster's storage answers.")
        found: list[GaugeMetricFamily] = []
        if not self._lock.acquire(timeout=MAX_WAIT):
            logger.error("Dagster's storage has not answered for %.0f s.", MAX_WAIT)
        else:
            try:
                found = [self._run_queue(), *self._daemons(), *self._runs(), self._ticks()]
            except (sa.exc.SQLAlchemyError, DagsterPostgresException) as error:
                # Dagster's own error only reports the number of attempts. The cause's first line names server and user;
                # SQL follows.
                reason = error.__cause__ if isinstance(error, DagsterPostgresException) else error
                first = (str(reason).splitlines() or [""])[0]
                logger.error("Dagster's storage does not answer: %s: %s", type(reason).__name__, first)  # noqa: TRY400
            finally:
                self._lock.release()
        up.add_metric([], 1 if found else 0)
        yield up
        yield from found

    def _run_queue(self) -> GaugeMetricFamily:
        enabled = GaugeMetricFamily("dagster_run_queue_enabled", "Whether the run coordinator is Dagster's queue.")
        coordinator = _run_coordinator(self._instance)
        if coordinator:
            # The official chart may configure the queue as a custom class, or a subclass of it.
            enabled.add_metric([], 1 if isinstance(coordinator, QueuedRunCoordinator) else 0)
        return enabled

    def _daemons(self) -> Iterator[GaugeMetricFamily]:
        heartbeats = GaugeMetricFamily(
            "dagster_daemon_last_heartbeat_timestamp_seconds", "Unix time; 0 if never.", labels=["daemon"]
        )
        errors = GaugeMetricFamily("dagster_daemon_errors", "Errors in a daemon's last heartbeat.", labels=["daemon"])
        beats = self._instance.get_daemon_heartbeats()
        for daemon in self._instance.get_required_daemon_types():
            beat = beats.get(daemon)
            heartbeats.add_metric([daemon], beat.timestamp if beat else 0)
            errors.add_metric([daemon], len(beat.errors or ()) if beat else 0)
        yield heartbeats
        yield errors

    def _runs(self) -> Iterator[GaugeMetricFamily]:
        storage = self._instance.run_storage
        if not isinstance(storage, SqlRunStorage):
            raise TypeError(f"Runs can only be counted in a SQL database, but they are in {type(storage).__name__}.")
        waiting = sa.and_(Runs.status == DagsterRunStatus.QUEUED.value, Runs.backfill_id.is_(None))
        query = (
            sa.select(Runs.status, sa.func.count(), sa.func.min(sa.case((waiting, Runs.create_timestamp))))
            .where(Runs.status.in_([status.value for status in NOT_ENDED]))
            .group_by(Runs.status)
        )
        with storage.connect() as connection:
            rows = {status: (count, oldest) for status, count, oldest in connection.execute(query)}
        counts = GaugeMetricFamily("dagster_runs", "Runs that have not ended.", labels=["status"])
        queue = GaugeMetricFamily(
            "dagster_queue_oldest_run_timestamp_seconds",
            "Unix time at which the run that waits longest was launched; backfills do not count.",
        )
        for status in NOT_ENDED:
            count, oldest = rows.get(status.value, (0, None))
            counts.add_metric([status.value], count)
            if oldest:
                # Dagster stores UTC without a time zone.
                queue.add_metric([], oldest.replace(tzinfo=UTC).timestamp())
        yield counts
        yield queue

    def _ticks(self) -> GaugeMetricFamily:
        failed = GaugeMetricFamily(
            "dagster_last_tick_failed",
            "Whether the last tick of a schedule or sensor that is on has failed.",
            labels=["type", "name", "location"],
        )
        on = {state.selector_id: state for state in self._instance.all_instigator_state() if state.is_running}
        # The last tick may still be running. (With `statuses`, Dagster 1.13.27 builds a query that fails.)
        ticks = self._instance.get_batch_ticks([*on], limit=2) if on else {}
        for selector, state in on.items():
            ended = [tick.status for tick in ticks.get(selector, ()) if tick.status != TickStatus.STARTED]
            if ended:
                labels = [state.instigator_type.value.lower(), state.instigator_name, _location(state.origin)]
                failed.add_metric(labels, 1 if ended[0] == TickStatus.FAILURE else 0)
        return failed


def _run_coordinator(instance: DagsterInstance) -> RunCoordinator | None:
    """Return the run coordinator that dagster.yaml configures now, or None if the file cannot be read.

    Kubernetes updates the mounted file after an upgrade of the Dagster chart, but does not restart this process.
    """
    home = instance.root_directory
    if not (Path(home) / DAGSTER_CONFIG_YAML_FILENAME).exists():
        return instance.run_coordinator
    try:
        return InstanceRef.from_dir(home).run_coordinator
    except (DagsterError, CheckError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        logger.error("dagster.yaml in %s cannot be read: %s: %s", home, type(error).__name__, first)  # noqa: TRY400
        return None


def _location(origin: object) -> str:
    repository = origin.repository_origin  # type: ignore[attr-defined]  # two classes without a common base
    return str(repository.code_location_origin.location_name)


def serve(instance: DagsterInstance, host: str, port: int) -> None:
    """Serve `/metrics` on an address until the process ends.

    Raises:
        OSError: The address does not belong to this machine, or the port is in use.
    """
    registry = CollectorRegistry()
    registry.register(InstanceMetrics(instance))
    _, server = start_http_server(port, addr=host, registry=registry)
    server.join()
