"""The tables whose row count a run accepts as the new baseline."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse_analytics.common.text import did_you_mean, shortened
from lakehouse_analytics.dbt.graph import Graph, Table


def accepted_tables(graph: Graph, said: Sequence[str]) -> set[str]:
    """Unique ids of the tables that `accept_row_counts` means.

    Args:
        graph: The manifest's.
        said: Names of models, such as `orders`; with the version, `orders.v2`; or asset keys, such as `silver/orders`.

    Raises:
        ValueError: there is no such table, or a name stands for several, such as the versions of a model.
    """
    tables: dict[str, set[str]] = {}
    for unique_id, table in graph.tables.items():
        for label in {table.name, _label(table), "/".join(table.key)}:
            tables.setdefault(label, set()).add(unique_id)
    found: set[str] = set()
    for name in said:
        meant = tables.get(name, set())
        if not meant:
            raise ValueError(f"there is no model {shortened(name)}{did_you_mean(name, tables)}")
        if len(meant) > 1:
            labels = {unique_id: _label(graph.tables[unique_id]) for unique_id in meant}
            if len({*labels.values()}) < len(meant):
                labels = {unique_id: "/".join(graph.tables[unique_id].key) for unique_id in meant}
            raise ValueError(f"{shortened(name)} names {len(meant)} tables: say {' or '.join(sorted(labels.values()))}")
        found |= meant
    return found


def _label(table: Table) -> str:
    version = table.node.version
    return table.name if version is None else f"{table.name}.v{version}"
