"""The partitions that a command builds: all from a day on."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from lakehouse_analytics.partitions.definitions import overlapping_keys, windows
from lakehouse_analytics.partitions.keys import joined_key

#: The range of a job without partitions.
WHOLE = ("", "")


def first_of_last_month(today: date | None = None) -> date:
    """Return the first day of the month before the current one."""
    month = (today or datetime.now(UTC).date()).replace(day=1)
    return (month - timedelta(days=1)).replace(day=1)


def partition_range(
    partitions_def: dg.PartitionsDefinition[str] | None, since: date, instance: dg.DagsterInstance
) -> tuple[str, str] | None:
    """Return the first and the last partition to build.

    Args:
        partitions_def: The partitions of a job.
        since: The first day of partitions by time. Of a column, all values are built.
        instance: The instance, which knows the values of dynamic partitions.

    Returns:
        The range; `WHOLE` for a job without partitions, and None if there is no such partition.
    """
    if partitions_def is None:
        return WHOLE
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        if isinstance(partitions_def, dg.MultiPartitionsDefinition):
            column = partitions_def.secondary_dimension.name
            values = partitions_def.secondary_dimension.partitions_def.get_partition_keys()
            times = _times(partitions_def.time_window_partitions_def, since)
            return (
                (joined_key(column, times[0], values[0]), joined_key(column, times[-1], values[-1]))
                if times and values
                else None
            )
        if isinstance(partitions_def, dg.TimeWindowPartitionsDefinition):
            keys = _times(partitions_def, since)
        else:
            keys = [*partitions_def.get_partition_keys()]
        return (keys[0], keys[-1]) if keys else None


def _times(partitions_def: dg.TimeWindowPartitionsDefinition, since: date) -> list[str]:
    zone = ZoneInfo(partitions_def.timezone)
    begin, today = (datetime.combine(day, datetime.min.time(), zone) for day in (since, datetime.now(zone).date()))
    found = windows(partitions_def, overlapping_keys(partitions_def, begin, today))
    return [window.key for window in found if window.start >= begin]
