"""A finished sync in Dagster's history: one materialisation for each source asset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from lakehouse_analytics.sync_events import STARTED

if TYPE_CHECKING:
    from lakehouse_analytics.ingest import IngestReport


def record(instance: dg.DagsterInstance, report: IngestReport) -> None:
    """Report each stream of a sync that `lakehouse ingest` ran."""
    started = {STARTED: dg.MetadataValue.timestamp(report.started)} if report.started else {}
    for stream in report.streams:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                asset_key=[report.source, stream.table],
                description=f"{report.connector} {report.version}: {stream.mode} sync",
                metadata={
                    "dagster/row_count": stream.rows_total,
                    "rows_read": stream.rows_read,
                    "bytes_read": stream.bytes_read,
                    **started,
                    "runtime_seconds": round(stream.seconds, 3),
                    "mode": stream.mode,
                    "generation_id": stream.generation_id,
                },
            )
        )
