"""Events of source assets. Every materialization and check evaluation of a source is created here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from lakehouse_analytics.common.names import key_part
from lakehouse_analytics.dbt.dagster_meta import read_meta
from lakehouse_analytics.dbt.nodes import Node

if TYPE_CHECKING:
    from lakehouse_analytics.ingest import IngestReport
    from lakehouse_analytics.triggers.base import Load

#: Metadata: start and end of a load, by the clock of the loading system.
STARTED, ENDED = "started", "ended"
#: Metadata of a job that empties the tables, such as a clear. Loads before it do not count.
EMPTIED = "airbyte/emptied"
#: The check whose evaluations record what a job did to a source, including that it emptied the table.
SYNC_CHECK = "airbyte_sync"
#: The tag that Dagster reads an asset's data version from.
DATA_VERSION = "dagster/data_version"

Key = tuple[str, ...]


def source_materialization(
    key: dg.AssetKey, *, description: str, metadata: Mapping[str, Any], version: str | None = None
) -> dg.AssetMaterialization:
    """Return the materialization for a load of a source table.

    Args:
        key: The source.
        description: One line.
        metadata: Metadata of the load. Partitions that wait for the source compare `STARTED`.
        version: Data version: text that no other load of the table has.
    """
    tags = {DATA_VERSION: version} if version else None
    return dg.AssetMaterialization(key, description=description, metadata=dict(metadata), tags=tags)


def source_evaluation(fields: Mapping[str, Any]) -> dg.AssetCheckEvaluation:
    """Return an evaluation of a check of a source, with the fields of `dg.AssetCheckEvaluation`."""
    return dg.AssetCheckEvaluation(**fields)


def timestamps(started: datetime | None, ended: datetime | None = None) -> dict[str, dg.TimestampMetadataValue]:
    """Return metadata with the start and the end of a load, as far as they are known."""
    moments = {STARTED: started, ENDED: ended}
    return {name: dg.MetadataValue.timestamp(moment) for name, moment in moments.items() if moment}


def load_materialization(load: Load, key: Key) -> dg.AssetMaterialization:
    """Return the materialization of one table of a load."""
    metadata = {**load.metadata, **timestamps(load.started, load.ended)}
    return source_materialization(dg.AssetKey(key), description=load.description, metadata=metadata, version=load.id)


def load_ids(event: dg.AssetMaterialization | dg.AssetCheckEvaluation) -> Sequence[tuple[Any, ...]]:
    """Return the ids that distinguish the event of one `Load` from those of others; see `event_log.EventIds`."""
    tags = event.tags if isinstance(event, dg.AssetMaterialization) else None
    return [(type(event), event.asset_key, (tags or {}).get(DATA_VERSION))]


def metadata_value(event: dg.AssetMaterialization | dg.AssetCheckEvaluation, name: str) -> Any:
    """Return the value of a metadata entry of an event; None if it has no such entry."""
    found = event.metadata.get(name)
    return found.value if found else None


def record(instance: dg.DagsterInstance, report: IngestReport, sources: Iterable[Node] = ()) -> None:
    """Report a materialization for each stream that `lakehouse ingest` synced.

    Args:
        instance: Dagster's instance.
        report: The report of the sync.
        sources: Source nodes of the dbt manifest. Without them, as before the first manifest, the keys are `[source,
            table]`.
    """
    nodes = [*sources]
    for stream in report.streams:
        for key in keys_of(report.source, stream.table, nodes):
            instance.report_runless_asset_event(
                source_materialization(
                    dg.AssetKey(key),
                    description=f"{report.connector} {report.version}: {stream.mode} sync",
                    metadata={
                        "dagster/row_count": stream.rows_total,
                        "rows_read": stream.rows_read,
                        "bytes_read": stream.bytes_read,
                        **timestamps(report.started),
                        "runtime_seconds": round(stream.seconds, 3),
                        "mode": stream.mode,
                        "generation_id": stream.generation_id,
                    },
                )
            )


def keys_of(source: str, table: str, nodes: Iterable[Node]) -> list[Key]:
    """Return the asset keys of a table that `lakehouse ingest` wrote.

    These are the keys of the source's tables with that name, and of tables of other sources that are the same relation.

    Args:
        source: Name of the dbt source.
        table: Name of the table in the database.
        nodes: Source nodes of the dbt manifest.
    """
    nodes = [*nodes]
    named = [node for node in nodes if node.source_name == source and node.table_name.lower() == table.lower()]
    relations = {_relation(node) for node in named}
    keys = {_key(node): None for node in nodes if _relation(node) in relations}
    return [*keys] or [(key_part(source), key_part(table))]


def _relation(node: Node) -> tuple[str, ...]:
    return tuple(str(part).lower() for part in (node.database, node.schema, node.table_name))


def _key(node: Node) -> Key:
    return read_meta(node)[0].asset_key or (key_part(node.source_name), key_part(node.name))
