"""Evaluations of checks, each linked to the materialization that it evaluates.

Dagster considers the status of a check current only if its evaluation names the latest materialization of the asset or
partition (`AssetCheckPartitionInfo.is_current`). It adds that name to an `AssetCheckResult`, but not to an
`AssetCheckEvaluation`, which a run of several partitions must use. For each result it also iterates over all checks of
the op, so the time grows with the square of their number. This module turns results into evaluations without that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import dagster as dg

from lakehouse_analytics._dagster_internals import AssetCheckEvaluationTargetMaterializationData, step_of

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
Result = dg.AssetCheckResult | dg.AssetCheckEvaluation
Target = AssetCheckEvaluationTargetMaterializationData


class Evaluations:
    """Converts the check results of one step to the events that Dagster stores."""

    def __init__(self, context: Context) -> None:
        """Initialize the evaluations of a step.

        Args:
            context: The context of the step.
        """
        op = context.op_execution_context
        self._instance, self._step = op.instance, step_of(context)
        self._partition = op.partition_key if op.has_partition_key else None
        self._planned = {spec.key: (output, spec) for output, spec in op.assets_def.check_specs_by_output_name.items()}
        self._targets: dict[dg.AssetKey, dict[str | None, Target | None]] = {}
        self.evaluated: set[dg.AssetCheckKey] = set()

    def refresh(self, key: dg.AssetKey) -> None:
        """Discard the cached materializations of an asset, because it has a new one."""
        self._targets.pop(key, None)

    def events(self, results: Iterable[Result]) -> Iterator[dg.Output[None] | dg.AssetCheckEvaluation]:
        """Yield the events for check results of one asset.

        Call this after the materializations of the asset have been stored. Gates are enforced even if their checks are
        not selected, but Dagster only accepts results of selected checks, so the others are left out.
        """
        keys = [(result, dg.AssetCheckKey(_asset(result), result.check_name or "")) for result in results]
        selected = [(result, check) for result, check in keys if check in self._planned]
        if not selected:
            return
        targets = self._latest_by_partition(
            selected[0][1].asset_key, {self._target_partition(result) for result, _ in selected}
        )
        for result, check in selected:
            output, spec = self._planned[check]
            if check not in self.evaluated:
                self.evaluated.add(check)
                yield dg.Output(None, output_name=output)
            own = result if isinstance(result, dg.AssetCheckEvaluation) else None
            yield dg.AssetCheckEvaluation(
                asset_key=check.asset_key,
                check_name=check.name,
                passed=result.passed,
                metadata=result.metadata,
                target_materialization_data=targets[self._target_partition(result)],
                severity=result.severity,
                description=result.description,
                blocking=own.blocking if own else spec.blocking,
                partition=own.partition if own else self._partition if spec.partitions_def else None,
            )

    def _target_partition(self, result: Result) -> str | None:
        """Return the partition whose materialization a result evaluates, even if its check is not partitioned."""
        partition = result.partition if isinstance(result, dg.AssetCheckEvaluation) else None
        return partition or self._partition

    def _latest_by_partition(self, key: dg.AssetKey, partitions: set[str | None]) -> dict[str | None, Target | None]:
        """Return the latest materialization of each partition. The key None stands for the whole asset."""
        known = self._targets.setdefault(key, {})
        unknown = partitions - known.keys()
        known |= dict.fromkeys(unknown)
        if None in unknown:
            known[None] = self._latest(key)
        missing = sorted(partition for partition in unknown if partition)
        while missing:
            # This run has usually just written all of them, so one query is enough.
            of_partitions = dg.AssetRecordsFilter(asset_key=key, asset_partitions=missing)
            page = self._instance.fetch_materializations(of_partitions, limit=len(missing)).records
            for record in page:
                if known.get(record.partition_key) is None:
                    known[record.partition_key] = _target(record)
            missing = [partition for partition in missing if page and known[partition] is None]
        return known

    def _latest(self, key: dg.AssetKey) -> Target | None:
        """Return the latest materialization of an asset.

        It comes from Dagster's cache of the step's inputs and outputs, which saves a query per asset.
        """
        info = self._step.maybe_fetch_and_get_input_asset_version_info(key)
        if info is None or info.event_type != dg.DagsterEventType.ASSET_MATERIALIZATION:
            return None
        return Target(storage_id=info.storage_id, run_id=info.run_id, timestamp=info.timestamp)


def _asset(result: Result) -> dg.AssetKey:
    return dg.AssetKey.from_coercible(result.asset_key or "")


def _target(record: dg.EventLogRecord) -> Target:
    return Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)
