"""The protocol of triggers, and what triggers share.

A trigger watches a system that loads tables of dbt sources. When a load has finished, its sensor records the load on
the source assets and requests one run of the bronze models that read them. docs/triggers.md shows how to add one.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

import dagster as dg

from lakehouse_analytics.assets.multi_asset import multi_asset_check
from lakehouse_analytics.dbt.graph import Graph, Key, Source
from lakehouse_analytics.keys import build_tags
from lakehouse_analytics.triggers.event_log import latest_event_id, unstored_events
from lakehouse_analytics.triggers.events import load_ids, load_materialization

#: If no earlier tick is known, a tick searches the event log for this many seconds before the load ended, or before
#: now.
SEARCH_WINDOW = 86_400.0


class LoadGuard(Protocol):
    """Finds out whether a load may be writing a table."""

    def running(self, connection: str) -> str | None:
        """Return the reason why maintenance must skip the tables of a connection now, or None."""


class Trigger(Protocol):
    """A system outside Dagster that loads source tables. `registry.py` lists all of them."""

    @property
    def guard(self) -> LoadGuard | None:
        """Finds out whether loads are running, for maintenance; None if the system has no such information."""

    def definitions(self) -> dg.Definitions:
        """Return the trigger's sensor, jobs and checks."""


@dataclass(frozen=True)
class SourceTables:
    """The source tables of the dbt project, and the bronze models that read them.

    Attributes:
        graph: The manifest's graph.
        max_runtime: Seconds after which Dagster terminates a run.
    """

    graph: Graph
    max_runtime: int

    @cached_property
    def by_key(self) -> Mapping[Key, Source]:
        """Source tables by asset key."""
        return {source.key: source for source in self.graph.sources.values()}

    def readers(self, keys: Iterable[Key]) -> list[dg.AssetKey]:
        """Return the bronze models downstream of source tables, except partitioned ones: a schedule builds those."""
        unique_ids = [self.by_key[key].unique_id for key in keys]
        tables = (self.graph.tables[unique_id] for unique_id in self.graph.descendants(unique_ids))
        return sorted(dg.AssetKey(table.key) for table in tables if table.layer == "bronze" and table.is_whole)

    @property
    def target(self) -> dg.AssetSelection | None:
        """All assets that a trigger's run may build; None if there are none."""
        keys = [table.key for table in self.graph.tables.values() if table.layer == "bronze" and table.is_whole]
        return dg.AssetSelection.assets(*keys) if keys else None

    def run_request(
        self, keys: Iterable[Key], *, trigger: str, run_key: str, tags: Mapping[str, str]
    ) -> dg.RunRequest | None:
        """Return a run of the models that read source tables; None if no bronze model reads them.

        Args:
            keys: The source tables.
            trigger: Name of the trigger, the value of the tag `source`.
            run_key: Dagster launches one run per key.
            tags: Further tags of the run.
        """
        selection = self.readers(keys)
        if not selection:
            return None
        tags = {**build_tags(self.max_runtime), "source": trigger, **tags}
        return dg.RunRequest(run_key=run_key, asset_selection=selection, tags=tags)


@dataclass(frozen=True)
class Load:
    """A finished load of source tables.

    Attributes:
        id: Identifies the load among all loads of the trigger. It is part of the run key, and the data version of the
            tables.
        tables: Asset keys of the source tables that it wrote.
        description: One line for the materializations.
        started: When the load began to read, with a time zone. A partition that waits for a source is built if a load
            started after the partition's end; a load without `started` does not count.
        ended: When the load finished, with a time zone.
        metadata: Further metadata of the materializations.
    """

    id: str
    tables: Sequence[Key]
    description: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NewLoads:
    """The result of a poll.

    Attributes:
        loads: Loads that finished since the cursor, oldest first.
        cursor: The cursor for the next poll.
        message: Shown as the skip reason if there are no loads, such as why the system cannot be reached.
    """

    loads: Sequence[Load]
    cursor: str | None
    message: str = ""


#: Queries the system for finished loads. Takes the cursor of the previous poll, or None on the first one.
Poll = Callable[[str | None], NewLoads]


def load_sensor(name: str, poll: Poll, tables: SourceTables, *, interval: int, description: str) -> dg.SensorDefinition:
    """Return the sensor `<name>_sensor`. It records each finished load, and requests a run of the models that read it.

    Each load is recorded once, even if the daemon dies between storing the events of a tick and storing its cursor.

    Args:
        name: Name of the trigger.
        poll: Queries the system. An exception fails the tick and leaves the cursor as it is.
        tables: The source tables of the project.
        interval: Minimum seconds between two ticks.
        description: Description of the sensor, shown in the UI.
    """

    @dg.sensor(
        name=f"{name}_sensor",
        target=tables.target,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        before = LoadCursor.loads(context.cursor)
        event_id = latest_event_id(context.instance)
        found = poll(before.position)
        events = [load_materialization(load, key) for load in found.loads for key in load.tables]
        ended = [load.ended.timestamp() for load in found.loads if load.ended]
        since = min([time.time(), *ended]) - SEARCH_WINDOW
        fresh = unstored_events(context.instance, events, load_ids, after=before.event_id, since=since)
        requests = [
            tables.run_request(
                load.tables, trigger=name, run_key=f"{name}_{load.id}", tags={f"{name}/load_id": load.id}
            )
            for load in found.loads
        ]
        return dg.SensorResult(
            asset_events=fresh,
            run_requests=[request for request in requests if request],
            cursor=LoadCursor(found.cursor, event_id).dumps(),
            skip_reason=None if any(requests) else found.message or "No load has finished.",
        )

    return sensor


@dataclass(frozen=True)
class LoadCursor:
    """The cursor of `load_sensor`.

    Attributes:
        position: The trigger's own cursor.
        event_id: The newest event in Dagster's log when the tick began. A tick that died has stored its events after
            it.
    """

    position: str | None = None
    event_id: int | None = None

    def dumps(self) -> str:
        """Return the text that Dagster stores."""
        return json.dumps({"position": self.position, "event_id": self.event_id})

    @staticmethod
    def loads(text: str | None) -> "LoadCursor":
        """Parse the text that `dumps` wrote. Any other text, such as one set in the UI, is the trigger's own cursor."""
        try:
            fields = json.loads(text or "{}")
            return LoadCursor(fields.get("position"), fields.get("event_id"))
        except (ValueError, AttributeError):
            return LoadCursor(text)


def source_checks(
    name: str,
    keys: Sequence[Key],
    description: str,
    evaluate: Callable[[Collection[dg.AssetKey]], Iterable[dg.AssetCheckResult]],
) -> list[dg.AssetChecksDefinition]:
    """Return a check with one name on several source tables, evaluated by one op; an empty list without tables.

    Args:
        name: Name of the check.
        keys: The source tables.
        description: Description of the check, shown in the UI.
        evaluate: Takes the selected tables, and yields a result for each.
    """
    if not keys:
        return []
    specs = [dg.AssetCheckSpec(name, asset=dg.AssetKey(key), description=description) for key in dict.fromkeys(keys)]

    @multi_asset_check(name=f"{name}_check", specs=specs, can_subset=True)
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        yield from evaluate({key.asset_key for key in context.selected_asset_check_keys})

    return [check]
