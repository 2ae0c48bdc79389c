"""The names of branches, and of tables in the catalog."""

from __future__ import annotations

import re
from collections.abc import Collection

from lakehouse_analytics.branches.catalog import Name, branch_schema, check_name
from lakehouse_analytics.dbt.graph import Graph, Table
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


def schemas_on_branch(tables: Collection[Table], branch: str) -> dict[str, str]:
    """Return the schema on a branch of each table, by unique id."""
    return {table.unique_id: branch_schema(name_of(table).schema, branch) for table in tables}


def graph_on_branch(graph: Graph, branch: str) -> Graph:
    """Return the graph with all tables on a branch."""
    return graph.with_schemas(schemas_on_branch(graph.tables.values(), branch))
