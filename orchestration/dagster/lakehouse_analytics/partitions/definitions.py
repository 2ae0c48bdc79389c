"""Dagster's partitions of the tables, and the partitions of a run.

Each grain has one partitions definition, in LAKEHOUSE_TIMEZONE. It starts with the earliest `begin` of its models,
truncated to the start of a partition as dbt's microbatch does, and ends with the last partition that has ended. A day
has 23, 24 or 25 hours. The window of a partition includes its start and excludes its end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.contract.models import ContractError, Grain
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.dbt.lint.findings import Finding, errors
from lakehouse_analytics.dbt.lint.findings import warnings as warnings_of
from lakehouse_analytics.dbt.lint.partitioning import begin_of, is_microbatch
from lakehouse_analytics.partitions.keys import joined_key, split_key

# Dagster marks partitioned checks as preview, and nonexistent upstream partitions as beta.
warnings.filterwarnings(
    "ignore", message=".*(partitions_def on an AssetCheckSpec|allow_nonexistent_upstream_partitions)"
)

#: Value of `meta.lakehouse.accept` that accepts batches in UTC.
UTC_BATCHES = "utc_batches"
#: The grains, from the shortest to the longest.
GRAINS: tuple[Grain, ...] = ("hourly", "daily", "weekly", "monthly")
#: Grains whose tables are built by the same op, and in the same run. None stands for tables without partitions.
GRAINS_OF_ONE_OP: tuple[Grain | None, ...] = (None, "daily")

#: The type of the partitions of a grain.
GrainPartitions = dg.TimeWindowPartitionsDefinition


@dataclass(frozen=True)
class Window:
    """One partition and its time range.

    Attributes:
        key: The partition key.
        start: The inclusive start, timezone-aware.
        end: The exclusive end, timezone-aware.
    """

    key: str
    start: datetime
    end: datetime


class PartitionSelectionError(ValueError):
    """A run of partitioned tables has no partition, or one that does not exist."""


def grain_partitions(graph: Graph, timezone: str, *, end_offset: int = 0) -> dict[Grain, GrainPartitions]:
    """Return the partitions definition of each grain in the graph.

    Args:
        graph: The graph of the manifest.
        timezone: The IANA time zone of the partitions.
        end_offset: How many partitions that have not ended can be built as well: 1 is the current one.

    Raises:
        ContractError: Dagster cannot partition a grain in this time zone.
    """
    begins: dict[Grain, list[datetime]] = {}
    wrong = []
    for table in graph.tables.values():
        if table.grain is None:
            continue
        begins.setdefault(table.grain, []).append(begin_of(table.node))
    if "hourly" in begins and _has_fractional_shifts(timezone, min(begins["hourly"])):
        wrong.append(
            f"partition: hourly: the UTC offset of {timezone} changes by less than an hour, which Dagster's hourly "
            "partitions do not support: set LAKEHOUSE_TIMEZONE to another zone, such as UTC"
        )
    if wrong:
        raise ContractError("\n".join(wrong))
    return {
        grain: _time_partitions(grain, min(begins[grain]), timezone, end_offset) for grain in GRAINS if grain in begins
    }


def time_zone_warnings(graph: Graph, timezone: str, *, strict: bool) -> list[str]:
    """Return the warnings about partitions in this time zone.

    Args:
        graph: The graph of the manifest.
        timezone: The IANA time zone of the partitions.
        strict: Whether warnings are errors.

    Raises:
        ContractError: There is a warning, and `strict` is set.
    """
    found = utc_batch_findings(graph, timezone)
    if wrong := errors(found, strict=strict):
        raise ContractError("\n".join(wrong))
    return warnings_of(found)


def utc_batch_findings(graph: Graph, timezone: str) -> list[Finding]:
    """Return a finding for each partitioned microbatch model if the partitions are not in UTC.

    dbt cuts the batches of a microbatch model in UTC, so their boundaries differ from those of the partitions.
    """
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


def _has_fractional_shifts(timezone: str, begin: datetime) -> bool:
    """Return whether the UTC offset changes by a fraction of an hour in the forty years from a date on."""
    zone = ZoneInfo(timezone)
    offsets = {datetime(begin.year + n // 4, 1 + n % 4 * 3, 15, tzinfo=zone).utcoffset() for n in range(160)}
    first = next(iter(offsets)) or timedelta()
    return any(((offset or timedelta()) - first) % timedelta(hours=1) for offset in offsets)


def _time_partitions(grain: Grain, begin: datetime, timezone: str, end_offset: int) -> GrainPartitions:
    day = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    if grain == "hourly":
        hour = begin.replace(minute=0, second=0, microsecond=0)
        return dg.HourlyPartitionsDefinition(start_date=hour, timezone=timezone, end_offset=end_offset)
    if grain == "daily":
        return dg.DailyPartitionsDefinition(start_date=day, timezone=timezone, end_offset=end_offset)
    if grain == "weekly":
        # Weeks start on Monday as in ISO 8601, and as in `date_trunc('week', …)` on every engine.
        monday = day - timedelta(days=day.weekday())
        return dg.WeeklyPartitionsDefinition(start_date=monday, day_offset=1, timezone=timezone, end_offset=end_offset)
    return dg.MonthlyPartitionsDefinition(start_date=day.replace(day=1), timezone=timezone, end_offset=end_offset)


def partition_mapping(above: Grain | None, below: Grain | None) -> dg.PartitionMapping | None:
    """Return the partition mapping from a table to a table that reads it, or None for Dagster's default.

    A partition depends on all upstream partitions that overlap it, so a month waits for its days. Upstream partitions
    before the start of the upstream definition do not exist and are not waited for. A table without partitions reads
    all partitions of an upstream table, and every downstream partition reads all of it.

    Args:
        above: The grain of the upstream table, or None if it is not partitioned.
        below: The grain of the downstream table, likewise.
    """
    if above is None or below is None:
        return None
    return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)


def refuse_mismatched_zones(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec]) -> None:
    """Raise an error if a partitioned asset reads an asset whose partitions are in another time zone.

    Dagster maps partitions of one time zone to those of another without a warning, and the result is wrong by some
    hours.

    Raises:
        ContractError: Names both assets and their time zones, one line per dependency.
    """
    specs = [spec for asset in assets for spec in (asset.specs if isinstance(asset, dg.AssetsDefinition) else [asset])]
    zones = {
        spec.key: spec.partitions_def.timezone for spec in specs if isinstance(spec.partitions_def, GrainPartitions)
    }
    wrong = [
        f"{spec.key.to_user_string()} has partitions in {zones[spec.key]}, and reads {dep.asset_key.to_user_string()}, "
        f"whose partitions are in {zones[dep.asset_key]}: use LAKEHOUSE_TIMEZONE for both"
        for spec in specs
        for dep in spec.deps
        if spec.key in zones and zones.get(dep.asset_key, zones[spec.key]) != zones[spec.key]
    ]
    if wrong:
        raise ContractError("\n".join(wrong))


def windows(partitions_def: GrainPartitions, keys: Iterable[str]) -> list[Window]:
    """Return the partitions of some keys with their time ranges, in the order of the keys."""
    found = ((key, partitions_def.time_window_for_partition_key(key)) for key in keys)
    return [Window(key, window.start, window.end) for key, window in found]


@dataclass(frozen=True)
class PartitionRange:
    """The partitions of one run: consecutive, without gaps."""

    windows: Sequence[Window]

    @property
    def start(self) -> datetime:
        """The start of the first partition."""
        return self.windows[0].start

    @property
    def end(self) -> datetime:
        """The exclusive end of the last partition."""
        return self.windows[-1].end

    @property
    def label(self) -> str:
        """The range as Dagster displays it: `first...last`, or the key of a single partition."""
        first, last = self.windows[0].key, self.windows[-1].key
        return first if first == last else f"{first}...{last}"

    def dbt_args(self) -> list[str]:
        """Return dbt's options for the time range. dbt interprets times without an offset as UTC."""
        return ["--event-time-start", _utc(self.start), "--event-time-end", _utc(self.end)]


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def requested_range(
    context: dg.AssetExecutionContext, partitions_def: GrainPartitions, tables: Sequence[Table]
) -> PartitionRange:
    """Return the partitions that a run builds.

    Args:
        context: The context of the step.
        partitions_def: The partitions definition of the tables.
        tables: The partitioned tables of the run.

    Raises:
        PartitionSelectionError: The run was started without a partition, or for partitions that do not exist (yet).
    """
    names = ", ".join(sorted("/".join(table.key) for table in tables))
    if partitions_def.get_last_partition_key() is None:
        raise PartitionSelectionError(
            f"{names} have no partition yet: the first begins on {partitions_def.start:%Y-%m-%d}, the `begin` of their "
            "models, and can be built once it has ended."
        )
    column = next((table.by for table in tables if table.by), None)
    if not (context.has_partition_key or context.has_partition_key_range):
        last = f"{partitions_def.get_last_partition_key()}{f' and a value of {column}' if column else ''}"
        raise PartitionSelectionError(
            f"This run was started without a partition, and builds {names}, which are partitioned: launch it for a "
            f"partition, such as {last}, or for a range (docs/time.md)."
        )
    requested = context.partition_key_range
    if column:
        start, end = (split_key(column, key)[0] for key in (requested.start, requested.end))
        requested = dg.PartitionKeyRange(start, end)
    exists = {key: partitions_def.has_partition_key(key) for key in (requested.start, requested.end)}
    if unknown := [key for key, found in exists.items() if not found]:
        raise PartitionSelectionError(
            f"There is no partition {' or '.join(unknown)} of {names}: their partitions are "
            f"{partitions_def.get_first_partition_key()} to {partitions_def.get_last_partition_key()}."
        )
    keys = partitions_def.get_partition_keys_in_range(requested)
    if not keys:
        raise PartitionSelectionError(f"The range {requested.start}...{requested.end} ends before it begins.")
    return PartitionRange(windows(partitions_def, keys))


