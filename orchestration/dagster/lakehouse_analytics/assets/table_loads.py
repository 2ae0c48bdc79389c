"""Runs of a source that is copied from a table of a database, and the events that they report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from lakehouse_analytics.arrivals.connections import connection
from lakehouse_analytics.arrivals.databases.sync import SCHEMES, SyncReport, sync_table
from lakehouse_analytics.arrivals.raw_tables.base import RawTable
from lakehouse_analytics.arrivals.raw_tables.registry import clickhouse_table, raw_table
from lakehouse_analytics.assets.file_loads import ARRIVED
from lakehouse_analytics.assets.load_row_counts import row_count_checks, row_count_specs
from lakehouse_analytics.common.names import counted, some
from lakehouse_analytics.common.scratch import ARRIVALS, scratch_folder
from lakehouse_analytics.contract.arrivals import TableArrival
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.events import timestamps

Event = dg.MaterializeResult[None] | dg.AssetMaterialization | dg.AssetCheckResult


@dataclass(frozen=True)
class TableLoad:
    """The syncs of one source.

    Attributes:
        source: The source.
        arrival: Its contract.
        settings: The settings.
    """

    source: Source
    arrival: TableArrival
    settings: Settings

    @property
    def key(self) -> dg.AssetKey:
        """The asset key of the source."""
        return asset_key(self.source)

    def _raw(self) -> RawTable:
        if self.arrival.to:
            return clickhouse_table(self.arrival, "/".join(self.source.key), self.source.node.table_name)
        return raw_table(self.settings, relation_of(self.source.node))

    def check_specs(self) -> list[dg.AssetCheckSpec]:
        """Return the checks of the source."""
        what = "The sync changed nothing that the models below may miss: no column was omitted, and no value lost."
        return [dg.AssetCheckSpec(ARRIVED, asset=self.key, description=what), *row_count_specs(self.source)]

    def events(self, context: dg.AssetExecutionContext, *, reload: bool, accept: bool = False) -> Iterator[Event]:
        """Copy the table, and yield what Dagster records.

        Args:
            context: The context of the op.
            reload: Whether all rows are read, and the table is replaced.
            accept: Whether the row count becomes the new level of the row-count rules.

        Raises:
            ArrivalError: The table cannot be copied. The raw table is unchanged.
        """
        started = datetime.now(UTC)
        with scratch_folder(ARRIVALS) as folder:
            report = sync_table(
                self.arrival,
                self._raw(),
                connection(self.arrival.database, SCHEMES),
                folder / "sync",
                table=self.source.node.table_name,
                full_refresh=reload,
                timeout=timedelta(seconds=self.settings.max_runtime),
            )
        context.log.info(summary(report))
        yield dg.MaterializeResult(
            self.key,
            metadata={
                "dagster/row_count": report.rows,
                "mode": report.mode,
                **({"why_full": report.reason} if report.reason else {}),
                "rows_read": report.rows_read,
                "rows_inserted": report.inserted,
                "rows_deleted": report.deleted,
                "bytes_read": report.bytes,
                "runtime_seconds": round(report.seconds, 3),
                **({"update_key_from": report.start} if report.start else {}),
                **({"update_key_to": report.highest} if report.highest else {}),
                **timestamps(started, datetime.now(UTC)),
            },
        )
        yield dg.AssetCheckResult(
            asset_key=self.key,
            check_name=ARRIVED,
            passed=not report.warnings,
            severity=dg.AssetCheckSeverity.WARN,
            description=some([*report.warnings], between="\n") or summary(report),
            metadata={"new_columns": ", ".join(report.new_columns)} if report.new_columns else {},
        )
        yield from row_count_checks(self.source, report.rows, context.instance, self.settings, accepted=accept)


def summary(report: SyncReport) -> str:
    """Return one line about a sync."""
    why = f" ({report.reason})" if report.reason else ""
    since = f" since {report.start}" if report.start else ""
    return (
        f"{report.table}: {report.mode} sync{why}, {counted(report.rows_read, 'row')} read{since}, "
        f"{counted(report.rows, 'row')} in the table."
    )
