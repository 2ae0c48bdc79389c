"""Converts the graph to Dagster's asset specs: key, group, owners, kinds, tags, freshness and lineage.

There is one helper per attribute. A test compares the result with that of dagster-dbt's own translator.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import dagster as dg

from lakehouse_analytics.contract.arrivals import FileArrival, ReportedArrival, TableArrival
from lakehouse_analytics.contract.models import Grain, LoadFreshness, is_owner
from lakehouse_analytics.dbt.dagster_meta import read_meta
from lakehouse_analytics.dbt.graph import External, Graph, Source, Table
from lakehouse_analytics.dbt.nodes import Exposure, Node
from lakehouse_analytics.keys import EXPORTS_GROUP, asset_key, copy_key
from lakehouse_analytics.partitions.by_column import ColumnPartitions
from lakehouse_analytics.partitions.definitions import GrainPartitions
from lakehouse_analytics.partitions.time_and_column import dependency_mapping, table_partitions

# Code references are in beta. They are only metadata, and a warning per model would hide our own.
warnings.filterwarnings("ignore", message="Class `(LocalFileCodeReference|CodeReferencesMetadataValue)`")

#: Tag with a table's layer, which may differ from its group and from the first part of its key.
LAYER_TAG = "lakehouse/layer"


def table_spec(
    graph: Graph,
    table: Table,
    project_dir: Path,
    timezone: str,
    grain_partitions: Mapping[Grain, GrainPartitions],
    *,
    column_partitions: Mapping[str, ColumnPartitions] | None = None,
) -> dg.AssetSpec:
    """Return the asset spec of a model, seed or snapshot.

    Args:
        graph: The graph of the manifest.
        table: The table.
        project_dir: The folder of the dbt project.
        timezone: The IANA time zone of freshness deadlines.
        grain_partitions: The partitions definition of each grain.
        column_partitions: The partitions definition of each column; None if no table is partitioned by one.
    """
    return dg.AssetSpec(
        key=asset_key(table),
        deps=list({dep.asset_key: dep for dep in _dependencies(graph, table, grain_partitions)}.values()),
        partitions_def=table_partitions(table, grain_partitions, column_partitions or {}),
        description=_description(table.node),
        group_name=table.group,
        owners=_owners(graph, table),
        kinds={"dbt", graph.adapter},
        tags={**_tags(table.node), LAYER_TAG: table.layer},
        metadata=_metadata(graph, table.node, project_dir),
        code_version=table.node.checksum,
        freshness_policy=freshness_policy(table.contract.freshness, timezone),
        automation_condition=_automation(graph, table),
        skippable=True,  # a blocked table is not an additional error
    )


def source_spec(graph: Graph, source: Source, timezone: str = "UTC") -> dg.AssetSpec:
    """Return the spec of a dbt source as an external asset.

    Args:
        graph: The manifest's graph.
        source: The source.
        timezone: The IANA time zone of freshness deadlines.
    """
    airbyte, elsewhere = source.contract.airbyte, source.contract.copied_to
    return dg.AssetSpec(
        key=asset_key(source),
        description=_description(source.node),
        group_name=source.group,
        owners=list(read_meta(source.node)[0].owners),
        kinds={
            "clickhouse" if elsewhere else graph.adapter,
            *(["airbyte"] if airbyte else []),
            *_arrival_kinds(source),
        },
        tags=_tags(source.node),
        freshness_policy=freshness_policy(source.contract.freshness, timezone),
        metadata={
            **_table_metadata(graph, source.node),
            **({"airbyte/connection": airbyte.connection} if airbyte else {}),
            **(_metadata_elsewhere(elsewhere, source) if elsewhere else {}),
        },
    )


def _metadata_elsewhere(arrival: TableArrival, source: Source) -> dict[str, Any]:
    return {"dagster/table_name": arrival.to_table or source.node.table_name, "dagster/storage_kind": "clickhouse"}


def _arrival_kinds(source: Source) -> list[str]:
    """Return what fills a source, as kinds that Dagster shows with an icon."""
    arrival = source.contract.arrives
    if isinstance(arrival, FileArrival):
        return [{"jsonl": "json"}.get(arrival.file_format, arrival.file_format), *(["s3"] * ("s3://" in arrival.files))]
    if isinstance(arrival, TableArrival):
        return ["database"]
    return ["webhook"] if isinstance(arrival, ReportedArrival) else []


def exposure_spec(graph: Graph, unique_id: str, *, copies: bool = True) -> dg.AssetSpec:
    """Return the spec of a dbt exposure as an external asset.

    An exposure is a dashboard, a notebook, or another reader of the lakehouse.

    Args:
        graph: The manifest's graph.
        unique_id: The unique id of the exposure.
        copies: Whether the code location has the copies that are made for the exposure, which are upstream of it.
    """
    exposure = graph.exposures[unique_id]
    meta, _ = read_meta(exposure)
    parents = {asset_key(graph.resource(parent)): None for parent in graph.exposure_parents[unique_id]}
    if copies:
        parents |= {copy_key(copy): None for copy in graph.exposure_copies if copy.exposure is exposure}
    return dg.AssetSpec(
        key=dg.AssetKey(graph.exposure_keys[unique_id]),
        deps=[*parents],
        description=exposure.description or exposure.title or None,
        group_name=meta.group or "exposures",
        owners=_owners_of_exposure(exposure),
        kinds={exposure.type},
        tags=_tags(exposure),
        metadata={
            **({"url": dg.MetadataValue.url(exposure.url)} if exposure.url else {}),
            **({"owner": exposure.owner["name"]} if exposure.owner.get("name") else {}),
            **({"maturity": exposure.maturity} if exposure.maturity else {}),
        },
    )


def export_spec(
    graph: Graph, table: Table, key: dg.AssetKey, kind: str | None, timezone: str, *, exposure: Exposure | None = None
) -> dg.AssetSpec:
    """Return the spec of a copy of a table in another database.

    Args:
        graph: The graph of the manifest.
        table: The table.
        key: The key of the copy.
        kind: Dagster's kind of the other database; None if it is unknown.
        timezone: The IANA time zone of freshness deadlines.
        exposure: The exposure whose contract describes the copy; None if it is that of the table.
    """
    readers = f"exposure {exposure.name}" if exposure else "dashboards"
    return dg.AssetSpec(
        key=key,
        deps=[asset_key(table)],
        description=f"Copy of {'/'.join(table.key)} for {readers}, made after each build whose gates passed.",
        group_name=EXPORTS_GROUP,
        owners=(_owners_of_exposure(exposure) if exposure else []) or _owners(graph, table),
        kinds={kind} if kind else set(),
        tags=_tags(table.node),
        freshness_policy=freshness_policy(table.contract.freshness, timezone),
    )


def _dependencies(
    graph: Graph, table: Table, grain_partitions: Mapping[Grain, GrainPartitions]
) -> Iterator[dg.AssetDep]:
    for parent in table.parents:
        above = graph.resource(parent)
        yield dg.AssetDep(asset_key(above), partition_mapping=dependency_mapping(above, table, grain_partitions))


def _description(node: Node) -> str:
    sql = node.raw_code if node.language == "sql" else None
    text = node.description or f"dbt {node.resource_type} {node.name}"
    return f"{text}\n\n#### Raw SQL:\n```sql\n{sql}\n```" if sql else text


def _owners(graph: Graph, table: Table) -> list[str]:
    if table.contract.owner:
        return [table.contract.owner]
    of_group = graph.group_owners.get(table.node.group or "")
    return list(read_meta(table.node)[0].owners) or [email for email in _to_list(of_group) if is_owner(email)]


def _owners_of_exposure(exposure: Exposure) -> list[str]:
    own = list(read_meta(exposure)[0].owners)
    return own or [email for email in _to_list(exposure.owner.get("email")) if is_owner(email)]


def _to_list(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value] if isinstance(value, list) else []


def _tags(node: Node) -> dict[str, str]:
    return {tag: "" for tag in node.tags if _is_tag(tag)}


def _is_tag(tag: str) -> bool:
    from lakehouse_analytics._dagster_internals import is_valid_tag_key

    return is_valid_tag_key(tag)


def _metadata(graph: Graph, node: Node, project_dir: Path) -> dict[str, Any]:
    path = (project_dir / node.original_file_path).absolute()
    reference = dg.LocalFileCodeReference(file_path=str(path))
    return {
        "dagster_dbt/unique_id": node.unique_id,
        **({"dagster-dbt/materialization_type": m} if (m := node.config.materialized) else {}),
        **_table_metadata(graph, node),
        "dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference]),
    }


def _table_metadata(graph: Graph, node: Node) -> dict[str, Any]:
    columns = [
        dg.TableColumn(
            name=column.name,
            type=column.data_type or "?",
            description=column.description,
            tags=dict.fromkeys(column.tags, ""),
        )
        for column in node.columns
    ]
    return {
        "dagster/table_name": ".".join(part for part in (node.database, node.schema, node.table_name) if part),
        "dagster/storage_kind": graph.adapter,
        **({"dagster/column_schema": dg.TableSchema(columns=columns)} if columns else {}),
    }


def freshness_policy(wanted: LoadFreshness | None, timezone: str) -> dg.FreshnessPolicy | None:
    """Return the policy of a contract; None if it has none.

    Args:
        wanted: The key `freshness` of the contract.
        timezone: The IANA time zone of deadlines.
    """
    if wanted is None:
        return None
    if wanted.cron:
        zone = ZoneInfo(timezone).key
        return dg.FreshnessPolicy.cron(deadline_cron=wanted.cron, lower_bound_delta=wanted.within, timezone=zone)
    return dg.FreshnessPolicy.time_window(fail_window=wanted.within)


def _automation(graph: Graph, table: Table) -> dg.AutomationCondition | None:  # type: ignore[type-arg]
    """Return Dagster's `eager` condition, adapted to gates and to upstream tables that no event reports on.

    A run evaluates the tests of sources itself, and builds nothing downstream of one that fails. So a request need not
    wait for these tests, and could not, because a new sync makes their last results outdated. The gates of a table that
    a run builds are only evaluated by that run, so a request waits for them.
    """
    if table.contract.automation != "eager":
        return None
    built = [parent for u in table.parents if (parent := graph.tables.get(u))]
    silent = [graph.unbuilt[u] for u in table.parents if u in graph.unbuilt and not _is_synced(graph.unbuilt[u])]
    missing = dg.AutomationCondition.any_deps_missing()
    condition: Any = dg.AutomationCondition.eager()
    if silent:
        condition = condition.replace("any_deps_missing", missing.ignore(_selection(silent)))
    # A check has no result for partitions that were last built before the check existed.
    many = [p for p in built if not p.is_whole and p.contract.partition != table.contract.partition]
    if one := [parent for parent in built if parent not in many]:
        condition &= dg.AutomationCondition.all_deps_blocking_checks_passed().allow(_selection(one))
    if many:
        failed = dg.AutomationCondition.check_failed() & ~dg.AutomationCondition.will_be_requested()
        gates = dg.AutomationCondition.any_checks_match(failed, blocking_only=True)
        condition &= ~dg.AutomationCondition.any_deps_match(gates).allow(_selection(many))
    return cast("dg.AutomationCondition[Any]", condition)


def _is_synced(above: Source | External) -> bool:
    """Return whether every update of the asset is reported."""
    return isinstance(above, Source) and (above.contract.airbyte or above.contract.arrives) is not None


def _selection(owners: Iterable[Table | Source | External]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(asset_key(owner) for owner in owners))
