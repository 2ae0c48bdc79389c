"""Runs of a source that is loaded from files: what they load, and the events that they report."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from lakehouse_analytics.arrivals.files.earlier_attempts import loaded_since
from lakehouse_analytics.arrivals.files.load import FileLoader, Statistics
from lakehouse_analytics.arrivals.files.staging import FileReport, PartitionOfFiles
from lakehouse_analytics.arrivals.files.storage import storage_of
from lakehouse_analytics.arrivals.files.tables import tables_of
from lakehouse_analytics.arrivals.raw_tables.base import COUNT
from lakehouse_analytics.assets.load_row_counts import row_count_checks, row_count_specs
from lakehouse_analytics.common.names import counted, some
from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.keys import UNREADABLE_FILES, asset_key, has_broken_row_count
from lakehouse_analytics.partitions.arrivals import (
    days_and_values,
    exists,
    partition_key,
    source_partitions,
    values_name,
)
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.events import timestamps

#: Names of the checks of a source that is loaded from files.
ARRIVED, QUARANTINED = "arrived", "quarantined_rows"
#: Reasons of bad rows that a check lists.
_REASONS = 5

Event = dg.MaterializeResult[None] | dg.AssetMaterialization | dg.AssetCheckResult


@dataclass(frozen=True)
class FileLoad:
    """The loads of one source.

    Attributes:
        source: The source.
        arrival: Its contract.
        settings: The settings.
    """

    source: Source
    arrival: FileArrival
    settings: Settings

    @property
    def key(self) -> dg.AssetKey:
        """The asset key of the source."""
        return asset_key(self.source)

    def check_specs(self) -> list[dg.AssetCheckSpec]:
        """Return the checks of the source."""
        return [
            dg.AssetCheckSpec(
                ARRIVED, asset=self.key, description="The load found files; in a run for dates, one for each date."
            ),
            dg.AssetCheckSpec(
                QUARANTINED,
                asset=self.key,
                description="No row and no file of the load was bad. Bad rows are in the table "
                f"{self.source.node.table_name}__quarantine, with the reason.",
            ),
            *row_count_specs(self.source),
        ]

    def events(self, context: dg.AssetExecutionContext, *, reload: bool, accept: bool = False) -> Iterator[Event]:
        """Load files, and yield what Dagster records.

        A run without partitions loads the files that were not loaded before; a run for partitions replaces these.

        Args:
            context: The context of the op.
            reload: Whether a run without partitions loads all files again.
            accept: Whether the row count becomes the new level of the row-count rules.

        Raises:
            ArrivalError: The files cannot be loaded.
        """
        loader = FileLoader(
            self.arrival,
            storage_of(self.arrival, self.settings.dbt_project_dir),
            tables_of(self.settings, relation_of(self.source.node)),
            log=context.log.info,
        )
        report = FileReport()
        found_lost_batch = yield from self._load(context, loader, report, reload=reload)
        rows = report.total
        if rows is None and (accept or found_lost_batch):
            rows = next((number for (number,) in loader.tables.rows.query(COUNT)), None)
        if rows is not None:
            yield from row_count_checks(self.source, rows, context.instance, self.settings, accepted=accept)

    def _load(
        self, context: dg.AssetExecutionContext, loader: FileLoader, report: FileReport, *, reload: bool
    ) -> Generator[Event, None, bool]:
        """Load files, add what was done to the report, and yield the events but those of row counts.

        Returns:
            Whether an earlier load failed after its commit, so that its rows may not have been counted.
        """
        started = datetime.now(UTC)
        if context.has_partition_key or context.has_partition_key_range:
            wanted = days_and_values(self.source, context.partition_keys)
            report.add(loader.reload([*wanted], wanted if self.arrival.split_by else None))
            self._add_values(context, report)
            missing = [day.isoformat() for day in wanted if day not in report.days]
            yield dg.MaterializeResult(self.key, metadata=self._metadata(report, started))
            yield from self._checks(report, missing)
            return False
        lost = self._lost_batch(context, loader)
        if lost is not None:
            report.partitions.update(dict.fromkeys(lost, 0))
            yield from self._batch(context, loader, report, started)
        if lost is not None and context.retry_number and not reload:
            report.add(_of_earlier_attempts(context, loader))
        for batch in [loader.reload()] if reload else loader.load_new(context.run.run_id):
            yield from self._batch(context, loader, batch, started)
            report.add(batch)
        if report.unreadable:
            context.instance.add_run_tags(context.run.run_id, {UNREADABLE_FILES: str(len(report.unreadable))})
        if not report.found_something:
            context.log.info("No file is new.")
        if self._partitions is None and (report.total is not None or lost is not None):
            yield dg.MaterializeResult(self.key, metadata=self._metadata(report, started))
        if report.found_something:
            yield from self._checks(report, [])
        return lost is not None

    @property
    def _partitions(self) -> dg.PartitionsDefinition[str] | None:
        return source_partitions(self.source, self.settings.timezone)

    def _lost_batch(self, context: dg.AssetExecutionContext, loader: FileLoader) -> list[PartitionOfFiles] | None:
        """Return the partitions of the last batch if the run that loaded it has died: Dagster may not know of them.

        So may an earlier attempt of this run have failed after its commit. None if neither is the case.
        """
        run_id, partitions = loader.last_batch()
        if run_id == context.run.run_id and context.retry_number:
            return partitions
        run = context.instance.get_run_by_id(run_id) if run_id and run_id != context.run.run_id else None
        if run is None or run.status == dg.DagsterRunStatus.SUCCESS or has_broken_row_count(run):
            return None
        return partitions

    def _batch(
        self, context: dg.AssetExecutionContext, loader: FileLoader, report: FileReport, started: datetime
    ) -> Iterator[Event]:
        """Yield the materializations of the partitions of one batch."""
        self._add_values(context, report)
        if self._partitions is not None:
            yield from self._materializations(context, loader, report, started)

    def _materializations(
        self, context: dg.AssetExecutionContext, loader: FileLoader, report: FileReport, started: datetime
    ) -> Iterator[Event]:
        """Yield a materialization per loaded partition."""
        partitions = self._partitions
        assert partitions is not None  # noqa: S101
        # What is not about the partition itself is left out, so that Dagster's plots compare partitions.
        about = timestamps(started, datetime.now(UTC))
        # A late file adds to the rows of a partition.
        found = loader.partition_statistics([*{day for day, _ in report.partitions}])
        for (day, value), rows in sorted(report.partitions.items()):
            key = partition_key(self.source, day, value)
            if not exists(partitions, key, context.instance):
                context.log.warning(
                    f"{counted(rows, 'row')} of {day} are loaded, but there is no such partition: the first is "
                    f"{self.arrival.begin} (`begin`), the last tomorrow."
                )
                continue
            statistics = found.get((day, value), Statistics(rows))
            yield dg.AssetMaterialization(
                self.key,
                partition=key,
                metadata={
                    "dagster/partition_row_count": statistics.rows,
                    **({"dagster/row_count": report.total} if report.total is not None else {}),
                    "rows_loaded": rows,
                    **{f"mean_{name}": mean for name, mean in statistics.means.items() if mean is not None},
                    **about,
                },
            )

    def _add_values(self, context: dg.AssetExecutionContext, report: FileReport) -> None:
        """Store the values of `split_by` as partitions."""
        if self.arrival.split_by and (values := sorted({value for _, value in report.partitions})):
            context.instance.add_dynamic_partitions(values_name(self.source), values)

    def _metadata(self, report: FileReport, started: datetime) -> dict[str, Any]:
        return {
            **({"dagster/row_count": report.total} if report.total is not None else {}),
            "files": report.files,
            "rows_loaded": report.rows,
            "bad_rows": report.bad_rows,
            "bytes_read": report.bytes,
            **timestamps(started, datetime.now(UTC)),
        }

    def _checks(self, report: FileReport, missing: Sequence[str]) -> Iterator[dg.AssetCheckResult]:
        yield dg.AssetCheckResult(
            asset_key=self.key,
            check_name=ARRIVED,
            passed=not missing,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"No file for {some(missing)}." if missing else f"{counted(report.files, 'file')} loaded.",
            metadata={"files": report.files, "rows": report.rows},
        )
        reasons = [f"{reason} ({counted(rows, 'row')})" for reason, rows in report.reasons.most_common(_REASONS)]
        files = [f"{path}: {reason}" for path, reason in report.bad_files.items()]
        yield dg.AssetCheckResult(
            asset_key=self.key,
            check_name=QUARANTINED,
            passed=not report.bad_rows and not files,
            severity=dg.AssetCheckSeverity.WARN,
            description=some([*files, *reasons], between="\n") or "All rows were loaded.",
            metadata={"bad_rows": report.bad_rows, "bad_files": len(files)},
        )


def _of_earlier_attempts(context: dg.AssetExecutionContext, loader: FileLoader) -> FileReport:
    """Return what the attempts of this run have loaded before they failed, whose checks were not evaluated."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    if record is None or record.start_time is None:
        return FileReport()
    return loaded_since(loader.tables, datetime.fromtimestamp(record.start_time, UTC))
