"""Where each table is read on a branch that consists of schemas: the rule of dbt's `defer`. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lakehouse_analytics.branches.catalog import BranchError, Name
from lakehouse_analytics.branches.names import name_of, schemas_on_branch
from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.dbt.relation import relation_of


def schemas_of_build(
    tables: Iterable[Table], branch: str, *, selected: Collection[str], built: Collection[Name]
) -> dict[str, str]:
    """Return the schema on a branch of each table that is built or read there, by unique id.

    All other tables are read from production.

    Args:
        tables: The tables of the project.
        branch: The branch.
        selected: Unique ids of the tables that the run builds.
        built: The tables that exist on the branch, as named outside of it.
    """
    there = {*built}
    return schemas_on_branch(
        (table for table in tables if table.unique_id in selected or name_of(table) in there), branch
    )


def refuse_other_databases(tables: Iterable[Table], database: str) -> None:
    """Refuse tables that are not in the database that has the branches.

    Args:
        tables: The tables of the project.
        database: The database of dbt's target.

    Raises:
        BranchError: A table is in another database. The message names it.
    """
    others = sorted(
        f"{'/'.join(table.key)} ({relation.catalog})"
        for table in tables
        if (relation := relation_of(table.node)).catalog != database.lower()
    )
    if others:
        raise BranchError(
            f"All tables of a branch must be in {database}, the database of dbt's target, and these are not: "
            f"{some(others, FEW)}."
        )
