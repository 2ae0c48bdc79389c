"""Row counts per partition: one statement for all partitions of many tables.

Pure: no Dagster, no connection. The engine's own SQL assigns rows to partitions (`EngineType.bucketed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lakehouse_analytics.checks.row_count_rules import CountRequest, Counts, newest_sql, padding, parse_time
from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.engines.partition_bins import Bins
from lakehouse_analytics.engines.registry import engine_type

#: Stages that Trino plans per table, in addition to those for its distinct columns.
STAGES = 2


def window_count_sql(adapter: str, bins: Bins, tables: Sequence[CountRequest]) -> str:
    """Return a statement that counts each table's rows per partition.

    Its columns are `place, bucket, newest, rows, distinct…`. Tables with fewer distinct columns are padded with nulls.

    Args:
        adapter: The name of the dbt adapter.
        bins: The partitions.
        tables: The tables.
    """
    width = max((len(table.distinct) for table in tables), default=0)
    return "\nunion all\n".join(_select(adapter, bins, place, table, width) for place, table in enumerate(tables))


def _select(adapter: str, bins: Bins, place: int, table: CountRequest, width: int) -> str:
    distinct = [f"count(distinct {identifier(column)})" for column in table.distinct]
    columns = [str(place), "lakehouse_bucket", newest_sql(table), "count(*)", *distinct, *padding(table, width)]
    # Names come from the manifest and the contract, and are quoted.
    bucketed = engine_type(adapter).bucketed(table.relation, identifier(table.event_time or ""), bins)
    return (
        f"select {', '.join(columns)} from ({bucketed}) "  # noqa: S608
        "as counted group by lakehouse_bucket"
    )


def read_window_counts(
    bins: Bins, tables: Sequence[CountRequest], answer: Sequence[Sequence[Any]]
) -> list[Mapping[str, Counts]]:
    """Return the counts of each table by partition key from the result of `window_count_sql`.

    Partitions without rows have a count of zero.

    Args:
        bins: The partitions.
        tables: The tables, in the order of the statement.
        answer: The rows of the result.
    """
    nothing = [Counts(0, dict.fromkeys(table.distinct, 0)) for table in tables]
    found: list[dict[str, Counts]] = [dict.fromkeys(bins.keys, nothing[place]) for place in range(len(tables))]
    for place, bucket, newest, rows, *distinct in answer:
        key = bins.key(int(bucket))
        if key is not None:
            columns = tables[int(place)].distinct
            values = dict(zip(columns, map(int, distinct[: len(columns)]), strict=True))
            found[int(place)][key] = Counts(int(rows), values, parse_time(newest))
    return [*found]
