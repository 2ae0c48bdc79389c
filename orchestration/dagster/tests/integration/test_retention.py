"""Pruning an instance in a real PostgreSQL: what Dagster tells of the assets is the same before and after."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationPlanned,
)
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, StepMaterializationData
from dagster._core.test_utils import create_run_for_test
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.instance import retention

from .stack import empty_database

pytestmark = [pytest.mark.integration, pytest.mark.trino]  # for the stack's PostgreSQL

KEPT = 2
ASSETS = ["daily", "whole"]
DAYS = ["2026-01-01", "2026-01-02"]
CHECKS = ["row_count", "unique"]

#: A table of a run: of which day, whether it was built, and which checks have passed (None: did not come to it).
Built = tuple[str, str | None, bool, tuple[bool | None, ...]]
TABLES: st.SearchStrategy[Built] = st.one_of(
    st.tuples(
        st.just("daily"), st.sampled_from(DAYS), st.booleans(), st.tuples(*[st.sampled_from([True, False, None])] * 2)
    ),
    st.tuples(st.just("whole"), st.none(), st.booleans(), st.tuples(*[st.sampled_from([True, False, None])] * 2)),
)
RUNS = st.lists(st.lists(TABLES, max_size=3, unique_by=lambda built: built[:2]), max_size=7)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    home = tmp_path_factory.mktemp("home")
    with empty_database() as address:
        written = {"storage": {"postgres": {"postgres_url": address}}, "telemetry": {"enabled": False}}
        (home / "dagster.yaml").write_text(yaml.safe_dump(written))
        with dg.DagsterInstance.from_config(str(home)) as made:
            made.optimize_for_webserver(statement_timeout=30_000, pool_recycle=3600, max_overflow=5)  # one connection
            yield made


class Names:
    """Of one example: the instance is the same for all."""

    def __init__(self, example: str) -> None:
        self.example = example

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([self.example, asset])

    def check(self, asset: str, check: str) -> dg.AssetCheckKey:
        return dg.AssetCheckKey(self.key(asset), check)


def store(instance: dg.DagsterInstance, names: Names, tables: list[Built], *, over: bool = True) -> str:
    """A run and what it tells, as the engine does: everything planned first."""
    run = create_run_for_test(instance, job_name=names.example, status=dg.DagsterRunStatus.STARTED)

    def report(kind: dg.DagsterEventType, data: Any = None) -> None:
        instance.report_dagster_event(DagsterEvent(kind.value, run.job_name, event_specific_data=data), run.run_id)

    def evaluated(asset: str, day: str | None, check: str, passed: bool) -> AssetCheckEvaluation:
        return AssetCheckEvaluation(
            asset_key=names.key(asset), check_name=check, passed=passed, metadata={}, blocking=False, partition=day
        )

    report(dg.DagsterEventType.RUN_START)
    for asset, day, _, _ in tables:
        report(
            dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, AssetMaterializationPlannedData(names.key(asset), day)
        )
        for check in CHECKS:
            data = AssetCheckEvaluationPlanned(asset_key=names.key(asset), check_name=check)
            if day:
                subset = dg.StaticPartitionsDefinition(DAYS).subset_with_partition_keys([day])
                data = AssetCheckEvaluationPlanned(
                    asset_key=names.key(asset), check_name=check, partitions_subset=subset.to_serializable_subset()
                )
            report(dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED, data)
    for _ in range(3):
        instance.report_engine_event("of the launcher", run)
    for asset, day, built, checks in tables:
        if built:
            made = dg.AssetMaterialization(names.key(asset), partition=day, tags={DATA_VERSION_TAG: "1"})
            report(dg.DagsterEventType.ASSET_MATERIALIZATION, StepMaterializationData(made))
        for check, passed in zip(CHECKS, checks, strict=True):
            if passed is not None:
                report(dg.DagsterEventType.ASSET_CHECK_EVALUATION, evaluated(asset, day, check, passed))
    if over:
        well = all(built for _, _, built, _ in tables)
        if well:
            report(dg.DagsterEventType.RUN_SUCCESS)
        else:
            instance.report_run_failed(run)
    return str(run.run_id)


def recorded(instance: dg.DagsterInstance, names: Names) -> dict[str, Any]:
    """What Dagster answers about the assets of an example."""
    storage, found = instance.event_log_storage, {}
    kinds = dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    for asset in ASSETS:
        key = names.key(asset)
        newest = instance.get_latest_materialization_event(key)
        failed = storage.get_latest_asset_partition_materialization_attempts_without_materializations(key)
        partitions = [None, *DAYS]
        found[asset] = {
            "latest": newest and (newest.run_id, newest.timestamp),
            "partitions": instance.get_materialized_partitions(key),
            "by partition": [storage.get_latest_storage_id_by_partition(key, kind) for kind in kinds],
            "not built": failed,
            "their runs": {run_id: instance.get_run_by_id(run_id) for run_id, _ in failed.values()},
            "planned": storage.get_latest_planned_materialization_info(key),
            "tags": storage.get_latest_tags_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG], asset_partitions=DAYS
            ),
            "newest of each": [
                [
                    record.storage_id
                    for record in instance.fetch_materializations(
                        dg.AssetRecordsFilter(key, asset_partitions=[day] if day else None), limit=KEPT
                    ).records
                ]
                for day in partitions
            ],
            "checks": [
                (record.id, record.status, record.run_id)
                for check in CHECKS
                for day in partitions
                for record in storage.get_asset_check_execution_history(
                    names.check(asset, check), limit=KEPT, partition_filter=PartitionKeyFilter(key=day)
                )
            ],
        }
    return found


def kept(history: list[tuple[str, list[Built]]]) -> set[str]:
    """The runs that must stay, by a second way: the newest of each kind of event and result of each partition."""
    groups = defaultdict(list)
    stay: set[str] = set()
    evaluated: Counter[tuple[str, str | None, str, bool]] = Counter()
    for run_id, tables in reversed(history):
        for asset, day, built, checks in tables:
            groups[asset, day, "planned"].append(run_id)
            if built:
                groups[asset, day, "built"].append(run_id)
            for check, passed in zip(CHECKS, checks, strict=True):
                # Until there are as many newer results: of the same kind, or of either one if it was only planned.
                kinds = [True, False] if passed is None else [passed]
                if sum(evaluated[asset, day, check, kind] for kind in kinds) < KEPT:
                    stay.add(run_id)
                if passed is not None:
                    evaluated[asset, day, check, passed] += 1
    return stay | {run_id for runs in groups.values() for run_id in runs[:KEPT]}


@settings(
    max_examples=10,
    phases=[Phase.generate],  # an example takes a second: to shrink one takes minutes
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(old=RUNS, new=RUNS, going=st.lists(TABLES, max_size=2, unique_by=lambda built: built[:2]))
def test_nothing_is_lost_that_dagster_tells_of_the_assets(
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    old: list[list[Built]],
    new: list[list[Built]],
    going: list[Built],
) -> None:
    monkeypatch.setattr(retention, "KEEP_NEWEST", KEPT)
    monkeypatch.setattr(retention, "BATCH", 3)
    names = Names(f"e{time.monotonic_ns()}")
    unended = store(instance, names, going, over=False)
    history = [(unended, going)]
    history += [(store(instance, names, tables), tables) for tables in old]
    before = datetime.now(UTC)
    history += [(store(instance, names, tables), tables) for tables in new]
    young = {run_id for run_id, _ in history[1 + len(old) :]} | {unended}
    known = recorded(instance, names)
    logs = {run_id: len(instance.all_logs(run_id)) for run_id in young}

    total = instance.get_runs_count()

    went = retention.prune(instance, before)

    assert recorded(instance, names) == known
    assert {run_id: len(instance.all_logs(run_id)) for run_id in young} == logs
    there = {run.run_id for run in instance.get_runs(dg.RunsFilter(job_name=names.example))}
    assert there == kept(history) | young
    assert went.runs == total - instance.get_runs_count()
    for run_id in there - young:
        kinds = {log.dagster_event_type for log in instance.all_logs(run_id)}
        assert dg.DagsterEventType.ENGINE_EVENT not in kinds
        assert dg.DagsterEventType.RUN_START in kinds
    assert retention.prune(instance, before) == retention.PruneResult()


def test_syncs_of_airbyte_are_pruned_too(instance: dg.DagsterInstance) -> None:
    key = dg.AssetKey(["airbyte", "users"])
    for number in range(retention.KEEP_NEWEST + 5):
        instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"job": number}))
    between = datetime.now(UTC)
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"job": "new"}))

    retention.prune(instance, between)
    left = instance.fetch_materializations(key, limit=1000).records
    assert len(left) == retention.KEEP_NEWEST
    newest = left[0].asset_materialization
    assert newest
    assert newest.metadata["job"].value == "new"


def test_a_run_of_a_backfill_that_goes_on_stays(instance: dg.DagsterInstance) -> None:
    from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

    run = create_run_for_test(
        instance, job_name="backfilled", status=dg.DagsterRunStatus.SUCCESS, tags={"dagster/backfill": "b1"}
    )
    backfill = PartitionBackfill(
        backfill_id="b1",
        status=BulkActionStatus.REQUESTED,
        from_failure=False,
        tags={},
        backfill_timestamp=time.time(),
        asset_selection=[dg.AssetKey("a")],
    )
    instance.add_backfill(backfill)
    retention.prune(instance, datetime.now(UTC))
    assert instance.get_run_by_id(run.run_id)

    instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    retention.prune(instance, datetime.now(UTC))
    assert instance.get_run_by_id(run.run_id) is None


def test_a_run_stays_as_long_as_its_retry_does(instance: dg.DagsterInstance) -> None:
    root = create_run_for_test(instance, job_name="retried", status=dg.DagsterRunStatus.FAILURE)
    tags = {"dagster/root_run_id": root.run_id, "dagster/parent_run_id": root.run_id}
    child = create_run_for_test(instance, job_name="retried", status=dg.DagsterRunStatus.STARTED, tags=tags)
    retention.prune(instance, datetime.now(UTC))
    assert instance.get_run_by_id(root.run_id)

    instance.report_run_failed(child)
    for _ in range(2):  # the younger first
        retention.prune(instance, datetime.now(UTC))
    assert instance.get_runs_count(dg.RunsFilter(job_name="retried")) == 0


def test_an_instance_in_files_is_left_alone(tmp_path: Path) -> None:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as local,
        pytest.raises(retention.RetentionError, match="only PostgreSQL can be pruned"),
    ):
        retention.prune(local, datetime.now(UTC))
