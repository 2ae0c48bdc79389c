"""Evaluations of checks: the same as Dagster makes of results, in time that does not grow with the op's square."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.assets.job.asset_layer import AssetLayer
from lakehouse_analytics._dagster_internals import remember_output_keys
from lakehouse_analytics.assets.multi_asset import multi_asset
from lakehouse_analytics.checks.evaluations import Evaluations

DAYS = dg.DailyPartitionsDefinition("2026-01-01")
BUILT, SYNCED = dg.AssetKey(["gold", "orders"]), dg.AssetKey(["shop", "orders"])
RESULTS = [
    dg.AssetCheckResult(asset_key=BUILT, check_name="rows", passed=True, metadata={"rows": 3}),
    dg.AssetCheckResult(asset_key=BUILT, check_name="unique", passed=False, severity=dg.AssetCheckSeverity.WARN),
    dg.AssetCheckResult(asset_key=SYNCED, check_name="fresh", passed=False, description="of yesterday"),
    dg.AssetCheckResult(asset_key=dg.AssetKey("never"), check_name="fresh", passed=True),
]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        made.report_runless_asset_event(dg.AssetMaterialization(SYNCED))
        for key in (BUILT, SYNCED):
            made.report_runless_asset_event(dg.AssetMaterialization(key, partition="2026-01-03"))
        yield made


def built(days: dg.PartitionsDefinition[str] | None, *, ours: bool) -> dg.AssetsDefinition:
    """An op that builds one table and has checks of three; `ours`: it turns results into evaluations itself."""
    checks = [
        dg.AssetCheckSpec("rows", asset=BUILT, blocking=True, partitions_def=days),
        dg.AssetCheckSpec("unique", asset=BUILT, blocking=True),
        dg.AssetCheckSpec("fresh", asset=SYNCED),
        dg.AssetCheckSpec("fresh", asset="never"),
    ]
    specs = [dg.AssetSpec(BUILT, partitions_def=days)]

    @multi_asset(name="build", specs=specs, check_specs=checks, can_subset=True, allow_arbitrary_check_specs=True)
    def build(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]
        evaluations = Evaluations(context)
        yield dg.MaterializeResult(asset_key=BUILT)
        for result in RESULTS:
            if ours:
                yield from evaluations.events([result])
            elif (result.asset_key, result.check_name) in context.selected_asset_check_keys:
                yield result

    return build


def evaluated(
    instance: dg.DagsterInstance, days: dg.PartitionsDefinition[str] | None, left_out: str, *, ours: bool
) -> list[Any]:
    """What a run of the op stores of its outputs and checks, in order."""
    build = built(days, ours=ours)
    checks: dg.AssetSelection = dg.AssetSelection.checks_for_assets(BUILT, SYNCED, "never")
    if left_out:
        checks -= dg.AssetSelection.checks(dg.AssetCheckKey(BUILT, left_out))
    ran = dg.materialize(
        [build],
        selection=dg.AssetSelection.assets(BUILT).without_checks() | checks,
        instance=instance,
        partition_key="2026-01-03" if days else None,
    )
    [own] = instance.fetch_materializations(BUILT, limit=1).records
    found: list[Any] = []
    for event in ran.all_events:
        if event.is_successful_output:
            found.append(event.step_output_data.output_name)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            data = event.asset_check_evaluation_data
            target = data.target_materialization_data
            about = target and ("own" if target.storage_id == own.storage_id else target)
            found.append((data.asset_check_key, data.passed, data.severity, data.metadata, data.description,
                          data.blocking, data.partition, about))  # fmt: skip
    return found


@pytest.mark.parametrize("left_out", ["", "rows", "unique"])
@pytest.mark.parametrize("days", [None, DAYS])
def test_evaluations_are_those_that_dagster_makes_of_results(
    instance: dg.DagsterInstance, days: dg.PartitionsDefinition[str] | None, left_out: str
) -> None:
    dagsters, ours = (evaluated(instance, days, left_out, ours=ours) for ours in (False, True))
    assert ours == dagsters
    assert sum("own" in said for said in ours) == (1 if left_out else 2)
    assert len(ours) == 1 + 2 * (len(RESULTS) - bool(left_out))


def test_a_result_is_about_the_materialization_that_is_the_latest_when_it_is_given(
    instance: dg.DagsterInstance,
) -> None:
    targets = []

    @multi_asset(
        name="build", specs=[dg.AssetSpec(BUILT)], check_specs=[dg.AssetCheckSpec("rows", asset=BUILT)], can_subset=True
    )
    def build(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]
        evaluations = Evaluations(context)

        def about() -> Any:
            *_, evaluation = evaluations.events(RESULTS[:1])
            assert isinstance(evaluation, dg.AssetCheckEvaluation)
            targets.append(evaluation.target_materialization_data)
            return evaluation

        about()
        yield dg.MaterializeResult(asset_key=BUILT)
        evaluations.refresh(BUILT)
        yield about()

    run = dg.materialize([build], instance=instance)
    assert [target is not None and target.run_id == run.run_id for target in targets] == [False, True]


def test_an_output_takes_no_longer_in_a_large_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each output Dagster would look up the keys of all, and for each result go through all checks."""
    calls = [0]
    look_up = AssetLayer.get_entity_key_for_node_output

    def counted(*args: Any) -> Any:
        calls[0] += 1
        return look_up(*args)

    monkeypatch.setattr(AssetLayer, "get_entity_key_for_node_output", counted)

    def cost(tables: int) -> int:
        keys = [dg.AssetKey(f"t{number}") for number in range(tables)]
        checks = [dg.AssetCheckSpec("rows", asset=key) for key in keys]

        @multi_asset(name="build", specs=[dg.AssetSpec(key) for key in keys], check_specs=checks, can_subset=True)
        def build(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]
            remember_output_keys(context)
            evaluations = Evaluations(context)
            for key in keys:
                yield dg.MaterializeResult(asset_key=key)
                yield from evaluations.events([dg.AssetCheckResult(asset_key=key, check_name="rows", passed=True)])

        calls[0] = 0
        with dg.DagsterInstance.ephemeral() as instance:
            assert dg.materialize([build], instance=instance).success
        return calls[0]

    small, large = cost(10), cost(40)
    assert small > 0
    assert large <= 4 * small
