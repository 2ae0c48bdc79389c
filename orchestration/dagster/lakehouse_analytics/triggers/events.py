"""A finished sync in Dagster's history: one materialization for each source asset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from lakehouse_analytics.common.names import key_part
from lakehouse_analytics.dbt.dagster_meta import read_meta
from lakehouse_analytics.triggers.airbyte.events import STARTED

if TYPE_CHECKING:
    from lakehouse_analytics.ingest import IngestReport

Key = tuple[str, ...]


def record(instance: dg.DagsterInstance, report: IngestReport, sources: Iterable[Mapping[str, Any]] = ()) -> None:
    """Report each stream of a sync that `lakehouse ingest` ran.

    Args:
        instance: Where to.
        report: What the sync did.
        sources: Source nodes of the dbt manifest. Without them, as before the first manifest, the keys are
            `[source, table]`.
    """
    nodes = [*sources]
    started = {STARTED: dg.MetadataValue.timestamp(report.started)} if report.started else {}
    for stream in report.streams:
        for key in keys_of(report.source, stream.table, nodes):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    asset_key=[*key],
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


def keys_of(source: str, table: str, nodes: Iterable[Mapping[str, Any]]) -> list[Key]:
    """The asset keys of the dbt sources that name a table which `lakehouse ingest` wrote, as the graph has them.

    These are the tables of that name in the source, and those of other sources that are the same relation.
    """
    nodes = [*nodes]
    named = [node for node in nodes if node["source_name"] == source and _table(node).lower() == table.lower()]
    relations = {_relation(node) for node in named}
    keys = {_key(node): None for node in nodes if _relation(node) in relations}
    return [*keys] or [(key_part(source), key_part(table))]


def _table(node: Mapping[str, Any]) -> str:
    return str(node.get("identifier") or node["name"])


def _relation(node: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(part).lower() for part in (node.get("database"), node.get("schema"), _table(node)))


def _key(node: Mapping[str, Any]) -> Key:
    return read_meta(node)[0].asset_key or (key_part(node["source_name"]), key_part(node["name"]))
