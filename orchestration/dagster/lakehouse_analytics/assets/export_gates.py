"""Whether the gates of a table allow its export: the results of its blocking checks, as Dagster has stored them.

A build enforces gates inside its op and stores their results, so an export reads them from the instance. It thereby
also knows them in a later run, or if only some partitions were built.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import dagster as dg

from lakehouse_analytics._dagster_internals import (
    AssetCheckExecutionRecordStatus,
    AssetCheckPartitionInfo,
    PartitionKeyFilter,
)
from lakehouse_analytics.checks.registry import EvaluationPoint, Scope, specs
from lakehouse_analytics.dbt.graph import Graph, Table


def gates_of(graph: Graph, table: Table) -> list[dg.AssetCheckKey]:
    """Return the blocking checks of a table that a build evaluates."""
    evaluated = EvaluationPoint.IN_DBT, EvaluationPoint.WITH_TABLES
    # Whether a check is partitioned makes no difference here.
    return [spec.key for spec in specs(Scope(graph, {}), [_unpartitioned(table)], *evaluated) if spec.blocking]


def _unpartitioned(table: Table) -> Table:
    return replace(table, contract=table.contract.model_copy(update={"partition": None}))


def closed_gates(instance: dg.DagsterInstance, gates: Collection[dg.AssetCheckKey]) -> list[str]:
    """Return a line per gate that does not allow the export of its table.

    A check that no run has planned yet, because it or its table is new, allows the export.

    Args:
        instance: The Dagster instance.
        gates: The blocking checks of the table.
    """
    infos = instance.event_log_storage.get_asset_check_partition_info([*gates]) if gates else ()
    return sorted(line for info in infos for line in _reasons(instance, info))


def _reasons(instance: dg.DagsterInstance, info: AssetCheckPartitionInfo) -> Iterator[str]:
    status, kinds = info.latest_execution_status, AssetCheckExecutionRecordStatus
    name = info.check_key.to_user_string() + (f" of {info.partition_key}" if info.partition_key else "")
    if status == kinds.PLANNED:
        yield f"{name} was planned by run {info.latest_planned_run_id[:8]}, and has not been evaluated"
    elif status == kinds.FAILED and not _is_warning(instance, info):
        yield f"{name} failed"
    elif not info.is_current:
        yield f"{name} has not been evaluated since the table was built"


def _is_warning(instance: dg.DagsterInstance, info: AssetCheckPartitionInfo) -> bool:
    of_partition = PartitionKeyFilter(key=info.partition_key)
    records = instance.event_log_storage.get_asset_check_execution_history(
        info.check_key, limit=1, partition_filter=of_partition
    )
    evaluations = [record.evaluation for record in records if record.evaluation]
    return bool(evaluations) and evaluations[0].severity == dg.AssetCheckSeverity.WARN
