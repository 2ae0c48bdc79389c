"""`row_count` and `row_count_drift`: which tables have them. `runner` counts, `results` and `partitioned` judge."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from lakehouse_analytics.checks.registry import Owner, Scope
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.partitions.definitions import partitions_of


class RowCounts:
    """Row count of every table, and drift where the contract has it; of partitioned tables by partition."""

    def specs(self, owner: Owner, scope: Scope) -> Iterator[dg.AssetCheckSpec]:
        """The checks of a table; none of anything else."""
        if not isinstance(owner, Table):
            return
        key, partitions_def, rows = asset_key(owner), partitions_of(owner, scope.grain_partitions), owner.contract.rows
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
