"""Partitions of sources that are loaded from files: by the date in the path, and by the values of a column."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from datetime import date, datetime

import dagster as dg

from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.contract.partitions import DATE_DIMENSION
from lakehouse_analytics.dbt.graph import Source

# Only the mapping is in beta, and a warning per model would hide our own.
warnings.filterwarnings("ignore", message="Class `MultiToSingleDimensionPartitionMapping`")

#: The current day and tomorrow have partitions, too: prices for tomorrow are published today.
_DAYS_AHEAD = 2


def source_partitions(source: Source, timezone: str) -> dg.PartitionsDefinition[str] | None:
    """Return the partitions of a source; None if it has none.

    With `split_by`, the second dimension has the values that were loaded: each new one becomes a partition.

    Args:
        source: The source.
        timezone: The IANA time zone of the partitions.
    """
    arrival = source.contract.arrives
    if not isinstance(arrival, FileArrival) or arrival.begin is None or arrival.date_format is None:
        return None
    start = datetime(arrival.begin.year, arrival.begin.month, arrival.begin.day)
    days = dg.DailyPartitionsDefinition(start_date=start, timezone=timezone, end_offset=_DAYS_AHEAD)
    if arrival.split_by is None:
        return days
    values = dg.DynamicPartitionsDefinition(name=values_name(source))
    return dg.MultiPartitionsDefinition({DATE_DIMENSION: days, arrival.split_by: values})


def values_name(source: Source) -> str:
    """Return the name under which Dagster stores the values of `split_by`."""
    arrival = source.contract.arrives
    return "/".join(
        (*(source.key_of_values or source.key), str(arrival.split_by if isinstance(arrival, FileArrival) else ""))
    )


def source_mapping(source: Source) -> dg.PartitionMapping | None:
    """Return the mapping from a partitioned source to a partitioned table that reads it.

    A partition of the table depends on all partitions of the source in its time range. None for a source without
    partitions.
    """
    arrival = source.contract.arrives
    if not isinstance(arrival, FileArrival) or arrival.date_format is None:
        return None
    if arrival.split_by is None:
        return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
    return dg.MultiToSingleDimensionPartitionMapping(DATE_DIMENSION)


def partition_key(source: Source, day: date, value: str) -> str:
    """Return the key of a partition of a source."""
    arrival = source.contract.arrives
    if isinstance(arrival, FileArrival) and arrival.split_by:
        return dg.MultiPartitionKey({DATE_DIMENSION: day.isoformat(), arrival.split_by: value})
    return day.isoformat()


def exists(partitions: dg.PartitionsDefinition[str], key: str, instance: dg.DagsterInstance) -> bool:
    """Return whether a partition exists, now and with the values of `split_by` in an instance."""
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        return partitions.has_partition_key(key)


def days_and_values(source: Source, keys: Iterable[str]) -> dict[date, list[str]]:
    """Return the dates of partition keys, each with its values of `split_by`, which are empty texts without one."""
    arrival = source.contract.arrives
    split = arrival.split_by if isinstance(arrival, FileArrival) else None
    found: dict[date, list[str]] = {}
    for key in keys:
        day, value = key, ""
        if split:
            # Dagster sorts dimensions by name.
            parts = dict(zip(sorted((DATE_DIMENSION, split)), key.split("|"), strict=True))
            day, value = parts[DATE_DIMENSION], parts[split]
        found.setdefault(date.fromisoformat(day), []).append(value)
    return found


def day_ranges(days: Iterable[date]) -> list[Sequence[date]]:
    """Return the first and the last date of each stretch of consecutive dates, oldest first."""
    ranges: list[list[date]] = []
    for day in sorted(set(days)):
        if ranges and (day - ranges[-1][1]).days == 1:
            ranges[-1][1] = day
        else:
            ranges.append([day, day])
    return [tuple(pair) for pair in ranges]
