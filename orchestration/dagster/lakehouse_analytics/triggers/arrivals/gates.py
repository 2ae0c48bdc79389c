"""Whether the row counts of a loaded source allow the models that read it to be built."""

from __future__ import annotations

import dagster as dg

from lakehouse_analytics._dagster_internals import AssetCheckExecutionRecord, AssetCheckExecutionRecordStatus
from lakehouse_analytics.checks.history import NEWEST
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.keys import asset_key

#: How a person opens a gate. A load without new files counts nothing otherwise.
_HOW_TO_OPEN = "; to count again and accept the number of rows, launch a load with accept_row_count: true in its config"
_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def closed_gate(instance: dg.DagsterInstance, source: Source, newest: dg.EventLogRecord) -> str | None:
    """Return why the models that read a source must not be built yet; None if they may.

    A check that was never evaluated allows it, because the source has just got its `rows`.

    Args:
        instance: The Dagster instance.
        source: The source.
        newest: Its newest materialization.
    """
    rules, name = source.contract.rows, "/".join(source.key)
    if rules is None:
        return None
    gates = [ROW_COUNT] if rules.severity == "error" else []
    gates += [DRIFT] if rules.drift and rules.drift.severity == "error" else []
    for check in gates:
        evaluated, record = _last_evaluation(instance, dg.AssetCheckKey(asset_key(source), check))
        if evaluated < newest.timestamp and _is_running(instance, newest.run_id):
            return f"{name}: {check} has not been evaluated yet"
        if record is None:
            continue
        if evaluated < newest.timestamp:
            return f"{name}: {check} has not been evaluated since the load{_HOW_TO_OPEN}"
        if record.status == AssetCheckExecutionRecordStatus.FAILED:
            return f"{name}: {check} failed{_HOW_TO_OPEN}"
    return None


def _last_evaluation(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey
) -> tuple[float, AssetCheckExecutionRecord | None]:
    """Return the time and the record of the newest evaluation of a check; 0 and None if there is none."""
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=NEWEST, status=_EVALUATED)
    evaluations = [(record.event.timestamp, record) for record in records if record.event]
    return max(evaluations, key=lambda one: one[0], default=(0.0, None))


def _is_running(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and not run.is_finished
