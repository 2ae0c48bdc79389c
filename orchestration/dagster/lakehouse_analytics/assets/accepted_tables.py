"""The tables whose row count a run accepts as the new baseline."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse_analytics.common.text import did_you_mean, shortened
from lakehouse_analytics.dbt.graph import Graph, Table


def accepted_tables(graph: Graph, names: Sequence[str]) -> set[str]:
    """Return the unique ids of the tables that `accept_row_counts` names.

    Args:
        graph: The manifest's graph.
        names: Names of models such as `orders`, with a version such as `orders.v2`, or asset keys such as
            `silver/orders`.

    Raises:
        ValueError: There is no such table, or a name is ambiguous, such as that of a model with several versions.
    """
    tables: dict[str, set[str]] = {}
    for unique_id, table in graph.tables.items():
        for label in {table.name, _label(table), "/".join(table.key)}:
            tables.setdefault(label, set()).add(unique_id)
    found: set[str] = set()
    for name in names:
        matches = tables.get(name, set())
        if not matches:
            raise ValueError(f"there is no model {shortened(name)}{did_you_mean(name, tables)}")
        if len(matches) > 1:
            labels = {unique_id: _label(graph.tables[unique_id]) for unique_id in matches}
            if len({*labels.values()}) < len(matches):
                labels = {unique_id: "/".join(graph.tables[unique_id].key) for unique_id in matches}
            choices = " or ".join(sorted(labels.values()))
            raise ValueError(f"{shortened(name)} matches {len(matches)} tables: use {choices}")
        found |= matches
    return found


def _label(table: Table) -> str:
    version = table.node.version
    return table.name if version is None else f"{table.name}.v{version}"
