"""Row counts per value of a column, or per window and value: one statement for all partitions of many tables.

Pure: no Dagster, no connection. Values are compared as text, as partition keys are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakehouse_analytics.checks.partition_counts import STAGES
from lakehouse_analytics.checks.row_count_rules import CountRequest, Counts, newest_sql, padding, parse_time
from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.engines.partition_bins import Bins
from lakehouse_analytics.engines.registry import engine_type


@dataclass(frozen=True)
class ValueCounts:
    """Counts the rows of tables per value of a column.

    Attributes:
        adapter: The name of the dbt adapter.
        column: The column.
        keys: The key of each partition to count, by its window and its value. The window is empty without `bins`.
        bins: The windows; None if the tables are not partitioned by time.
    """

    adapter: str
    column: str
    keys: Mapping[tuple[str, str], str]
    bins: Bins | None = None

    stages = STAGES

    def sql(self, tables: Sequence[CountRequest]) -> str:
        """Return a statement with the columns `place, bucket, value, newest, rows, distinct…`."""
        width = max((len(table.distinct) for table in tables), default=0)
        return "\nunion all\n".join(self._select(place, table, width) for place, table in enumerate(tables))

    def _select(self, place: int, table: CountRequest, width: int) -> str:
        value = f"cast({identifier(self.column)} as varchar)"
        bucket, source = "0", f"{table.relation} as counted"
        if self.bins:
            bucketed = engine_type(self.adapter).bucketed(table.relation, identifier(table.event_time or ""), self.bins)
            bucket, source = "lakehouse_bucket", f"({bucketed}) as counted"
        distinct = [f"count(distinct {identifier(column)})" for column in table.distinct]
        columns = [str(place), bucket, value, newest_sql(table), "count(*)", *distinct, *padding(table, width)]
        values = ", ".join(dict.fromkeys(literal(value) for _, value in self.keys))
        # Names come from the manifest and the contract, and are quoted.
        return (
            f"select {', '.join(columns)} from {source} where {value} in ({values}) "  # noqa: S608
            f"group by {'lakehouse_bucket, ' if self.bins else ''}{value}"
        )

    def read(self, tables: Sequence[CountRequest], answer: Sequence[Sequence[Any]]) -> list[Mapping[str, Counts]]:
        """Return the counts of each table by partition key. Partitions without rows have a count of zero."""
        nothing = [Counts(0, dict.fromkeys(table.distinct, 0)) for table in tables]
        found = [dict.fromkeys(self.keys.values(), nothing[place]) for place in range(len(tables))]
        for place, bucket, value, newest, rows, *distinct in answer:
            window = self.bins.key(int(bucket)) if self.bins else ""
            key = self.keys.get((window, str(value))) if window is not None else None
            if key is not None:
                columns = tables[int(place)].distinct
                values = dict(zip(columns, map(int, distinct[: len(columns)]), strict=True))
                found[int(place)][key] = Counts(int(rows), values, parse_time(newest))
        return [*found]
