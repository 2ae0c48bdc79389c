"""The trigger of sources with `meta.lakehouse.arrives`."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from lakehouse_analytics.contract.arrivals import FileArrival, TableArrival
from lakehouse_analytics.dbt.graph import Graph, Source
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.arrivals.files import file_sensors
from lakehouse_analytics.triggers.arrivals.readers import arrival_sensor
from lakehouse_analytics.triggers.arrivals.syncs import sync_definitions
from lakehouse_analytics.triggers.base import LoadGuard


@dataclass(frozen=True)
class ArrivalTrigger:
    """The trigger of all sources that the lakehouse loads itself, or whose loads are reported to it."""

    settings: Settings
    graph: Graph
    sources: tuple[Source, ...]

    @property
    def guard(self) -> LoadGuard | None:
        """None: loads lock their table, so maintenance does not have to ask."""
        return None

    def definitions(self) -> dg.Definitions:
        """Return the sensors for files, the jobs and schedules of databases, and the sensor `arrivals_sensor`."""
        files = [source for source in self.sources if isinstance(source.contract.arrives, FileArrival)]
        tables = [source for source in self.sources if isinstance(source.contract.arrives, TableArrival)]
        sensors = [*file_sensors(self.settings, files), arrival_sensor(self.settings, self.graph, self.sources)]
        return dg.Definitions.merge(dg.Definitions(sensors=sensors), sync_definitions(self.settings, tables))


def arrival_trigger(settings: Settings, graph: Graph) -> ArrivalTrigger | None:
    """Return the trigger; None if no source has `meta.lakehouse.arrives`."""
    found = {source.key: source for source in graph.sources.values() if source.contract.arrives}
    return ArrivalTrigger(settings, graph, tuple(found.values())) if found else None
