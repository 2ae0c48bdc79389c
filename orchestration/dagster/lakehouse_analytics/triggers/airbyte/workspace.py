"""Which Airbyte is listened to, and what of the dbt project it fills: shared by sensor, checks, upkeep and doctor."""

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
from lakehouse_analytics.triggers.airbyte.events import Event, Origin, events_of
from lakehouse_analytics.triggers.airbyte.inventory import Inventory, Known
from lakehouse_analytics.triggers.airbyte.job_outcome import Verdict
from lakehouse_analytics.triggers.airbyte.jobs import Job
from lakehouse_analytics.triggers.airbyte.resource import airbyte_of, ui_of

#: Of a source that says nothing of Airbyte.
UNNAMED = AirbyteContract(connection="?")


@dataclass(frozen=True)
class Listening:
    """What the sensor is made of.

    Attributes:
        ui: Base of Airbyte's own UI.
        overlap: How late a job may become visible.
        lookback: How long before its first tick a job may have ended.
        interval: Seconds between two ticks, at least.
    """

    graph: Graph
    airbyte: Airbyte
    inventory: Inventory
    ui: str
    max_runtime: int
    overlap: timedelta = timedelta(minutes=5)
    lookback: timedelta = timedelta(0)
    interval: int = 30

    def contract(self, key: Key) -> AirbyteContract:
        """What the contract of a source's table says of Airbyte."""
        return self._sources[key].contract.airbyte or UNNAMED

    @cached_property
    def _sources(self) -> dict[Key, Source]:
        return {source.key: source for source in self.graph.sources.values()}

    def bronze_below(self, keys: Sequence[Key]) -> list[dg.AssetKey]:
        """The bronze tables that depend on some source tables; those with windows have their schedule."""
        ids = [self._sources[key].unique_id for key in keys]
        below = (self.graph.tables[unique_id] for unique_id in self.graph.descendants(ids))
        return sorted(dg.AssetKey(table.key) for table in below if table.layer == "bronze" and table.grain is None)

    def events(self, job: Job, verdict: Verdict, keys: Sequence[Key], known: Known) -> list[Event]:
        """The events that Dagster stores of a job for some tables."""
        return [*events_of(job, verdict, map(dg.AssetKey, keys), self.origin(job, known))]

    def origin(self, job: Job, known: Known) -> Origin:
        """Where a job comes from."""
        return Origin(known.name(job.connection), self.airbyte.server.url, self.url(job, known))

    def url(self, job: Job, known: Known) -> str:
        """A job's page in Airbyte's own UI: the timeline of its connection."""
        connection = known.connections.get(job.connection)
        workspace = connection.workspace if connection else ""
        return f"{self.ui}/workspaces/{workspace}/connections/{job.connection}/timeline?jobId={job.id}"

    def running(self, connection: str) -> str | None:
        """Why upkeep must leave a table of a connection, given by id or name, alone now; None where it need not."""
        try:
            known = self.inventory.known()
            meant = known.meant(connection)
            job = next((job for job in self.airbyte.jobs_of(meant.id) if not job.has_ended), None)
        except (AirbyteError, UnknownConnectionError) as error:
            return f"whether Airbyte's connection {connection} is syncing is not known: {error}"
        return f"Airbyte's {job.kind} {job.id} of {connection} is {job.status}" if job else None


def listening_of(settings: Settings, graph: Graph) -> Listening | None:
    """What the sensor and the checks are made of; None where no Airbyte is named. Nothing is asked yet."""
    airbyte = airbyte_of(settings)
    if airbyte is None:
        return None
    return Listening(
        graph=graph,
        airbyte=airbyte,
        inventory=Inventory(airbyte, source_tables(graph), settings.airbyte_include, settings.airbyte_exclude),
        ui=(settings.airbyte_ui_url or ui_of(settings)).rstrip("/"),
        max_runtime=settings.max_runtime,
        overlap=settings.airbyte_overlap,
        lookback=settings.airbyte_lookback,
        interval=settings.airbyte_interval,
    )


def source_tables(graph: Graph) -> list[SourceTable]:
    """The tables of the project's sources, and what their contracts say of Airbyte."""
    return [_source_table(source) for source in graph.sources.values()]


def _source_table(source: Source) -> SourceTable:
    said = source.contract.airbyte
    return SourceTable(
        key=source.key,
        schema=str(source.node["schema"]),
        table=str(source.node.get("identifier") or source.node["name"]),
        wanted=said.connection if said else None,
        stream=said.stream if said else None,
    )
