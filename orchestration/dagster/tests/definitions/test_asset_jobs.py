"""Our asset jobs are those that Dagster would make of them."""

from __future__ import annotations

from typing import Any

import dagster as dg
from dagster._core.snap import JobSnap
from lakehouse_analytics.assets.asset_jobs import AssetJob

from .conftest import Location


def test_each_job_is_what_dagster_makes_of_its_selection(local: Location, trino: Location) -> None:
    same_as_dagsters(local.load(), {"full_refresh", "bronze_refresh", "customer_pipeline", "daily_backfill"})
    same_as_dagsters(trino.load(), {"full_refresh", "iceberg_maintenance", "monthly_refresh"})


def test_checks_of_what_no_run_builds_and_tables_between_those_of_another_op_are_in_them() -> None:
    """Of a source that only a test reads, and of weekly windows that daily ones are read for and read by."""
    keys = [dg.AssetKey(["silver", name]) for name in "abc"]
    source = dg.AssetKey(["raw", "r"])
    specs = [dg.AssetSpec(key, deps=keys[:place][-1:]) for place, key in enumerate(keys)]

    @dg.multi_asset(
        name="build",
        specs=specs[::2],
        check_specs=[dg.AssetCheckSpec("full", asset=source), dg.AssetCheckSpec("whole", asset=keys[0], blocking=True)],
        can_subset=True,
        allow_arbitrary_check_specs=True,
    )
    def build():  # type: ignore[no-untyped-def]
        yield from ()

    @dg.multi_asset(name="between", specs=specs[1:2], can_subset=True)
    def between():  # type: ignore[no-untyped-def]
        yield from ()

    built = dg.AssetSelection.assets(*keys)
    everything = built | dg.AssetSelection.checks(dg.AssetCheckKey(source, "full"))
    selections = {"all": everything, "ends": dg.AssetSelection.assets(keys[0], keys[2]), "one": everything - built}
    jobs = [AssetJob.of(dg.define_asset_job(name, selection)) for name, selection in selections.items()]
    same_as_dagsters(dg.Definitions(assets=[build, between], jobs=jobs), {*selections})


def same_as_dagsters(definitions: dg.Definitions, names: set[str]) -> None:
    ours = [job for job in definitions.jobs or [] if isinstance(job, AssetJob)]
    assert names <= {job.name for job in ours}
    said = [{name: getattr(job, name) for name in ("selection", "description", "tags", "hooks")} for job in ours]
    theirs = [dg.define_asset_job(f"their_{job.name}", **what) for job, what in zip(ours, said, strict=True)]
    merged = dg.Definitions.merge(definitions, dg.Definitions(jobs=theirs))
    for job in ours:
        own, other = (merged.resolve_job_def(name) for name in (job.name, f"their_{job.name}"))
        assert described(own) == described(other)
        graph, their = own.asset_layer.asset_graph, other.asset_layer.asset_graph
        # Dagster takes all external assets where it needs one: exposures, too.
        known = graph.get_all_asset_keys()
        assert known <= their.get_all_asset_keys()
        assert {parent for key in own.asset_layer.selected_asset_keys for parent in graph.get(key).parent_keys} <= known
        assert all(graph.get(key).partitions_def == their.get(key).partitions_def for key in known)


def described(job: dg.JobDefinition) -> dict[str, Any]:
    layer, snapshot = job.asset_layer, JobSnap.from_job_def(job)
    return {
        "ops": snapshot.node_defs_snapshot,
        "dependencies": snapshot.dep_structure_snapshot,
        "config": snapshot.config_schema_snapshot,
        "description": snapshot.description,
        "tags": (job.tags, job.run_tags),
        "hooks": job.hook_defs,
        "executor": job.executor_def,
        "partitions": job.partitions_def,
        "assets": layer.selected_asset_keys,
        "checks": layer.asset_graph.asset_check_keys,
        "lineage": {key: layer.get(key).parent_keys for key in layer.selected_asset_keys},
    }
