"""Branches of a SQL catalog in PostgreSQL, which Trino calls a JDBC catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from lakehouse_analytics.branches.catalog import Branch, BranchError, Name, branch_schema, check_name
from lakehouse_analytics.branches.files import delete, exclusive_files
from lakehouse_analytics.branches.sql_publications import SqlPublications
from lakehouse_analytics.branches.sql_session import CatalogSession
from lakehouse_analytics.branches.sql_tables import create_tables, has_tables
from lakehouse_analytics.iceberg.catalog import open_catalog


class SqlBranchCatalog(SqlPublications):
    """The branches of a catalog of pyiceberg's type `sql`. See `BranchCatalog`."""

    def create(
        self,
        branch: str,
        tables: Mapping[Name, bool],
        *,
        kind: Literal["run", "branch"] = "branch",
        expires: datetime | None = None,
    ) -> None:
        """Create a branch. See `BranchCatalog.create`."""
        check_name(branch)
        create_tables(self._name, self._engine)
        with self.transaction(f"The branch {branch} cannot be created") as session:
            created = session.run(
                "insert into lakehouse_branches (catalog_name, branch, kind, expires) "
                "values (:catalog, :branch, :kind, :expires) on conflict do nothing returning branch",
                branch=branch,
                kind=kind,
                expires=expires,
            )
            if not created:
                raise BranchError(f"The branch {branch} exists already.")
            self._add(session, branch, tables)

    def _add(self, session: CatalogSession, branch: str, tables: Mapping[Name, bool]) -> None:
        self._create_schemas(session, branch, tables)
        for copied in (True, False):
            names = sorted(name for name, is_copy in tables.items() if is_copy is copied)
            session.add_to_branch(branch, names, copied=copied)
        session.copy_tables(branch, [name for name, is_copy in tables.items() if is_copy])

    def _create_schemas(self, session: CatalogSession, branch: str, tables: Iterable[Name]) -> None:
        """Create the schemas of a branch at the locations of the schemas that they belong to."""
        warehouse = str(self._properties.get("warehouse", "")).rstrip("/")
        for schema in sorted({name.schema for name in tables}):
            on_branch = branch_schema(schema, branch)
            session.run(
                "insert into iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) "
                "select catalog_name, :on_branch, property_key, property_value from iceberg_namespace_properties "
                "where catalog_name = :catalog and namespace = :schema on conflict do nothing",
                on_branch=on_branch,
                schema=schema,
            )
            defaults = {"exists": "true", **({"location": f"{warehouse}/{schema}"} if warehouse else {})}
            for key, value in defaults.items():
                session.run(
                    "insert into iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) "
                    "values (:catalog, :on_branch, :key, :value) on conflict do nothing",
                    on_branch=on_branch,
                    key=key,
                    value=value,
                )

    def built(self, branch: str) -> Sequence[Name]:
        """Return the tables that a branch has, as named outside of it.

        Raises:
            BranchError: There is no such branch.
        """
        if branch not in {existing.name for existing in self.branches()}:
            raise BranchError(f"There is no branch {branch}. `lakehouse branch list` shows all.")
        with self.transaction(f"The branch {branch} cannot be read") as session:
            bases = session.bases(branch)
            there = session.rows([name.on(branch) for name in bases])
        return [name for name in bases if name.on(branch) in there]

    def extend(self, branch: str, tables: Mapping[Name, bool]) -> None:
        """Add tables to a branch, such as new models. Tables that it has already stay as they are.

        Args:
            branch: The branch.
            tables: See `BranchCatalog.create`.

        Raises:
            BranchError: There is no such branch.
        """
        self.built(branch)
        with self.transaction(f"The branch {branch} cannot be extended") as session:
            known = session.bases(branch)
            self._add(session, branch, {name: copied for name, copied in tables.items() if name not in known})

    def drop(self, branch: str) -> int:
        """Drop a branch and the files that only it has. See `BranchCatalog.drop`."""
        if not has_tables(self._engine):
            return 0
        with self.transaction(f"The branch {branch} cannot be dropped") as session:
            bases = {name.on(branch): base.location for name, base in session.bases(branch).items() if base.is_copy}
            found = session.run(
                "select distinct namespace from iceberg_namespace_properties "
                "where catalog_name = :catalog and right(namespace, length(:ending)) = :ending",
                ending=branch_schema("", branch),
            )
            schemas = [row[0] for row in found]
            left = session.rows_of_schemas(schemas)
            for name, row in left.items():
                if row.location != bases.get(name):
                    session.mark_dropped(row, bases.get(name))
            session.remove(left)
            session.run(
                "delete from iceberg_namespace_properties where catalog_name = :catalog and namespace = any(:schemas)",
                schemas=schemas,
            )
            session.run(
                "delete from lakehouse_branches where catalog_name = :catalog and branch = :branch", branch=branch
            )
        return self.delete_dropped()

    def delete_dropped(self) -> int:
        """Delete the files of dropped branches, also those that a killed process has left. Return their number."""
        if not has_tables(self._engine):
            return 0
        deleted = 0
        with self.transaction("The files of dropped branches cannot be deleted") as session:
            rows = session.run(
                "select metadata_location, base_location, is_view from lakehouse_dropped_tables "
                "where catalog_name = :catalog and delete_after <= now() "
                "and not exists (select from iceberg_tables as i where i.metadata_location = "
                "lakehouse_dropped_tables.metadata_location) for update skip locked"
            )
            for location, base, is_view in rows:
                io = self.io(location)
                if io.new_input(location).exists():
                    files = {location} if is_view else exclusive_files(io, location, base)
                    # The metadata names the other files, so it goes last.
                    deleted += delete(io, files - {location}) + delete(io, files & {location})
                session.run(
                    "delete from lakehouse_dropped_tables "
                    "where catalog_name = :catalog and metadata_location = :location",
                    location=location,
                )
        return deleted

    def branches(self) -> Sequence[Branch]:
        """Return all branches, the oldest first."""
        if not has_tables(self._engine):
            return []
        with self.transaction("The branches cannot be listed") as session:
            rows = session.run(
                "select b.branch, b.kind, b.created, b.expires, count(t.table_name) from lakehouse_branches as b "
                "left join lakehouse_branch_tables as t using (catalog_name, branch) where b.catalog_name = :catalog "
                "group by 1, 2, 3, 4 order by 3, 1"
            )
        return [Branch(*row) for row in rows]


def has_branches(catalog: str) -> bool:
    """Return whether a catalog is one that can have branches, and had some.

    Raises:
        CatalogError: The catalog cannot be opened.
    """
    opened: Any = open_catalog(catalog)
    return type(opened).__name__ == "SqlCatalog" and has_tables(opened.engine)
