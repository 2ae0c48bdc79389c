"""The sensors that build gold tables after silver ones, that export built tables, and that report failed runs."""

import hashlib
import os
from collections.abc import Mapping, Sequence

import dagster as dg

from lakehouse_analytics._dagster_internals import (
    WILL_RETRY_TAG,
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from lakehouse_analytics.assets.export_gates import closed_gates
from lakehouse_analytics.assets.exports import COPIED, Export
from lakehouse_analytics.checks.registry import table_check_names
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.keys import asset_key, build_tags, check_key, max_runtime_tags
from lakehouse_analytics.notifications import Alert, Notifier, NotifyError, notify_all


def gold_on_silver(graph: Graph, *, max_runtime: int) -> list[dg.SensorDefinition]:
    """Return the sensor that builds gold tables if their silver tables are newer; empty without gold or silver tables.

    It has no cursor: it reads from the instance which tables are stale, so a missed tick loses nothing. Gates apply as
    in a build: gold tables wait while an upstream gate has failed, or is planned but not evaluated.
    """
    above = _silver_above_gold(graph)
    by_key = {asset_key(gold): gold for gold in above}
    if not above:
        return []

    @dg.sensor(
        name="gold_on_silver",
        # No `target`, for which Dagster would create another job to resolve and describe. Runs use the job of all
        # assets.
        asset_selection=dg.AssetSelection.assets(*(table.key for table in above)),
        minimum_interval_seconds=60,
        description="Builds gold tables if their silver tables are newer.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        keys = {asset_key(table) for gold, silver in above.items() for table in (gold, *silver)}
        records = {r.asset_entry.asset_key: r.asset_entry for r in context.instance.get_asset_records(list(keys))}
        built = {key: entry.last_materialization_storage_id or 0 for key, entry in records.items()}
        newest = {
            asset_key(gold): max((built.get(asset_key(table), 0) for table in silver), default=0)
            for gold, silver in above.items()
        }
        stale = [key for key, silver in newest.items() if silver > built.get(key, 0)]
        if not stale:
            return dg.SkipReason("No silver table is newer than its gold tables.")
        running = _unfinished_runs_of(context.instance, stale)
        if running:
            return dg.SkipReason(f"Run {', '.join(sorted(running))} is about to build them.")
        blocked_by = {key: _blocked_by(context.instance, graph, by_key[key]) for key in stale}
        stale = [key for key in stale if not blocked_by[key]]
        if not stale:
            names = sorted({name for found in blocked_by.values() for name in found})
            return dg.SkipReason(f"Gates above gold are failed or not evaluated: {', '.join(names)}.")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=_run_key("silver", stale, newest), asset_selection=stale, tags=build_tags(max_runtime)
                )
            ]
        )

    return [sensor]


def exports_after_builds(exports: Sequence[Export], *, max_runtime: int, required: bool) -> list[dg.SensorDefinition]:
    """Return the sensor that exports tables once they are built and their gates have passed; empty without exports.

    It has no cursor: the copy of a table records which materialization it has. It waits until the run that builds the
    table has ended, because only then are its gates final. A failed gate in one table does not delay the exports of
    others.

    Args:
        exports: All exports.
        max_runtime: Seconds after which Dagster's daemon terminates a run.
        required: Whether to launch exports whose connection is not set, so that they fail.
    """
    if not exports:
        return []

    @dg.sensor(
        name="exports_after_builds",
        asset_selection=dg.AssetSelection.assets(*(one.key for one in exports)),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Copies tables to other databases once they are built and their gates have passed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        stale = _stale_exports(context.instance, exports)
        waiting: list[str] = []
        ready: dict[dg.AssetKey, int] = {}
        for one, newest in stale:
            name = one.key.to_user_string()
            if not required and not os.getenv(one.variable):
                waiting.append(f"{name}: {one.variable} is not set")
            elif running := _unfinished_runs_of(context.instance, [one.key, asset_key(one.table)]):
                waiting.append(f"{name}: run {', '.join(sorted(running))} has not ended")
            elif closed := closed_gates(context.instance, one.gates):
                waiting.append(f"{name}: {'; '.join(closed)}")
            else:
                ready[one.key] = newest
        if not ready:
            return dg.SkipReason("Not exported. " + ". ".join(waiting) if waiting else "All copies are up to date.")
        run_key = _run_key("export", sorted(ready), ready)
        tags = {"dagster/retry_strategy": "FROM_FAILURE", **max_runtime_tags(max_runtime)}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=run_key, asset_selection=sorted(ready), tags=tags)])

    return [sensor]


