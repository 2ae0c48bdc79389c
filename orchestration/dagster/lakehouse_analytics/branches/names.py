"""The names of branches, and of tables in the catalog."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lakehouse_analytics.branches.catalog import Name, branch_schema, check_name
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.dbt.relation import relation_of


def branch_name(text: str) -> str:
    """Return the name of a branch as parts of schemas can have it: `PR-42` becomes `pr_42`.

    Raises:
        BranchError: The name is not usable.
    """
    name = re.sub(r"[-/. ]+", "_", text.strip().lower())
    check_name(name)
    return name


def name_of(table: Table) -> Name:
    """Return the name of a table in the catalog."""
    relation = relation_of(table.node)
    return Name(relation.schema, relation.name)


def copies_of(tables: Iterable[Table], *, full_refresh: bool = False) -> dict[Name, bool]:
    """Return the names of tables, and whether a branch begins with a copy of each.

    Views do not, nor seeds with `full_refresh`: dbt drops them, which is refused for a copy.

    Args:
        tables: The tables.
        full_refresh: Whether dbt builds them from scratch.
    """

    def is_copied(table: Table) -> bool:
        kind = table.node.config.materialized
        return kind != "view" and not (full_refresh and kind == "seed")

    return {name_of(table): is_copied(table) for table in tables}


def schemas_on_branch(tables: Iterable[Table], branch: str) -> dict[str, str]:
    """Return the schema on a branch of each table, by unique id."""
    return {table.unique_id: branch_schema(name_of(table).schema, branch) for table in tables}
