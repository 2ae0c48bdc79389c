"""Metrics of a Dagster instance for Prometheus.

They are read from Dagster's storage, because a dead part of Dagster cannot report itself. A scrape is four queries.
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

#: Each status always has a sample, so that a sum over some of them is 0 and not empty.
NOT_ENDED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
#: Seconds that a scrape waits for the previous one, so that scrapes do not pile up when storage hangs.
PATIENCE = 10.0

Runs = RunsTable.c


class InstanceMetrics(Collector):
    """The daemons, the queue and the ticks of an instance, as gauges.

    | metric | labels | |
    |---|---|---|
    | `dagster_storage_up` | | 1 if storage answered; otherwise 0, and no other metric |
    | `dagster_run_queue_enabled` | | 1 if the run coordinator is Dagster's queue; 0: run limits have no effect |
    | `dagster_daemon_last_heartbeat_timestamp_seconds` | `daemon` | Unix time, 0 if never; of daemons it needs |
    | `dagster_daemon_errors` | `daemon` | errors in its last heartbeat |
    | `dagster_runs` | `status` | runs that have not ended |
    | `dagster_queue_oldest_run_timestamp_seconds` | | Unix time at which the run that waits longest was launched |
    | `dagster_last_tick_failed` | `type`, `name`, `location` | of schedules and sensors that are on: 1 or 0 |

    Runs of backfills wait for each other, for days perhaps, so they do not count as the oldest run of the queue.
    """

    def __init__(self, instance: DagsterInstance) -> None:
        """Measure this instance, which must stay open."""
        self._instance = instance
        self._turn = threading.Lock()

    def describe(self) -> Sequence[GaugeMetricFamily]:
        """Return nothing, so that registering does not query storage."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read all metrics; if storage does not answer, only that it does not.

        Raises:
            TypeError: The instance does not keep its runs in a SQL database.
        """
        up = GaugeMetricFamily("dagster_storage_up", "Whether Dagster's storage answers.")
        found: list[GaugeMetricFamily] = []
        if not self._turn.acquire(timeout=PATIENCE):
            logger.error("Dagster's storage has not answered for %.0f s.", PATIENCE)
        else:
            try:
                found = [self._run_queue(), *self._daemons(), *self._runs(), self._ticks()]
            except (sa.exc.SQLAlchemyError, DagsterPostgresException) as error:
                # Dagster's own error only counts its attempts. The first line names server and user; SQL follows.
                reason = error.__cause__ if isinstance(error, DagsterPostgresException) else error
                first = (str(reason).splitlines() or [""])[0]
                logger.error("Dagster's storage does not answer: %s: %s", type(reason).__name__, first)  # noqa: TRY400
            finally:
                self._turn.release()
        up.add_metric([], 1 if found else 0)
        yield up
        yield from found

    def _run_queue(self) -> GaugeMetricFamily:
        enabled = GaugeMetricFamily("dagster_run_queue_enabled", "Whether the run coordinator is Dagster's queue.")
        coordinator = _run_coordinator(self._instance)
        if coordinator:
            # The official chart may name the queue as a custom class, or a class derived from it.
            enabled.add_metric([], 1 if isinstance(coordinator, QueuedRunCoordinator) else 0)
        return enabled

    def _daemons(self) -> Iterator[GaugeMetricFamily]:
        heard = GaugeMetricFamily(
            "dagster_daemon_last_heartbeat_timestamp_seconds", "Unix time; 0 if never.", labels=["daemon"]
        )
        errors = GaugeMetricFamily("dagster_daemon_errors", "Errors in a daemon's last heartbeat.", labels=["daemon"])
        beats = self._instance.get_daemon_heartbeats()
        for daemon in self._instance.get_required_daemon_types():
            beat = beats.get(daemon)
            heard.add_metric([daemon], beat.timestamp if beat else 0)
            errors.add_metric([daemon], len(beat.errors or ()) if beat else 0)
        yield heard
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
        # The last tick may still run. (With `statuses`, Dagster 1.13.27 makes a query that fails.)
        ticks = self._instance.get_batch_ticks([*on], limit=2) if on else {}
        for selector, state in on.items():
            ended = [tick.status for tick in ticks.get(selector, ()) if tick.status != TickStatus.STARTED]
            if ended:
                labels = [state.instigator_type.value.lower(), state.instigator_name, _location(state.origin)]
                failed.add_metric(labels, 1 if ended[0] == TickStatus.FAILURE else 0)
        return failed


def _run_coordinator(instance: DagsterInstance) -> RunCoordinator | None:
    """The run coordinator that dagster.yaml names now, or None if it cannot be read.

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
    repository = origin.repository_origin  # type: ignore[attr-defined]  # two classes, without one of both
    return str(repository.code_location_origin.location_name)


def serve(instance: DagsterInstance, host: str, port: int) -> None:
    """Answer `/metrics` on this address until the process ends.

    Raises:
        OSError: The address is not this machine's, or its port is not free.
    """
    registry = CollectorRegistry()
    registry.register(InstanceMetrics(instance))
    _, server = start_http_server(port, addr=host, registry=registry)
    server.join()
