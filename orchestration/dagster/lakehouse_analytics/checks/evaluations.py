"""Evaluations of checks, each with the materialization that it is about.

Dagster takes the status of a check for current only where its evaluation names the latest materialization of its asset
or partition (`AssetCheckPartitionInfo.is_current`). It adds the name to an `AssetCheckResult`, but not to an
`AssetCheckEvaluation`, which a run of several partitions must use. For a result it also goes through all checks of the
op, so that the time grows with the square of their number. Here results become evaluations without that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import dagster as dg

from lakehouse_analytics._dagster_internals import AssetCheckEvaluationTargetMaterializationData, step_of

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
Result = dg.AssetCheckResult | dg.AssetCheckEvaluation
Target = AssetCheckEvaluationTargetMaterializationData


class Evaluations:
    """Turns the results of one step's checks into what Dagster stores."""

    def __init__(self, context: Context) -> None:
        """
        Args:
            context: The step's.
        """
        op = context.op_execution_context
        self._instance, self._step = op.instance, step_of(context)
        self._partition = op.partition_key if op.has_partition_key else None
        self._planned = {spec.key: (output, spec) for output, spec in op.assets_def.check_specs_by_output_name.items()}
        self._targets: dict[dg.AssetKey, dict[str | None, Target | None]] = {}
        self.evaluated: set[dg.AssetCheckKey] = set()

    def forget(self, key: dg.AssetKey) -> None:
        """Look up the materializations of an asset again, because it has a new one."""
        self._targets.pop(key, None)

    def events(self, results: Iterable[Result]) -> Iterator[dg.Output[None] | dg.AssetCheckEvaluation]:
        """What to yield for results of checks of one asset, once its materializations are stored.

        Gates hold whether or not their checks are selected; Dagster takes results of selected ones only.
        """
        keys = [(result, dg.AssetCheckKey(_asset(result), result.check_name or "")) for result in results]
        selected = [(result, check) for result, check in keys if check in self._planned]
        if not selected:
            return
        targets = self._find(selected[0][1].asset_key, {self._about(result) for result, _ in selected})
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
                target_materialization_data=targets[self._about(result)],
                severity=result.severity,
                description=result.description,
                blocking=own.blocking if own else spec.blocking,
                partition=own.partition if own else self._partition if spec.partitions_def else None,
            )

    def _about(self, result: Result) -> str | None:
        """The partition whose materialization a result is about, also where its check is not partitioned."""
        partition = result.partition if isinstance(result, dg.AssetCheckEvaluation) else None
        return partition or self._partition

    def _find(self, key: dg.AssetKey, partitions: set[str | None]) -> dict[str | None, Target | None]:
        """The latest materialization of each partition, and with None, of the asset."""
        known = self._targets.setdefault(key, {})
        unknown = partitions - known.keys()
        known |= dict.fromkeys(unknown)
        if None in unknown:
            known[None] = self._latest(key)
        missing = sorted(partition for partition in unknown if partition)
        while missing:
            # As a rule this run has just written them all, so that one query is enough.
            of_partitions = dg.AssetRecordsFilter(asset_key=key, asset_partitions=missing)
            page = self._instance.fetch_materializations(of_partitions, limit=len(missing)).records
            for record in page:
                if known.get(record.partition_key) is None:
                    known[record.partition_key] = _target(record)
            missing = [partition for partition in missing if page and known[partition] is None]
        return known

    def _latest(self, key: dg.AssetKey) -> Target | None:
        """From Dagster's own cache of a step's inputs and outputs, which saves a query per asset."""
        info = self._step.maybe_fetch_and_get_input_asset_version_info(key)
        if info is None or info.event_type != dg.DagsterEventType.ASSET_MATERIALIZATION:
            return None
        return Target(storage_id=info.storage_id, run_id=info.run_id, timestamp=info.timestamp)


def _asset(result: Result) -> dg.AssetKey:
    return dg.AssetKey.from_coercible(result.asset_key or "")


def _target(record: dg.EventLogRecord) -> Target:
    return Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)
