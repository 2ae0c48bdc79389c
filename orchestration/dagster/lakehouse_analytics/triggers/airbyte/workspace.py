"""An Airbyte server and the source tables that it fills, shared by the sensor, the checks, the job and maintenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import dagster as dg

from lakehouse_analytics.contract.models import Airbyte as AirbyteContract
from lakehouse_analytics.dbt.graph import Graph, Key, Source
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteError
from lakehouse_analytics.triggers.airbyte.connections import SourceTable, UnknownConnectionError
from lakehouse_analytics.triggers.airbyte.events import JobOrigin, job_events
from lakehouse_analytics.triggers.airbyte.job_outcome import JobOutcome
from lakehouse_analytics.triggers.airbyte.jobs import Job
from lakehouse_analytics.triggers.airbyte.resource import airbyte_of, ui_of
from lakehouse_analytics.triggers.airbyte.snapshot import ConnectionCache, ConnectionSnapshot
from lakehouse_analytics.triggers.base import SourceTables
from lakehouse_analytics.triggers.event_log import Event

#: The contract of a source that does not mention Airbyte.
DEFAULT_CONTRACT = AirbyteContract(connection="?")


@dataclass(frozen=True)
class AirbyteWorkspace:
    """An Airbyte server, its connections, and the dbt sources that they fill.

    Attributes:
        graph: The manifest's graph.
        airbyte: The client.
        connections: The connections, and which tables they fill.
        ui: Base URL of Airbyte's UI.
        max_runtime: Seconds after which Dagster terminates a run.
        overlap: How late a job may become visible.
        lookback: Maximum time between the end of a job and the first tick.
        interval: Minimum seconds between two ticks.
    """

    graph: Graph
    airbyte: Airbyte
    connections: ConnectionCache
    ui: str
    max_runtime: int
    overlap: timedelta = timedelta(minutes=5)
    lookback: timedelta = timedelta(0)
    interval: int = 30

    @cached_property
    def tables(self) -> SourceTables:
        """The source tables of the project, and the bronze models that read them."""
        return SourceTables(self.graph, self.max_runtime)

    def contract(self, key: Key) -> AirbyteContract:
        """Return the Airbyte part of a source table's contract."""
        return self.tables.by_key[key].contract.airbyte or DEFAULT_CONTRACT

    def events(self, job: Job, outcome: JobOutcome, keys: Sequence[Key], snapshot: ConnectionSnapshot) -> list[Event]:
        """Return the events of a job for source tables."""
        return [*job_events(job, outcome, map(dg.AssetKey, keys), self.origin(job, snapshot))]

    def origin(self, job: Job, snapshot: ConnectionSnapshot) -> JobOrigin:
        """Return the origin of a job."""
        return JobOrigin(snapshot.name(job.connection), self.airbyte.server.url, self.url(job, snapshot))

    def url(self, job: Job, snapshot: ConnectionSnapshot) -> str:
        """Return the URL of a job in Airbyte's UI, which is on the timeline of its connection."""
        connection = snapshot.connections.get(job.connection)
        workspace = connection.workspace if connection else ""
        return f"{self.ui}/workspaces/{workspace}/connections/{job.connection}/timeline?jobId={job.id}"

    def running(self, connection: str) -> str | None:
        """Return why maintenance must skip the tables of a connection now, given by id or name; None if it may run."""
        try:
            found = self.connections.snapshot().find(connection)
            job = next((job for job in self.airbyte.jobs_of(found.id) if not job.has_ended), None)
        except (AirbyteError, UnknownConnectionError) as error:
            return f"it is unknown whether Airbyte's connection {connection} is syncing: {error}"
        return f"Airbyte's {job.kind} {job.id} of {connection} is {job.status}" if job else None


def airbyte_workspace(settings: Settings, graph: Graph) -> AirbyteWorkspace | None:
    """Return the workspace of the settings; None if LAKEHOUSE_AIRBYTE_URL is not set. Does not send requests."""
    airbyte = airbyte_of(settings)
    if airbyte is None:
        return None
    include, exclude = settings.airbyte_include, settings.airbyte_exclude
    return AirbyteWorkspace(
        graph=graph,
        airbyte=airbyte,
        connections=ConnectionCache(airbyte, source_tables(graph), include, exclude),
        ui=ui_of(settings),
        max_runtime=settings.max_runtime,
        overlap=settings.airbyte_overlap,
        lookback=settings.airbyte_lookback,
        interval=settings.airbyte_interval,
    )


def source_tables(graph: Graph) -> list[SourceTable]:
    """Return the tables of the project's sources, with their contracts for Airbyte."""
    return [_source_table(source) for source in graph.sources.values()]


def _source_table(source: Source) -> SourceTable:
    contract = source.contract.airbyte
    return SourceTable(
        key=source.key,
        schema=source.node.schema,
        table=source.node.table_name,
        connection=contract.connection if contract else None,
        stream=contract.stream if contract else None,
    )
