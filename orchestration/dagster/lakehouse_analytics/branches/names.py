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


def copies_of(tables: Iterable[Table]) -> dict[Name, bool]:
    """Return the names of tables, and whether a branch begins with a copy of each: views are created from scratch."""
    return {name_of(table): table.node.config.materialized != "view" for table in tables}


def schemas_on_branch(tables: Iterable[Table], branch: str) -> dict[str, str]:
    """Return the schema on a branch of each table, by unique id."""
    return {table.unique_id: branch_schema(name_of(table).schema, branch) for table in tables}
