"""Whether the row counts of a loaded source allow the models that read it to be built."""

from __future__ import annotations

import dagster as dg

from lakehouse_analytics._dagster_internals import AssetCheckExecutionRecordStatus
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.keys import asset_key

_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def closed_gate(instance: dg.DagsterInstance, source: Source, newest: dg.EventLogRecord) -> str | None:
    """Return why the models that read a source must not be built yet; None if they may.

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
        key = dg.AssetCheckKey(asset_key(source), check)
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=1, status=_EVALUATED)
        record = next(iter(records), None)
        evaluated = record.event.timestamp if record and record.event else 0.0
        if evaluated < newest.timestamp and _is_running(instance, newest.run_id):
            return f"{name}: {check} has not been evaluated yet"
        if record and record.status == AssetCheckExecutionRecordStatus.FAILED:
            return f"{name}: {check} failed"
    return None


def _is_running(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and not run.is_finished
