"""Keys of partitions: those of two dimensions, and stretches of consecutive ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import dagster as dg

from lakehouse_analytics.contract.partitions import DATE_DIMENSION


def joined_key(column: str, window: str, value: str) -> dg.MultiPartitionKey:
    """Return the key of the partition of a window and a value.

    Args:
        column: The column that has the value.
        window: The key of the window.
        value: The value.
    """
    return dg.MultiPartitionKey({DATE_DIMENSION: window, column: value})


def split_key(column: str, key: str) -> tuple[str, str]:
    """Return the window and the value of the key of a partition by time and a column."""
    # Dagster sorts dimensions by name.
    first, _, second = key.partition("|")
    return (first, second) if column > DATE_DIMENSION else (second, first)


def partition_stretches(known: Sequence[str], wanted: Collection[str], most: int | None = None) -> list[list[str]]:
    """Return the stretches of wanted keys that are consecutive partitions.

    Args:
        known: The keys of all partitions, in their order.
        wanted: The keys to cover. Those that are no partitions are omitted.
        most: Maximum number of keys of a stretch; None for no limit.
    """
    stretches: list[list[str]] = [[]]
    for key in known:
        if key not in wanted or len(stretches[-1]) == most:
            stretches.append([])
        if key in wanted:
            stretches[-1].append(key)
    return [stretch for stretch in stretches if stretch]
