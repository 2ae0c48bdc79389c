"""Rules for partitioned models, based on the manifest only.

Pure: no Dagster, no dbt. dbt passes a run's time range to every model of the command. Whether a model builds that range
correctly, and leaves the rest of the table unchanged, depends on its materialization.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

from lakehouse_analytics.common.text import brief, did_you_mean, shortened
from lakehouse_analytics.contract.models import Grain, ModelContract
from lakehouse_analytics.contract.partitions import ColumnPartition
from lakehouse_analytics.dbt.nodes import Node

#: dbt's incremental strategies that cannot build a partition, and why.
_CANNOT_BUILD = {
    "append": "adds the window's rows a second time when it is built twice",
    "default": "adds the window's rows a second time when it is built twice",
    "insert_overwrite": "is not known to these engines",
}
#: dbt's incremental strategies that replace rows by their key, which is only correct if a partition never loses a row.
_KEEPS_ROWS = frozenset({"merge", "delete+insert"})
STALE_ROWS = "stale_rows"
#: dbt's batch sizes, from the smallest to the largest, and the largest one for each grain. A batch must not be longer
#: than a partition.
_BATCHES = ("hour", "day", "month", "year")
_LONGEST: Mapping[Grain, str] = {"hourly": "hour", "daily": "day", "weekly": "day", "monthly": "month"}

#: Years in which `begin` may be. Earlier ones result in millions of partitions in Dagster; later ones are typos.
FIRST_YEAR, LAST_YEAR = 1900, 2100


def begin_of(node: Node) -> datetime:
    """Return the model's `begin` as written: a naive time in LAKEHOUSE_TIMEZONE.

    Raises:
        ValueError: It is not set or not a valid time. The message continues the sentence "`begin` …".
    """
    value = node.config.begin
    if not value:
        raise ValueError("is not set")
    try:
        begin = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"is {shortened(value)}: expected a date such as 2026-01-01") from None
    if not FIRST_YEAR <= begin.year <= LAST_YEAR:
        raise ValueError(f"is {shortened(value)}: expected a year from {FIRST_YEAR} to {LAST_YEAR}")
    if begin.tzinfo:
        raise ValueError(f"is {shortened(value)}: expected no offset, because it is a time in LAKEHOUSE_TIMEZONE")
    return begin


def problems(node: Node, contract: ModelContract, sources: Collection[str]) -> Iterator[str]:
    """Yield the reasons why a node cannot be partitioned as its contract requests, as sentences.

    Args:
        node: The node of the manifest.
        contract: The contract of the node.
        sources: The names of all source tables as `source.table`, which `after` may contain.
    """
    if contract.after and not contract.partition:
        yield "meta.lakehouse.after is for models with a `partition`: schedules wait with a partition, not with a table"
    for name in contract.after:
        if name not in sources:
            hint = did_you_mean(name, sources, quoted="`{}`".format)
            yield f"meta.lakehouse.after names the source {shortened(name)}, which does not exist{hint}"
    strategy = node.config.incremental_strategy or "default"
    piece = node.meta.get("window_piece")
    # With another strategy, the key is not ours but the project's.
    if strategy == "replace_window" and piece is not None and not _is_piece(piece):
        yield (
            f"meta.window_piece is {shortened(piece)}: expected how much of a window one commit replaces, as a number "
            "of days (or hours, for a table partitioned by hour) such as 90, or as a duration such as 6h"
        )
    if isinstance(contract.partition, ColumnPartition):
        yield from _column_problems(node, contract, contract.partition)
    elif contract.partition:
        yield from _time_problems(node, contract.partition)


def _time_problems(node: Node, grain: Grain) -> Iterator[str]:
    """Yield the reasons why a node cannot be partitioned by time."""
    requested, config = f"meta.lakehouse.partition: {grain}", node.config
    strategy = config.incremental_strategy or "default"
    if node.resource_type != "model" or not config.is_incremental:
        yield (
            f"{requested} needs `materialized: incremental`, not {brief(config.materialized)}: a run builds one "
            "window, and any other table would then contain that window only"
        )
        return
    if config.full_refresh:
        yield (
            f"{requested} with `full_refresh: true`, which rebuilds the table in every run, and a run builds one "
            "window: all other rows would be deleted. Remove it; a run of every partition may set `full_refresh: true` "
            "in its config (docs/time.md)"
        )
    yield from _missing_time(node, requested)
    if strategy in _CANNOT_BUILD:
        yield (
            f"{requested} with `incremental_strategy: {strategy}`, which {_CANNOT_BUILD[strategy]}; use replace_window "
            "(docs/time.md)"
        )
    if strategy == "microbatch":
        batch, longest = str(config.batch_size or "day"), _LONGEST[grain]
        if batch in _BATCHES and _BATCHES.index(batch) > _BATCHES.index(longest):
            yield f"{requested} with `batch_size: {batch}`: a batch is longer than a window; set batch_size: {longest}"


def _missing_time(node: Node, requested: str) -> Iterator[str]:
    """Yield what a node with windows of time does not say about its time."""
    if not node.config.event_time:
        yield f"{requested} needs `event_time`, the column with the time of each row"
    try:
        begin_of(node)
    except ValueError as error:
        yield f"{requested} needs `begin`, the first day of its history, but it {error}"


def _column_problems(node: Node, contract: ModelContract, partition: ColumnPartition) -> Iterator[str]:
    """Yield the reasons why a node cannot be partitioned by a column, or by time and a column."""
    column, grain, config = partition.by, partition.grain, node.config
    requested = f"meta.lakehouse.partition: {{{f'grain: {grain}, ' if grain else ''}by: {column}}}"
    if node.resource_type != "model" or not config.is_incremental:
        yield (
            f"{requested} needs `materialized: incremental`, not {brief(config.materialized)}: a run builds some "
            "values, and any other table would then contain the rows of those values only"
        )
        return
    if config.full_refresh:
        yield (
            f"{requested} with `full_refresh: true`, which rebuilds the table in every run, and a run builds some "
            "values: all other rows would be deleted. Remove it; a run of every value may set `full_refresh: true` in "
            "its config (docs/time.md)"
        )
    if (strategy := config.incremental_strategy or "default") != "replace_window":
        yield (
            f"{requested} with `incremental_strategy: {strategy}`, which does not replace exactly the rows of the "
            "run's values; use replace_window (docs/time.md)"
        )
    if grain:
        yield from _missing_time(node, requested)
        if (config.event_time or "").lower() == column:
            yield f"{requested} with `event_time: {column}`: the dimensions need different columns"
    elif contract.after:
        yield f"meta.lakehouse.after is for partitions by time: the schedule {column}_refresh does not wait"


def _is_piece(value: object) -> bool:
    """Return whether the macro `window_piece` accepts the value."""
    if isinstance(value, int):
        return not isinstance(value, bool) and value >= 1
    return isinstance(value, str) and re.fullmatch("[1-9][0-9]* *[mhdw]", value) is not None


def policies(node: Node, contract: ModelContract) -> Iterator[tuple[str, str]]:
    """Yield the properties of a partitioned node that are only correct for some data.

    Yields:
        The value of `meta.lakehouse.accept` that accepts the property, and the problem.
    """
    strategy = node.config.incremental_strategy
    by_time = contract.partition and not isinstance(contract.partition, ColumnPartition)
    if by_time and node.config.is_incremental and strategy in _KEEPS_ROWS:
        yield (
            STALE_ROWS,
            f"meta.lakehouse.partition with `incremental_strategy: {strategy}` keeps rows that a window no longer has "
            "when it is built again; use replace_window (docs/time.md)",
        )


def warnings(node: Node, contract: ModelContract, *, cut: bool) -> Iterator[str]:
    """Yield the warnings about an unpartitioned node.

    Args:
        node: The node of the manifest.
        contract: The contract of the node.
        cut: Whether the project has partitioned models.
    """
    strategy = node.config.incremental_strategy
    if contract.partition or not node.config.is_incremental:
        return
    if strategy == "replace_window":
        yield "replace_window without meta.lakehouse.partition: Dagster's runs pass it no window, so it fails"
    elif strategy == "microbatch" and cut:
        yield (
            "microbatch without meta.lakehouse.partition: dbt builds it since its last batch, but in a run of "
            "partitions only for the run's own time range"
        )


def mixed_run_problems(node: Node, contract: ModelContract) -> Iterator[str]:
    """Yield the reasons why an unpartitioned node must not be built by a run of partitions, as sentences."""
    config = node.config
    if contract.partition or not config.is_incremental:
        return
    if is_microbatch(node) and config.full_refresh:
        yield (
            "microbatch with `full_refresh: true` and without meta.lakehouse.partition: dbt rebuilds the table in "
            "every run, and a run of one partition would delete all other rows. Remove `full_refresh: true`"
        )


def is_microbatch(node: Node) -> bool:
    """Return whether dbt itself cuts the model's time range into batches, which are in UTC."""
    return node.config.incremental_strategy == "microbatch"