def _stale_exports(instance: dg.DagsterInstance, exports: Sequence[Export]) -> list[tuple[Export, int]]:
    """Return the exports whose table is newer than the copy, with the storage id of its latest materialization."""
    keys = {key for one in exports for key in (one.key, asset_key(one.table))}
    entries = {r.asset_entry.asset_key: r.asset_entry for r in instance.get_asset_records([*keys])}
    found: list[tuple[Export, int]] = []
    for one in exports:
        built, copy = entries.get(asset_key(one.table)), entries.get(one.key)
        newest = (built.last_materialization_storage_id if built else None) or 0
        last = copy.last_materialization if copy else None
        metadata = last.asset_materialization.metadata if last and last.asset_materialization else {}
        copied = metadata.get(COPIED)
        if newest > (copied.value if isinstance(copied, dg.IntMetadataValue) and copied.value else 0):
            found.append((one, newest))
    return found


def run_failure_notifier(notifiers: Sequence[Notifier], webserver_url: str) -> dg.SensorDefinition:
    """Return the sensor that notifies about failed runs, once per run and only if no retry follows."""

    @dg.run_failure_sensor(
        name="run_failure_notifier",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Notifies about failed runs that will not be retried.",
    )
    def sensor(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        run = context.dagster_run
        if run.tags.get(WILL_RETRY_TAG) == "true":
            return dg.SkipReason(f"Run {run.run_id} will be retried.")
        alert = Alert.of_run(
            job=run.job_name,
            attempts=int(run.tags.get("dagster/retry_number", "0")) + 1,
            url=f"{webserver_url.rstrip('/')}/runs/{run.run_id}",
            reason=_reason(context),
        )
        problems = notify_all(notifiers, alert, context.log)
        if problems:
            raise NotifyError("; ".join(problems))
        return None

    return sensor


def _run_key(start: str, stale: Sequence[dg.AssetKey], newest: Mapping[dg.AssetKey, int]) -> str:
    # The key contains the requested tables and the silver events, so that the same request is made once, whatever the
    # outcome of the run. After a run that built some of the tables, the request for the others has another key.
    requested = sorted(f"{key.to_user_string()}@{newest[key]}" for key in stale)
    return f"{start}-" + hashlib.sha256(" ".join(requested).encode()).hexdigest()[:16]


def _reason(context: dg.RunFailureSensorContext) -> str:
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        if error:
            # The description of a Failure raised by an op is in its user data, not in the cause.
            failure = event.step_failure_data.user_failure_data
            return (failure.description if failure and failure.description else error.message).strip()
    return (context.failure_event.message or "no reason given").strip()


def _unfinished_runs_of(instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> set[str]:
    # `AssetEntry.last_planned_materialization_run_id` cannot be used: SQL storages leave it empty.
    planned = (instance.event_log_storage.get_latest_planned_materialization_info(key) for key in keys)
    runs = (instance.get_run_by_id(run_id) for run_id in {info.run_id for info in planned if info})
    return {run.run_id for run in runs if run and not run.is_finished}


def _blocked_by(instance: dg.DagsterInstance, graph: Graph, gold: Table) -> list[str]:
    """Return the names of the checks upstream of a gold table that block it."""
    above = _ancestors(graph, gold)
    tables = [graph.tables[unique_id] for unique_id in above if unique_id in graph.tables]
    keys = [check_key(graph, test) for unique_id in above for test in graph.tests_of.get(unique_id, ())]
    names = table_check_names()
    keys += [dg.AssetCheckKey(asset_key(table), name) for table in tables for name in names]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    return sorted(key.to_user_string() for key, record in latest.items() if not _is_passed(record))


def _ancestors(graph: Graph, table: Table) -> set[str]:
    found: set[str] = set()
    stack = [*table.parents]
    while stack:
        unique_id = stack.pop()
        if unique_id not in found:
            found.add(unique_id)
            stack.extend(graph.tables[unique_id].parents if unique_id in graph.tables else ())
    return found


def _is_passed(record: AssetCheckExecutionRecord) -> bool:
    if record.status == AssetCheckExecutionRecordStatus.FAILED:
        return record.evaluation is not None and record.evaluation.severity == dg.AssetCheckSeverity.WARN
    # If planned, its run has not evaluated it yet, or ended without doing so.
    return record.status == AssetCheckExecutionRecordStatus.SUCCEEDED


def _silver_above_gold(graph: Graph) -> Mapping[Table, Sequence[Table]]:
    found: dict[Table, Sequence[Table]] = {}
    for gold in graph.tables.values():
        if gold.layer == "gold" and gold.is_whole:
            above = _ancestors(graph, gold)
            silver = [t for u in above if (t := graph.tables.get(u)) and t.layer == "silver"]
            if silver:
                found[gold] = silver
    return found
