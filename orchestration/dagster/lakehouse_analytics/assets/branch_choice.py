"""Which branch a run writes to: none, one of its own (LAKEHOUSE_PUBLISH=run), or one of people (LAKEHOUSE_BRANCH)."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import dagster as dg

from lakehouse_analytics.assets.run_branch import RunBranch, StandingBranch
from lakehouse_analytics.assets.schema_branch import SchemaBranch
from lakehouse_analytics.branches.catalog import BranchError
from lakehouse_analytics.branches.opening import schema_branches
from lakehouse_analytics.common.names import counted
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.iceberg.catalog import CatalogError
from lakehouse_analytics.keys import asset_key

if TYPE_CHECKING:
    from lakehouse_analytics.settings import Settings

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
OpenedBranch = RunBranch | StandingBranch | SchemaBranch
BranchOf = Callable[[Graph, Context, AbstractSet[dg.AssetKey], bool], OpenedBranch | None]


def branch_of(settings: Settings) -> BranchOf | None:
    """Return the function that returns the branch of an execution; None if runs write the tables themselves.

    Its arguments are the graph, the context, the assets to build, and whether it is a full refresh.
    """
    if name := settings.branch:
        return lambda graph, context, keys, _: _standing(settings, name, graph, context, keys)
    if settings.publish != "run":
        return None
    catalog = settings.iceberg_catalog or ""

    def of_run(graph: Graph, context: Context, keys: AbstractSet[dg.AssetKey], full_refresh: bool) -> RunBranch | None:
        tables = [table.unique_id for table in graph.tables.values() if asset_key(table) in keys]
        step = context.op_execution_context.op_def.name
        run_id = context.run.run_id
        branch = RunBranch(graph, tables, catalog, run_id=run_id, step=step, full_refresh=full_refresh)
        return branch if tables else None

    return of_run


def _standing(
    settings: Settings, name: str, graph: Graph, context: Context, keys: AbstractSet[dg.AssetKey]
) -> StandingBranch | SchemaBranch:
    """Return a branch that people have created.

    Raises:
        dg.Failure: The branch cannot be opened. The message has the reason.
    """
    try:
        found = schema_branches(settings, log=context.log.warning)
    except (BranchError, CatalogError, DatabaseError) as error:
        raise dg.Failure(f"LAKEHOUSE_BRANCH is {name}: {error}", allow_retries=False) from error
    if found is None:
        return StandingBranch(graph, name, settings.iceberg_catalog or "")
    selected = [table.unique_id for table in graph.tables.values() if asset_key(table) in keys]
    branch = SchemaBranch(graph, name, found, selected=selected, database=settings.profile.database)
    deferred = len(graph.tables) - len(branch.schemas)
    context.log.info(f"Of the project, {counted(deferred, 'table')} are read from production if they are read.")
    return branch
