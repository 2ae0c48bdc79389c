"""The sensor that builds the models that read a source after it was loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import dagster as dg

from lakehouse_analytics._dagster_internals import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from lakehouse_analytics.dbt.graph import Graph, Source, Table
from lakehouse_analytics.keys import asset_key, build_tags
from lakehouse_analytics.partitions.arrivals import day_ranges, days_and_values, source_partitions
from lakehouse_analytics.partitions.by_column import column_partitions, is_split_by, known_values, value_ranges
from lakehouse_analytics.partitions.definitions import grain_partitions
from lakehouse_analytics.partitions.time_and_column import rectangle_keys, rectangles
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.arrivals.gates import closed_gate

#: Materializations of a source that one tick reads. The next tick continues.
MAX_EVENTS = 1000
#: The trigger's name, the value of the runs' tag `source`.
NAME = "arrivals"
_NOTHING = "No source was loaded that a bronze model reads."


@dataclass
class Loaded:
    """What was loaded of one source since the last tick.

    Attributes:
        newest: Storage id of the newest event.
        event: The newest event.
        days: The dates of its partitions.
        pairs: The dates with the values of `split_by` of its partitions.
    """

    newest: int
    event: dg.EventLogRecord | None = None
    days: set[date] = field(default_factory=set)
    pairs: set[tuple[str, str]] = field(default_factory=set)

    @property
    def values(self) -> set[str]:
        """The values of `split_by` of its partitions."""
        return {value for _, value in self.pairs}


def arrival_sensor(settings: Settings, graph: Graph, sources: Sequence[Source]) -> dg.SensorDefinition:
    """Return the sensor `arrivals_sensor`: after a load of a source, it builds the bronze models that read it.

    A load is a materialization of the source, whatever reported it: a sensor for files, a schedule, a person in the UI,
    or `lakehouse webhook`. Daily models are built for the dates of the loaded files, models that are partitioned by the
    column of `split_by` for the loaded values, and those by both for the loaded dates with their values. Models of
    other grains, and daily models of sources without dates, are built by their schedules.

    Args:
        settings: The settings.
        graph: The manifest's graph.
        sources: The sources.
    """
    readers = Readers(graph, settings)
    tables = [table.key for source in sources for table in readers.of(source)]

    @dg.sensor(
        name="arrivals_sensor",
        target=dg.AssetSelection.assets(*tables) if tables else None,
        minimum_interval_seconds=settings.files_interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Builds the bronze models that read a source after each load of it.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        before = json.loads(context.cursor or "{}")
        found = loads_since(context.instance, sources, before)
        # Until a gate opens, the cursor stays, so that no date of these loads is forgotten.
        closed = {source: why for source, one in found.items() if (why := _closed(context.instance, source, one))}
        loaded = {source: one for source, one in found.items() if source not in closed}
        requests = readers.requests(loaded, context.instance)
        after = {**before, **{"/".join(source.key): found.newest for source, found in loaded.items()}}
        return dg.SensorResult(
            run_requests=requests,
            cursor=json.dumps(after),
            skip_reason=None if requests else "; ".join(closed.values()) or _NOTHING,
        )

    return sensor


def loads_since(
    instance: dg.DagsterInstance, sources: Sequence[Source], cursor: Mapping[str, int]
) -> dict[Source, Loaded]:
    """Return what was loaded of each source since a cursor.

    Args:
        instance: The Dagster instance.
        sources: The sources.
        cursor: The storage id of the last materialization that was read, by the key of the source.
    """
    by_key = {asset_key(source): source for source in sources}
    found: dict[Source, Loaded] = {}
    for record in instance.get_asset_records([*by_key]):
        source = by_key[record.asset_entry.asset_key]
        since = cursor.get("/".join(source.key), 0)
        if (record.asset_entry.last_materialization_storage_id or 0) <= since:
            continue
        events = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=record.asset_entry.asset_key, after_storage_id=since),
            limit=MAX_EVENTS,
            ascending=True,
        ).records
        loaded = Loaded(max([since, *(event.storage_id for event in events)]), events[-1] if events else None)
        for event in events:
            if event.partition_key is not None:
                for day, values in days_and_values(source, [event.partition_key]).items():
                    loaded.days.add(day)
                    loaded.pairs.update((day.isoformat(), value) for value in values)
        if events:
            found[source] = loaded
    return found


def _closed(instance: dg.DagsterInstance, source: Source, loaded: Loaded) -> str | None:
    return closed_gate(instance, source, loaded.event) if loaded.event else None


class Readers:
    """The bronze models that read sources.

    Args:
        graph: The manifest's graph.
        settings: The settings.
    """

    def __init__(self, graph: Graph, settings: Settings) -> None:
        self._graph = graph
        self._tags = {**build_tags(settings.max_runtime), "source": NAME}
        self._most = settings.max_partitions_per_run
        windows = grain_partitions(graph, settings.timezone, end_offset=settings.partition_end_offset)
        self._days = windows.get("daily")
        self._columns = column_partitions(graph)
        self._timezone = settings.timezone

    def of(self, source: Source) -> list[Table]:
        """Return the models that the loads of a source build.

        These are the models without partitions, the daily ones, and those by the column that the source is split by.
        Sources with the same asset key are one table, so they have the same models.
        """
        same = [one.unique_id for one in self._graph.sources.values() if one.key == source.key]
        below = (self._graph.tables[name] for name in self._graph.descendants(same))
        grains = (None, "daily") if source_partitions(source, self._timezone) else (None,)
        found = [
            table
            for table in below
            if table.layer == "bronze" and table.grain in grains and (not table.by or is_split_by(source, table.by))
        ]
        return sorted(found, key=lambda table: table.key)

    def requests(self, loaded: Mapping[Source, Loaded], instance: dg.DagsterInstance) -> list[dg.RunRequest]:
        """Return the runs that build what reads the loaded sources.

        Args:
            loaded: What was loaded of each source.
            instance: The instance, which knows the values of dynamic partitions.
        """
        whole = sorted({table.key for source in loaded for table in self.of(source) if table.is_whole})
        requests = []
        if whole:
            newest = max(found.newest for found in loaded.values())
            requests.append(self._request(whole, f"{NAME} {newest}", {}))
        for source, found in loaded.items():
            requests += self._of_values(source, found, instance)
            requests += self._of_days_and_values(source, found, instance)
            daily = [table.key for table in self.of(source) if table.grain == "daily" and not table.by]
            if not daily:
                continue
            for first, last in self._ranges(found.days):
                run_key = f"{NAME} {'/'.join(source.key)} {found.newest} {first}"
                tags = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
                requests.append(self._request(daily, run_key, tags))
        return requests

    def _of_values(self, source: Source, found: Loaded, instance: dg.DagsterInstance) -> Iterator[dg.RunRequest]:
        """Yield the runs of the loaded values, of models that are partitioned by the column of `split_by`."""
        tables = [table for table in self.of(source) if table.by and not table.grain]
        column = next((table.by for table in tables), None)
        if column is None:
            return
        known = known_values(self._columns[column], instance)
        for first, last in value_ranges(known, found.values, self._most):
            run_key = f"{NAME} {'/'.join(source.key)} {found.newest} {column} {first}"
            tags = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
            yield self._request([table.key for table in tables], run_key, tags)

    def _of_days_and_values(
        self, source: Source, found: Loaded, instance: dg.DagsterInstance
    ) -> Iterator[dg.RunRequest]:
        """Yield the runs of the loaded dates with their values, of models that are partitioned by both."""
        tables = [table for table in self.of(source) if table.by and table.grain]
        column = next((table.by for table in tables), None)
        if column is None or self._days is None or not found.days:
            return
        # All days from the first to the last loaded one, because a run's days are consecutive.
        first_day, last_day = min(found.days), max(found.days)
        days = [first_day + timedelta(days=n) for n in range((last_day - first_day).days + 1)]
        existing = [day.isoformat() for day in days if self._days.has_partition_key(day.isoformat())]
        known = known_values(self._columns[column], instance)
        for rectangle in rectangles(existing, known, found.pairs, self._most):
            first, last = rectangle_keys(column, rectangle)
            run_key = f"{NAME} {'/'.join(source.key)} {found.newest} {first}"
            tags = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
            yield self._request([table.key for table in tables], run_key, tags)

    def _request(self, keys: Sequence[tuple[str, ...]], run_key: str, tags: Mapping[str, str]) -> dg.RunRequest:
        selection = [dg.AssetKey(key) for key in keys]
        return dg.RunRequest(run_key=run_key, asset_selection=selection, tags={**self._tags, **tags})

    def _ranges(self, days: Iterable[date]) -> Iterator[tuple[str, str]]:
        """Yield the first and the last partition of each stretch of dates for which the models have partitions.

        A day that has not ended has none: its schedule builds it.
        """
        if self._days is None:
            return
        existing = [day for day in days if self._days.has_partition_key(day.isoformat())]
        for first, last in day_ranges(existing):
            size = timedelta(days=self._most or (last - first).days + 1)
            start = first
            while start <= last:
                yield start.isoformat(), min(last, start + size - timedelta(days=1)).isoformat()
                start += size
