"""Grains, time zones and windows: Dagster's partitions of the tables, and the windows of a run.

There is one definition of partitions per grain, in LAKEHOUSE_TIMEZONE. It starts with the earliest `begin` of its
models, cut down to a whole window as dbt's microbatch does, and ends with the last window that has ended. A day has 23,
24 or 25 hours; a window includes its start and excludes its end.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from lakehouse_analytics.contract.models import ContractError, Grain
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.dbt.lint.findings import Finding, errors
from lakehouse_analytics.dbt.lint.findings import warnings as warnings_of
from lakehouse_analytics.dbt.lint.partitioning import begin_of, is_microbatch

# Partitions of checks are marked preview, and upstream windows before `begin` beta.
warnings.filterwarnings(
    "ignore", message=".*(partitions_def on an AssetCheckSpec|allow_nonexistent_upstream_partitions)"
)

#: What `meta.lakehouse.accept` calls batches that are cut in UTC.
UTC_BATCHES = "utc_batches"
#: From short to long.
GRAINS: tuple[Grain, ...] = ("hourly", "daily", "weekly", "monthly")
#: Tables of these grains share a run, and its op, with those that are built as a whole.
GRAINS_OF_ONE_OP: tuple[Grain | None, ...] = (None, "daily")

#: The partitions of a grain.
GrainPartitions = dg.TimeWindowPartitionsDefinition


@dataclass(frozen=True)
class Window:
    """One partition: `[start, end)`, both aware."""

    key: str
    start: datetime
    end: datetime


class NoWindowError(ValueError):
    """A run that builds partitions does not say which, or cannot build those."""


def grain_partitions(graph: Graph, timezone: str, *, end_offset: int = 0) -> dict[Grain, GrainPartitions]:
    """The partitions of each grain that the graph has.

    Args:
        graph: The manifest's.
        timezone: IANA zone of the windows.
        end_offset: Windows after the last whole one that can be built, too: 1 is the one that is running.

    Raises:
        ContractError: Dagster cannot cut a grain's windows in this zone.
    """
    begins: dict[Grain, list[datetime]] = {}
    wrong = []
    for table in graph.tables.values():
        if table.grain is None:
            continue
        begins.setdefault(table.grain, []).append(begin_of(table.node))
    if "hourly" in begins and _half_hours(timezone, min(begins["hourly"])):
        wrong.append(
            f"partition: hourly: clocks of {timezone} change by a part of an hour, and Dagster then cuts hours now one "
            "way, now another: set LAKEHOUSE_TIMEZONE to another zone, such as UTC"
        )
    if wrong:
        raise ContractError("\n".join(wrong))
    return {grain: _calendar(grain, min(begins[grain]), timezone, end_offset) for grain in GRAINS if grain in begins}


def zone_warnings(graph: Graph, timezone: str, *, strict: bool) -> list[str]:
    """What should be known of windows in this zone.

    Raises:
        ContractError: there is something, and `strict` is set.
    """
    found = utc_batches(graph, timezone)
    if wrong := errors(found, strict=strict):
        raise ContractError("\n".join(wrong))
    return warnings_of(found)


def utc_batches(graph: Graph, timezone: str) -> list[Finding]:
    """Models with windows that dbt cuts into batches at UTC's borders, where the windows have other borders."""
    if timezone == "UTC":
        return []
    problem = (
        f"dbt cuts the batches of a microbatch model in UTC, and LAKEHOUSE_TIMEZONE is {timezone}: a run also builds "
        "the rest of its first and of its last batch, the last from rows that are not complete; use "
        "incremental_strategy: replace_window"
    )
    return [
        Finding(
            table.unique_id,
            f"{table.node.original_file_path}: model {table.name}",
            table.name,
            problem,
            UTC_BATCHES,
            policy=True,
        )
        for table in graph.tables.values()
        if table.grain and is_microbatch(table.node) and UTC_BATCHES not in table.contract.accept
    ]


