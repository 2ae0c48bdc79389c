"""Row counts by window: one statement for all windows of many tables.

Pure: no Dagster, no connection. Which window a row is in, the engine says in its own SQL (`EngineType.bucketed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lakehouse_analytics.checks.row_count_rules import CountRequest, Counts, newest_sql, padding, parse_time
from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.engines.registry import engine_type
from lakehouse_analytics.engines.windows import Bins

#: Stages that Trino plans for one table, beside those for its distinct columns.
STAGES = 2


def window_count_sql(adapter: str, bins: Bins, tables: Sequence[CountRequest]) -> str:
    """One statement that counts every table by window: `place, bucket, newest, rows, distinct…`, padded with nulls."""
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
    """Match the answer of `window_count_sql` to its tables: counts by key, zero where a window has no rows."""
    nothing = [Counts(0, dict.fromkeys(table.distinct, 0)) for table in tables]
    found: list[dict[str, Counts]] = [dict.fromkeys(bins.keys, nothing[place]) for place in range(len(tables))]
    for place, bucket, newest, rows, *distinct in answer:
        key = bins.key(int(bucket))
        if key is not None:
            columns = tables[int(place)].distinct
            values = dict(zip(columns, map(int, distinct[: len(columns)]), strict=True))
            found[int(place)][key] = Counts(int(rows), values, parse_time(newest))
    return [*found]
