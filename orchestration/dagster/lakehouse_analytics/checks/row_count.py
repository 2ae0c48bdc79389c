"""The specs of the checks `row_count` and `row_count_drift`. `runner` counts, `results` and `partitioned` evaluate."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from lakehouse_analytics.checks.registry import Owner, Scope
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.partitions.time_and_column import table_partitions


class RowCounts:
    """A row-count check on every table, and a drift check if the contract has one. Partitioned like the table."""

    def specs(self, owner: Owner, scope: Scope) -> Iterator[dg.AssetCheckSpec]:
        """Yield the checks of a table. Sources and externals have none."""
        if not isinstance(owner, Table):
            return
        key, rows = asset_key(owner), owner.contract.rows
        partitions_def = table_partitions(owner, scope.grain_partitions, scope.column_partitions)
        yield dg.AssetCheckSpec(
            ROW_COUNT,
            asset=key,
            description="Rows against meta.lakehouse.rows: not_empty, min, max, max_drop.",
            partitions_def=partitions_def,
            blocking=rows is not None and rows.severity == "error",
        )
        if rows and rows.drift:
            yield dg.AssetCheckSpec(
                DRIFT,
                asset=key,
                description=(
                    "Rows against the partitions before: median and MAD."
                    if owner.grain
                    else "Rows against this check's own history: median and MAD, weekday-aware."
                ),
                partitions_def=partitions_def,
                blocking=rows.drift.severity == "error",
            )


KIND = RowCounts()