def _half_hours(timezone: str, begin: datetime) -> bool:
    """Whether a zone's clocks change by a part of an hour, from a year on for the forty years that follow it."""
    zone = ZoneInfo(timezone)
    offsets = {datetime(begin.year + n // 4, 1 + n % 4 * 3, 15, tzinfo=zone).utcoffset() for n in range(160)}
    first = next(iter(offsets)) or timedelta()
    return any(((offset or timedelta()) - first) % timedelta(hours=1) for offset in offsets)


def _calendar(grain: Grain, begin: datetime, timezone: str, end_offset: int) -> GrainPartitions:
    day = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    if grain == "hourly":
        hour = begin.replace(minute=0, second=0, microsecond=0)
        return dg.HourlyPartitionsDefinition(start_date=hour, timezone=timezone, end_offset=end_offset)
    if grain == "daily":
        return dg.DailyPartitionsDefinition(start_date=day, timezone=timezone, end_offset=end_offset)
    if grain == "weekly":
        # ISO 8601: weeks begin on Monday, as `date_trunc('week', …)` has them on both engines.
        monday = day - timedelta(days=day.weekday())
        return dg.WeeklyPartitionsDefinition(start_date=monday, day_offset=1, timezone=timezone, end_offset=end_offset)
    return dg.MonthlyPartitionsDefinition(start_date=day.replace(day=1), timezone=timezone, end_offset=end_offset)


def partitions_of(table: Table, grain_partitions: Mapping[Grain, GrainPartitions]) -> GrainPartitions | None:
    """The partitions of a table, where it has some."""
    return grain_partitions[table.grain] if table.grain else None


def mapping(above: Grain | None, below: Grain | None) -> dg.PartitionMapping | None:
    """How windows of a table depend on those of a table that it reads; None leaves it to Dagster.

    All that overlap: a month waits for its days. Upstream windows before the definition's start are unknown, and are
    not waited for. Tables built as a whole read all windows, and are read by each.
    """
    if above is None or below is None:
        return None
    return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)


def refuse_mismatched_zones(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec]) -> None:
    """Dagster maps windows of one zone to those of another without a word, some hours wrong.

    Raises:
        ContractError: naming both assets and zones.
    """
    specs = [spec for asset in assets for spec in (asset.specs if isinstance(asset, dg.AssetsDefinition) else [asset])]
    zones = {
        spec.key: spec.partitions_def.timezone for spec in specs if isinstance(spec.partitions_def, GrainPartitions)
    }
    wrong = [
        f"{spec.key.to_user_string()} has windows of {zones[spec.key]}, and reads {dep.asset_key.to_user_string()}, "
        f"whose windows are of {zones[dep.asset_key]}: one zone for both, LAKEHOUSE_TIMEZONE"
        for spec in specs
        for dep in spec.deps
        if spec.key in zones and zones.get(dep.asset_key, zones[spec.key]) != zones[spec.key]
    ]
    if wrong:
        raise ContractError("\n".join(wrong))


def windows(partitions_def: GrainPartitions, keys: Iterable[str]) -> list[Window]:
    """The windows of partition keys, in the keys' order."""
    found = ((key, partitions_def.time_window_for_partition_key(key)) for key in keys)
    return [Window(key, window.start, window.end) for key, window in found]


@dataclass(frozen=True)
class PartitionRange:
    """The windows of one run: one after the other, without a gap."""

    windows: Sequence[Window]

    @property
    def start(self) -> datetime:
        """Its first moment."""
        return self.windows[0].start

    @property
    def end(self) -> datetime:
        """The first moment after it."""
        return self.windows[-1].end

    @property
    def label(self) -> str:
        """As a person says it: one key, or the first and the last."""
        first, last = self.windows[0].key, self.windows[-1].key
        return first if first == last else f"{first}...{last}"

    def args(self) -> list[str]:
        """dbt's options: it takes times without an offset for UTC."""
        return ["--event-time-start", _utc(self.start), "--event-time-end", _utc(self.end)]


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def span_of(
    context: dg.AssetExecutionContext, partitions_def: GrainPartitions, tables: Sequence[Table]
) -> PartitionRange:
    """The windows that a run builds of partitioned tables.

    Raises:
        NoWindowError: it was started without a partition, or for windows that do not exist (yet).
    """
    names = ", ".join(sorted("/".join(table.key) for table in tables))
    if partitions_def.get_last_partition_key() is None:
        raise NoWindowError(
            f"{names} have no partition yet: the first begins on {partitions_def.start:%Y-%m-%d}, the `begin` of their "
            "models, and can be built when it has ended."
        )
    if not (context.has_partition_key or context.has_partition_key_range):
        last = partitions_def.get_last_partition_key()
        raise NoWindowError(
            f"This run was started without a partition, and builds {names}, which are partitioned: launch it for one, "
            f"such as {last}, or for a range (docs/time.md)."
        )
    asked = context.partition_key_range
    known = {key: partitions_def.has_partition_key(key) for key in (asked.start, asked.end)}
    if unknown := [key for key, there in known.items() if not there]:
        raise NoWindowError(
            f"There is no partition {' nor '.join(unknown)} of {names}: their windows go from "
            f"{partitions_def.get_first_partition_key()} to {partitions_def.get_last_partition_key()}."
        )
    keys = partitions_def.get_partition_keys_in_range(asked)
    if not keys:
        raise NoWindowError(f"The range {asked.start}...{asked.end} ends before it begins.")
    return PartitionRange(windows(partitions_def, keys))


def overlapping(partitions_def: GrainPartitions, start: datetime, end: datetime) -> list[str]:
    """Keys of the windows that share a moment with `[start, end)`."""
    last = partitions_def.get_last_partition_window()
    if last is None:
        return []
    # Dagster leaves out the window that has begun before.
    before = max(start - 2 * (last.end - last.start), partitions_def.start)
    keys = partitions_def.get_partition_keys_in_time_window(dg.TimeWindow(before, min(end, last.end)))
    return [window.key for window in windows(partitions_def, keys) if window.end > start]


def missing_above(
    graph: Graph,
    table: Table,
    span: PartitionRange,
    grain_partitions: Mapping[Grain, GrainPartitions],
    instance: dg.DagsterInstance,
) -> Iterator[tuple[Table, list[str]]]:
    """Tables of a shorter grain that this one reads, and their windows inside the span that were never built."""
    for parent in (graph.tables[unique_id] for unique_id in table.parents if unique_id in graph.tables):
        if parent.grain is None or table.grain is None or GRAINS.index(parent.grain) >= GRAINS.index(table.grain):
            continue
        wanted = overlapping(grain_partitions[parent.grain], span.start, span.end)
        built = instance.get_materialized_partitions(dg.AssetKey(parent.key))
        if missing := [key for key in wanted if key not in built]:
            yield parent, missing