def overlapping_keys(partitions_def: GrainPartitions, start: datetime, end: datetime) -> list[str]:
    """Return the keys of the partitions that overlap the time range `[start, end)`."""
    last = partitions_def.get_last_partition_window()
    if last is None:
        return []
    # Dagster leaves out a partition that started before the range.
    before = max(start - 2 * (last.end - last.start), partitions_def.start)
    keys = partitions_def.get_partition_keys_in_time_window(dg.TimeWindow(before, min(end, last.end)))
    return [window.key for window in windows(partitions_def, keys) if window.end > start]


def waits_for(table: Table, parent: Table) -> bool:
    """Return whether a window of a table is only built after the windows of a table that it reads.

    These are the windows of a shorter grain, and those of the same grain that another job builds, because only one of
    the two tables is partitioned by a column, or each by another one.
    """
    if parent.grain is None or table.grain is None:
        return False
    shorter = GRAINS.index(parent.grain) - GRAINS.index(table.grain)
    return shorter < 0 or (shorter == 0 and parent.by != table.by)


def no_values(_table: Table, _parent: Table) -> Sequence[str]:
    """Return no values: for tables without a column."""
    return ()


def missing_upstream_partitions(
    graph: Graph,
    table: Table,
    partition_range: PartitionRange,
    grain_partitions: Mapping[Grain, GrainPartitions],
    instance: dg.DagsterInstance,
    *,
    values_of: Callable[[Table, Table], Sequence[str]] = no_values,
) -> Iterator[tuple[Table, list[str]]]:
    """Yield the upstream tables for which a table waits and that lack partitions, with the keys of the missing ones.

    Args:
        graph: The graph of the manifest.
        table: The table to build.
        partition_range: The partitions of the table to build.
        grain_partitions: The partitions definition of each grain.
        instance: The instance, which knows the materialized partitions.
        values_of: Returns the values that a table needs of one that it reads and that is partitioned by a column, too.
    """
    for parent in (graph.tables[unique_id] for unique_id in table.parents if unique_id in graph.tables):
        if parent.grain is None or not waits_for(table, parent):
            continue
        wanted = overlapping_keys(grain_partitions[parent.grain], partition_range.start, partition_range.end)
        if column := parent.by:
            wanted = [joined_key(column, key, value) for key in wanted for value in values_of(table, parent)]
        built = instance.get_materialized_partitions(dg.AssetKey(parent.key))
        if missing := [key for key in wanted if key not in built]:
            yield parent, missing


def describe_missing(above: Table, keys: Sequence[str]) -> str:
    """Return that an upstream table does not have partitions, and how to build those of a new value.

    Args:
        above: The upstream table.
        keys: The keys of the missing partitions.
    """
    name = "/".join(above.key)
    hint = (
        f" (a new value of {above.by} needs a backfill: Assets → {name} → Materialize, these windows and all values, "
        'with "Backfill only failed and missing partitions")'
    )
    return f"{name} does not have {some(keys, FEW)}{hint if above.by else ''}"
