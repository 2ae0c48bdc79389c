"""Graph → Dagster specs: key, group, owner, kinds, tags, freshness, lineage.

One helper per attribute. A test compares the result with dagster-dbt's own translator.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import dagster as dg

from lakehouse_analytics.contract.models import Grain, is_owner
from lakehouse_analytics.dbt.dagster_meta import read_meta
from lakehouse_analytics.dbt.graph import External, Graph, Source, Table
from lakehouse_analytics.dbt.nodes import Node
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.partitions.definitions import GrainPartitions, partition_mapping, partitions_of

# Code references are marked beta; they are metadata, and a warning a model drowns our own.
warnings.filterwarnings("ignore", message="Class `(LocalFileCodeReference|CodeReferencesMetadataValue)`")

#: Tag that holds a table's layer, which its group and its key need not show.
LAYER_TAG = "lakehouse/layer"


def table_spec(
    graph: Graph, table: Table, project_dir: Path, timezone: str, grain_partitions: Mapping[Grain, GrainPartitions]
) -> dg.AssetSpec:
    """The asset of a model, seed or snapshot."""
    return dg.AssetSpec(
        key=asset_key(table),
        deps=list({dep.asset_key: dep for dep in _dependencies(graph, table)}.values()),
        partitions_def=partitions_of(table, grain_partitions),
        description=_description(table.node),
        group_name=table.group,
        owners=_owners(graph, table),
        kinds={"dbt", graph.adapter},
        tags={**_tags(table.node), LAYER_TAG: table.layer},
        metadata=_metadata(graph, table.node, project_dir),
        code_version=table.node.checksum,
        freshness_policy=_freshness(table, timezone),
        automation_condition=_automation(graph, table),
        skippable=True,  # a blocked table is not an error of its own
    )


def source_spec(graph: Graph, source: Source) -> dg.AssetSpec:
    """The external asset of a dbt source."""
    airbyte = source.contract.airbyte
    return dg.AssetSpec(
        key=asset_key(source),
        description=_description(source.node),
        group_name=source.group,
        owners=list(read_meta(source.node)[0].owners),
        kinds={graph.adapter, *(["airbyte"] if airbyte else [])},
        tags=_tags(source.node),
        metadata={
            **_table_metadata(graph, source.node),
            **({"airbyte/connection": airbyte.connection} if airbyte else {}),
        },
    )


def exposure_spec(graph: Graph, unique_id: str) -> dg.AssetSpec:
    """The external asset of a dbt exposure: a dashboard, a notebook, or another reader of the lakehouse."""
    exposure = graph.exposures[unique_id]
    meta, _ = read_meta(exposure)
    parents = {asset_key(graph.known(parent)): None for parent in graph.exposure_parents[unique_id]}
    return dg.AssetSpec(
        key=dg.AssetKey(graph.exposure_keys[unique_id]),
        deps=[*parents],
        description=exposure.description or exposure.title or None,
        group_name=meta.group or "exposures",
        owners=list(meta.owners) or [email for email in _listed(exposure.owner.get("email")) if is_owner(email)],
        kinds={exposure.type},
        tags=_tags(exposure),
        metadata={
            **({"url": dg.MetadataValue.url(exposure.url)} if exposure.url else {}),
            **({"owner": exposure.owner["name"]} if exposure.owner.get("name") else {}),
            **({"maturity": exposure.maturity} if exposure.maturity else {}),
        },
    )


def _dependencies(graph: Graph, table: Table) -> Iterator[dg.AssetDep]:
    for parent in table.parents:
        above = graph.known(parent)
        grain = above.grain if isinstance(above, Table) else None
        yield dg.AssetDep(asset_key(above), partition_mapping=partition_mapping(grain, table.grain))


def _description(node: Node) -> str:
    sql = node.raw_code if node.language == "sql" else None
    text = node.description or f"dbt {node.resource_type} {node.name}"
    return f"{text}\n\n#### Raw SQL:\n```sql\n{sql}\n```" if sql else text


def _owners(graph: Graph, table: Table) -> list[str]:
    if table.contract.owner:
        return [table.contract.owner]
    of_group = graph.group_owners.get(table.node.group or "")
    return list(read_meta(table.node)[0].owners) or [email for email in _listed(of_group) if is_owner(email)]


def _listed(value: object) -> list[str]:
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


def _freshness(table: Table, timezone: str) -> dg.FreshnessPolicy | None:
    wanted = table.contract.freshness
    if wanted is None:
        return None
    if wanted.cron:
        zone = ZoneInfo(timezone).key
        return dg.FreshnessPolicy.cron(deadline_cron=wanted.cron, lower_bound_delta=wanted.within, timezone=zone)
    return dg.FreshnessPolicy.time_window(fail_window=wanted.within)


def _automation(graph: Graph, table: Table) -> dg.AutomationCondition | None:  # type: ignore[type-arg]
    """Dagster's `eager`, which waits for the gates of the tables above and not for what no event ever reports.

    A run evaluates the tests of sources itself, and builds nothing below one that fails: a request need not wait for
    them, and could not, because a new sync makes their last results outdated. The gates of a built table are evaluated
    only by the run that builds it.
    """
    if table.contract.automation != "eager":
        return None
    built = [parent for u in table.parents if (parent := graph.tables.get(u))]
    silent = [graph.unbuilt[u] for u in table.parents if u in graph.unbuilt and not _is_synced(graph.unbuilt[u])]
    missing = dg.AutomationCondition.any_deps_missing()
    condition: Any = dg.AutomationCondition.eager()
    if silent:
        condition = condition.replace("any_deps_missing", missing.ignore(_selection(silent)))
    # Of all windows of a table, only those that were built since the checks exist have a result.
    many = [parent for parent in built if parent.grain and parent.grain != table.grain]
    if one := [parent for parent in built if parent not in many]:
        condition &= dg.AutomationCondition.all_deps_blocking_checks_passed().allow(_selection(one))
    if many:
        failed = dg.AutomationCondition.check_failed() & ~dg.AutomationCondition.will_be_requested()
        gates = dg.AutomationCondition.any_checks_match(failed, blocking_only=True)
        condition &= ~dg.AutomationCondition.any_deps_match(gates).allow(_selection(many))
    return cast("dg.AutomationCondition[Any]", condition)


def _is_synced(above: Source | External) -> bool:
    """Whether a sync reports each update of it."""
    return isinstance(above, Source) and above.contract.airbyte is not None


def _selection(owners: Iterable[Table | Source | External]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(asset_key(owner) for owner in owners))
