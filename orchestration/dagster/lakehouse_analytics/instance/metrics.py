"""What an alert needs to know of a Dagster instance, for Prometheus.

Read from Dagster's storage, because no part of Dagster tells of itself when it is dead. A scrape is four queries.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import TYPE_CHECKING

import sqlalchemy as sa
from dagster import DagsterRunStatus
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster_postgres.utils import DagsterPostgresException
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from dagster import DagsterInstance

logger = logging.getLogger(__name__)

#: Each is always told, so that a sum over some of them is 0 and not nothing.
NOT_ENDED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
#: Seconds that a scrape waits for the one before: where storage hangs, they do not pile up.
PATIENCE = 10.0

Runs = RunsTable.c


class InstanceMetrics(Collector):
    """The daemons, the queue and the ticks of an instance, as gauges.

    | metric | labels | |
    |---|---|---|
    | `dagster_storage_up` | | 1 if storage answered; if not, 0 and nothing else |
    | `dagster_daemon_last_heartbeat_timestamp_seconds` | `daemon` | Unix time; 0: never. Of the daemons it needs |
    | `dagster_daemon_errors` | `daemon` | that it told with its last heartbeat |
    | `dagster_runs` | `status` | that have not ended |
    | `dagster_queue_oldest_run_timestamp_seconds` | | Unix time at which the run that waits longest was asked for |
    | `dagster_last_tick_failed` | `type`, `name`, `location` | of schedules and sensors that are on: 1 or 0 |

    Runs of backfills wait for each other, for days perhaps: the oldest in the queue is none of them.
    """

    def __init__(self, instance: DagsterInstance) -> None:
        """Of this instance; it stays open."""
        self._instance = instance
        self._turn = threading.Lock()

    def describe(self) -> Sequence[GaugeMetricFamily]:
        """Nothing: registering it asks no storage."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read everything, or nothing but that storage does not answer.

        Raises:
            TypeError: Its runs are in no SQL database.
        """
        up = GaugeMetricFamily("dagster_storage_up", "Whether Dagster's storage answers.")
        found: list[GaugeMetricFamily] = []
        if not self._turn.acquire(timeout=PATIENCE):
            logger.error("Dagster's storage has not answered for %.0f s.", PATIENCE)
        else:
            try:
                found = [*self._daemons(), *self._runs(), self._ticks()]
            except (sa.exc.SQLAlchemyError, DagsterPostgresException) as error:
                # Dagster's own error only counts its tries. The first line names server and user; SQL follows.
                reason = error.__cause__ if isinstance(error, DagsterPostgresException) else error
                first = (str(reason).splitlines() or [""])[0]
                logger.error("Dagster's storage does not answer: %s: %s", type(reason).__name__, first)  # noqa: TRY400
            finally:
                self._turn.release()
        up.add_metric([], 1 if found else 0)
        yield up
        yield from found

    def _daemons(self) -> Iterator[GaugeMetricFamily]:
        heard = GaugeMetricFamily(
            "dagster_daemon_last_heartbeat_timestamp_seconds", "Unix time; 0 if never.", labels=["daemon"]
        )
        errors = GaugeMetricFamily(
            "dagster_daemon_errors", "Errors that a daemon told with its last heartbeat.", labels=["daemon"]
        )
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
            raise TypeError(f"runs are in {type(storage).__name__}, which cannot be counted")
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
            "Unix time at which the run that waits longest was asked for, those of backfills apart.",
        )
        for status in NOT_ENDED:
            count, oldest = rows.get(status.value, (0, None))
            counts.add_metric([status.value], count)
            if oldest:
                # Dagster stores UTC without saying so.
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
        # The last may be going on. (Asked for `statuses`, Dagster 1.13.27 makes a query that fails.)
        ticks = self._instance.get_batch_ticks([*on], limit=2) if on else {}
        for selector, state in on.items():
            ended = [tick.status for tick in ticks.get(selector, ()) if tick.status != TickStatus.STARTED]
            if ended:
                labels = [state.instigator_type.value.lower(), state.instigator_name, _location(state.origin)]
                failed.add_metric(labels, 1 if ended[0] == TickStatus.FAILURE else 0)
        return failed


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
