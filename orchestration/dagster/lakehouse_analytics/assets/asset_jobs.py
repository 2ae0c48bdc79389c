"""Asset jobs that are much cheaper to resolve than those of `dg.define_asset_job` if one op builds many assets.

For each asset of an op that is not in a job, Dagster copies the spec twice, and matches the keys and table names of all
assets again, to add it to the job as an external asset. A code server resolves all jobs when it starts. Here, jobs
share the specs of the repository, whose keys are already resolved.

No other module works with the internals of Dagster's graph. `tests/definitions/test_asset_jobs.py` compares the jobs
with Dagster's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import dagster as dg

from lakehouse_analytics._dagster_internals import (
    AssetGraph,
    AssetNode,
    JobScopedAssetGraph,
    UnresolvedAssetJobDefinition,
    build_asset_job,
)


class AssetJob(UnresolvedAssetJobDefinition):
    """A job of a selection of assets and checks."""

    @classmethod
    def of(cls, job: UnresolvedAssetJobDefinition) -> AssetJob:
        """Return a job of this class that is equal to another one.

        Args:
            job: A job created by `dg.define_asset_job` with a name, a selection, a description, tags and hooks.
        """
        return cls(job.name, job.selection, description=job.description, tags=job.tags, hooks=job.hooks)

    def resolve(
        self,
        asset_graph: AssetGraph,
        default_executor_def: dg.ExecutorDefinition | None = None,
        resource_defs: Mapping[str, dg.ResourceDefinition] | None = None,
    ) -> dg.JobDefinition:
        """Create the job. Dagster calls this for each job of a repository when it needs it."""
        return build_asset_job(
            self.name,
            asset_graph=_of_job(asset_graph, self.selection),
            allow_different_partitions_defs=False,
            description=self.description,
            tags=self.tags,
            run_tags=self.run_tags,
            executor_def=default_executor_def,
            hooks=self.hooks,
            resource_defs=resource_defs,
        )


def _of_job(whole: AssetGraph, selection: dg.AssetSelection) -> AssetGraph:
    """Return the graph of a job: what it builds and checks and, as external assets, what else its ops build or read."""
    keys, checks = selection.resolve(whole), selection.resolve_checks(whole)
    built = [
        _part(one, keys, checks)
        for one in whole.assets_defs
        if one.is_executable and (one.keys & keys or one.check_keys & checks)
    ]
    around: set[dg.AssetKey] = set()
    for one in built:
        around.update(one.node_keys_by_input_name.values(), one.node_keys_by_output_name.values())
        around.update(key.asset_key for key in one.check_keys)
        around.update(parent for key in one.keys for parent in whole.get(key).parent_keys)
    # Dagster 1.13.0 does not allow external assets with different partitions in one definition.
    beside: dict[dg.PartitionsDefinition | None, list[dg.AssetSpec]] = defaultdict(list)
    for key in around - keys:
        spec = whole.get(key).to_asset_spec()
        beside[spec.partitions_def].append(spec)
    return _graph([*built, *(dg.AssetsDefinition(specs=specs) for specs in beside.values())], whole)


def _part(assets: dg.AssetsDefinition, keys: Any, checks: Any) -> dg.AssetsDefinition:
    if assets.keys <= keys and assets.check_keys <= checks:
        return assets
    return assets.subset_for(keys, assets.check_keys & checks)


def _graph(definitions: list[dg.AssetsDefinition], whole: AssetGraph) -> AssetGraph:
    known = {key for one in definitions for key in one.keys}
    by_check = {key: one for one in definitions for key in one.check_keys}
    checks: dict[dg.AssetKey, set[dg.AssetCheckKey]] = defaultdict(set)
    for key in by_check:
        checks[key.asset_key].add(key)
    nodes = {
        key: AssetNode(
            key=key,
            parent_keys=whole.get(key).parent_keys & known,
            child_keys=whole.get(key).child_keys & known,
            assets_def=one,
            check_keys=checks[key],
        )
        for one in definitions
        for key in one.keys
    }
    return JobScopedAssetGraph(nodes, by_check, whole)
