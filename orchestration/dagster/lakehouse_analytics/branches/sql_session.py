"""Statements on the tables of a SQL catalog, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.branches.catalog import Name

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

#: The parameters `schemas` and `tables` as rows.
_NAMES = "(select * from unnest(cast(:schemas as text[]), cast(:tables as text[])))"


@dataclass(frozen=True)
class Row:
    """A row of `iceberg_tables`.

    Attributes:
        location: The metadata file.
        type: `TABLE` or `VIEW`.
    """

    location: str
    type: str = "TABLE"


@dataclass(frozen=True)
class Base:
    """A table as it was when the branch was created.

    Attributes:
        location: The metadata file; None if there was no such table.
        is_copy: Whether the branch began with a copy of it.
    """

    location: str | None
    is_copy: bool


class CatalogSession:
    """One transaction. Every statement has the parameter `catalog`."""

    def __init__(self, connection: Connection, catalog: str) -> None:
        self._connection, self._catalog = connection, catalog

    def run(self, statement: str, **values: object) -> Sequence[Any]:
        """Run a statement, and return its rows."""
        from sqlalchemy import text

        result = self._connection.execute(text(statement), {"catalog": self._catalog, **values})
        return result.fetchall() if result.returns_rows else []

    def rows(self, names: Iterable[Name], *, lock: bool = False) -> dict[Name, Row]:
        """Return the rows of tables and views; with `lock`, no other transaction changes them."""
        found = self.run(
            "select table_namespace, table_name, metadata_location, coalesce(iceberg_type, 'TABLE') "  # noqa: S608
            f"from iceberg_tables where catalog_name = :catalog and (table_namespace, table_name) in {_NAMES} "
            f"order by 1, 2{' for update' if lock else ''}",
            **_listed(names),
        )
        return {Name(row[0], row[1]): Row(row[2], row[3]) for row in found}

    def rows_of_schemas(self, schemas: Sequence[str]) -> dict[Name, Row]:
        """Return and lock the rows of all tables and views in some schemas."""
        found = self.run(
            "select table_namespace, table_name, metadata_location, coalesce(iceberg_type, 'TABLE') "
            "from iceberg_tables where catalog_name = :catalog and table_namespace = any(:schemas) "
            "order by 1, 2 for update",
            schemas=[*schemas],
        )
        return {Name(row[0], row[1]): Row(row[2], row[3]) for row in found}

    def replace(self, rows: Mapping[Name, Row]) -> None:
        """Let tables, whose rows are locked, point to other metadata."""
        self.run(
            "update iceberg_tables as i set previous_metadata_location = i.metadata_location, "
            "metadata_location = n.l, iceberg_type = n.k from unnest(cast(:schemas as text[]), "
            "cast(:tables as text[]), cast(:locations as text[]), cast(:types as text[])) as n (s, t, l, k) "
            "where i.catalog_name = :catalog and i.table_namespace = n.s and i.table_name = n.t",
            locations=[row.location for row in rows.values()],
            types=[row.type for row in rows.values()],
            **_listed(rows),
        )

    def insert(self, rows: Mapping[Name, Row]) -> list[Name]:
        """Create tables, and return those that another process has created in the meantime."""
        created = self.run(
            "insert into iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) "
            "select :catalog, n.* from unnest(cast(:schemas as text[]), cast(:tables as text[]), "
            "cast(:locations as text[]), cast(:types as text[])) as n "
            "on conflict do nothing returning table_namespace, table_name",
            locations=[row.location for row in rows.values()],
            types=[row.type for row in rows.values()],
            **_listed(rows),
        )
        done = {Name(row[0], row[1]) for row in created}
        return [name for name in rows if name not in done]

    def lock_branch(self, branch: str) -> bool:
        """Lock a branch until the transaction ends, and return whether it exists."""
        return bool(
            self.run(
                "select 1 from lakehouse_branches where catalog_name = :catalog and branch = :branch for update",
                branch=branch,
            )
        )

    def remove(self, names: Iterable[Name]) -> None:
        """Remove the rows of tables and views. Their files remain."""
        self.run(
            "delete from iceberg_tables where catalog_name = :catalog "  # noqa: S608
            f"and (table_namespace, table_name) in {_NAMES}",
            **_listed(names),
        )

    def add_to_branch(self, branch: str, names: Sequence[Name], *, copied: bool) -> None:
        """Register tables as parts of a branch, and remember their current metadata."""
        self.run(
            "insert into lakehouse_branch_tables (catalog_name, branch, table_namespace, table_name, branch_namespace, "
            "base_location, is_copy) select :catalog, :branch, n.s, n.t, n.b, i.metadata_location, "
            ":copied and i.metadata_location is not null and coalesce(i.iceberg_type, 'TABLE') = 'TABLE' "
            "from unnest(cast(:schemas as text[]), cast(:tables as text[]), cast(:on_branch as text[])) as n (s, t, b) "
            "left join iceberg_tables as i on i.catalog_name = :catalog and i.table_namespace = n.s "
            "and i.table_name = n.t",
            branch=branch,
            copied=copied,
            on_branch=[name.on(branch).schema for name in names],
            **_listed(names),
        )

    def copy_tables(self, branch: str, names: Iterable[Name]) -> None:
        """Create copies of tables on a branch."""
        self.run(
            "insert into iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, "  # noqa: S608
            "previous_metadata_location, iceberg_type) select i.catalog_name, t.branch_namespace, i.table_name, "
            "i.metadata_location, i.previous_metadata_location, i.iceberg_type "
            "from lakehouse_branch_tables as t join iceberg_tables as i on i.catalog_name = t.catalog_name "
            "and i.table_namespace = t.table_namespace and i.table_name = t.table_name "
            "and i.metadata_location = t.base_location "
            "where t.catalog_name = :catalog and t.branch = :branch and t.is_copy "
            f"and (t.table_namespace, t.table_name) in {_NAMES}",
            branch=branch,
            **_listed(names),
        )

    def bases(self, branch: str) -> dict[Name, Base]:
        """Return the tables of a branch as they were at its creation, by the name outside of the branch."""
        found = self.run(
            "select table_namespace, table_name, base_location, is_copy from lakehouse_branch_tables "
            "where catalog_name = :catalog and branch = :branch order by 1, 2",
            branch=branch,
        )
        return {Name(row[0], row[1]): Base(row[2], row[3]) for row in found}

    def record_results(self, branch: str, names: Iterable[Name], *, passed: bool) -> None:
        """Record whether tables of a branch have passed their gates."""
        self.run(
            "update lakehouse_branch_tables set passed = :passed where catalog_name = :catalog "  # noqa: S608
            f"and branch = :branch and (table_namespace, table_name) in {_NAMES}",
            branch=branch,
            passed=passed,
            **_listed(names),
        )

    def remove_from_branch(self, branch: str, names: Iterable[Name]) -> None:
        """Forget that tables are parts of a branch."""
        self.run(
            "delete from lakehouse_branch_tables where catalog_name = :catalog and branch = :branch "  # noqa: S608
            f"and (table_namespace, table_name) in {_NAMES}",
            branch=branch,
            **_listed(names),
        )

    def record(self, publication: str, before: Mapping[Name, Row | None], after: Mapping[Name, Row]) -> None:
        """Record what a publication replaces."""
        previous = [before[name] for name in after]
        self.run(
            "insert into lakehouse_publications as p (catalog_name, publication, table_namespace, table_name, "
            "previous_location, previous_type, metadata_location) select :catalog, :publication, n.* from "
            "unnest(cast(:schemas as text[]), cast(:tables as text[]), cast(:previous as text[]), "
            "cast(:types as text[]), cast(:locations as text[])) as n "
            # A retried step publishes again: what was there before its first attempt is what a rollback restores.
            "on conflict (catalog_name, publication, table_namespace, table_name) do update set "
            "metadata_location = excluded.metadata_location, published = now(), rolled_back = null, "
            "previous_location = case when p.rolled_back is null and p.metadata_location = excluded.previous_location "
            "then p.previous_location else excluded.previous_location end, "
            "previous_type = case when p.rolled_back is null and p.metadata_location = excluded.previous_location "
            "then p.previous_type else excluded.previous_type end",
            publication=publication,
            previous=[row.location if row else None for row in previous],
            types=[row.type if row else None for row in previous],
            locations=[row.location for row in after.values()],
            **_listed(after),
        )

    def mark_dropped(self, row: Row, base: str | None, *, after: timedelta = timedelta()) -> None:
        """Record that the files which only this metadata has are to be deleted.

        Args:
            row: The table or view, which has no row in the catalog anymore.
            base: The metadata that it was copied from.
            after: How long the files are kept.
        """
        self.run(
            "insert into lakehouse_dropped_tables "
            "(catalog_name, metadata_location, base_location, is_view, delete_after) "
            "values (:catalog, :location, :base, :is_view, now() + :after) on conflict do nothing",
            location=row.location,
            base=base,
            is_view=row.type == "VIEW",
            after=after,
        )


def _listed(names: Iterable[Name]) -> dict[str, list[str]]:
    listed = [*names]
    return {"schemas": [name.schema for name in listed], "tables": [name.table for name in listed]}
