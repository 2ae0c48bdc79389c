"""Translates Dagster's selection of assets and checks into a `Selection` of dbt's nodes."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import dagster as dg

from lakehouse_analytics._dagster_internals import keys_of_run
from lakehouse_analytics.assets.gates.plan import Selection
from lakehouse_analytics.assets.registered_checks import TableChecks
from lakehouse_analytics.checks.registry import table_check_names
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.keys import asset_key, check_key


def selection_of(
    graph: Graph,
    context: dg.AssetExecutionContext,
    keys: AbstractSet[dg.AssetKey],
    checks: TableChecks,
) -> Selection:
    """Return what an execution of the op builds, evaluates and counts.

    Args:
        graph: The manifest's graph.
        context: The context of the op.
        keys: The selected assets.
        checks: The checks that gate tables in addition to their row counts.
    """
    selected = {table.unique_id for table in graph.tables.values() if asset_key(table) in keys}
    wanted = context.selected_asset_check_keys
    checked = {test.unique_id for test in graph.tests.values() if check_key(graph, test) in wanted}
    counted = checked_tables(wanted) - keys
    only_counted = {table.unique_id for table in graph.tables.values() if asset_key(table) in counted}
    before, after = _of_other_steps(graph, context, keys)
    gated = checks.gates(graph.tables[unique_id] for unique_id in selected)
    return Selection(
        graph, frozenset(selected), frozenset(checked), frozenset(only_counted), before, after, gated=gated
    )


def checked_tables(checks: AbstractSet[dg.AssetCheckKey]) -> set[dg.AssetKey]:
    """Return the assets of which a check of tables, such as the row count, is selected."""
    names = table_check_names()
    return {key.asset_key for key in checks if key.name in names}


def _of_other_steps(
    graph: Graph, context: dg.AssetExecutionContext, keys: AbstractSet[dg.AssetKey]
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the tables that steps before and after this one build: Dagster splits the op at Python assets."""
    others = keys_of_run(context) - keys
    tables = {asset_key(table): table.unique_id for table in graph.tables.values() if others}
    if others.isdisjoint(tables):
        return frozenset(), frozenset()
    records = context.instance.get_records_for_run(
        context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
    ).records
    built = {record.asset_key for record in records}
    return (
        frozenset(tables[key] for key in others & tables.keys() & built),
        frozenset(tables[key] for key in others & tables.keys() - built),
    )
