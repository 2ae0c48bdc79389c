"""Which materialization an evaluation of a partitioned check is about.

Dagster takes the status of such a check for current only where its evaluation names the partition's latest
materialization (`AssetCheckPartitionInfo.is_current`). It adds the name to an `AssetCheckResult`, and not to an
`AssetCheckEvaluation`, which a run of several partitions must use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

Result = dg.AssetCheckResult | dg.AssetCheckEvaluation


def with_targets(instance: dg.DagsterInstance, key: dg.AssetKey, results: Sequence[Result]) -> Iterator[Result]:
    """The results of one asset's checks, those of partitions with the materializations that they are about.

    Args:
        instance: Where the materializations are stored already.
        key: The asset.
        results: In order.
    """
    partitions = {result.partition for result in results if isinstance(result, dg.AssetCheckEvaluation)} - {None}
    targets = _latest(instance, key, [partition for partition in partitions if partition]) if partitions else {}
    for result in results:
        target = targets.get(result.partition or "") if isinstance(result, dg.AssetCheckEvaluation) else None
        if target is None or not isinstance(result, dg.AssetCheckEvaluation):
            yield result
        else:
            yield dg.AssetCheckEvaluation(
                asset_key=result.asset_key,
                check_name=result.check_name,
                passed=result.passed,
                metadata=result.metadata,
                target_materialization_data=target,
                severity=result.severity,
                description=result.description,
                blocking=result.blocking,
                partition=result.partition,
            )


def _latest(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Collection[str]
) -> dict[str, AssetCheckEvaluationTargetMaterializationData]:
    found: dict[str, AssetCheckEvaluationTargetMaterializationData] = {}
    wanted = sorted(partitions)
    while wanted:
        # As a rule this run has just written them all, so that one query is enough.
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=wanted), limit=len(wanted)
        ).records
        for record in page:
            target = AssetCheckEvaluationTargetMaterializationData(
                storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
            )
            found.setdefault(record.partition_key or "", target)
        if not page:
            break
        wanted = [partition for partition in wanted if partition not in found]
    return found
