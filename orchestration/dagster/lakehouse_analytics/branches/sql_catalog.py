"""Branches of a SQL catalog in PostgreSQL, as Trino calls it: a JDBC catalog."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from lakehouse_analytics.branches.catalog import Branch, BranchError, ConflictError, Name, Published, check_name
from lakehouse_analytics.branches.files import delete, exclusive_files
from lakehouse_analytics.branches.sql_tables import OURS, create_tables, has_tables
from lakehouse_analytics.branches.views import publishable
from lakehouse_analytics.common.names import some
from lakehouse_analytics.iceberg.catalog import CatalogError, open_catalog, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyiceberg.io import FileIO
    from sqlalchemy.engine import Connection

#: How long the files of a table are kept that a rollback has removed.
KEPT_AFTER_ROLLBACK = timedelta(days=7)
#: SQLSTATE of a unique violation.
_EXISTS = "23505"


@dataclass(frozen=True)
class _Row:
    """A row of `iceberg_tables`."""

    location: str
    type: str


class SqlBranchCatalog:
    """The branches of a catalog of pyiceberg's type `sql`. See `BranchCatalog`."""

    def __init__(self, catalog: str) -> None:
        """
        Args:
            catalog: The name of the catalog in pyiceberg's configuration, which is also the name in its rows.

        Raises:
            BranchError: The catalog cannot have branches.
            CatalogError: The catalog cannot be opened.
        """
        opened: Any = open_catalog(catalog)
        if type(opened).__name__ != "SqlCatalog":
            raise BranchError(
                f"LAKEHOUSE_ICEBERG_CATALOG is {catalog}, a catalog of type {type(opened).__name__}: branches need a "
                "SQL catalog in PostgreSQL, which Trino calls a JDBC catalog."
            )
        self._name, self._engine, self._properties = catalog, opened.engine, opened.properties
        self._has_types: bool | None = None

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
        with self._transaction(f"The branch {branch} cannot be created") as sql:
            created = sql.run(
                "insert into lakehouse_branches (catalog_name, branch, kind, expires) "
                "values (:catalog, :branch, :kind, :expires) on conflict do nothing returning branch",
                branch=branch, kind=kind, expires=expires,
            )  # fmt: skip
            if not created:
                raise BranchError(f"The branch {branch} exists already.")
            self._create_schemas(sql, branch, tables)
            for copied in (True, False):
                names = sorted(name for name, is_copy in tables.items() if is_copy is copied)
                self._add_tables(sql, branch, names, copied=copied)

    def _create_schemas(self, sql: _Sql, branch: str, tables: Iterable[Name]) -> None:
        """Create the schemas of a branch at the locations of the schemas that they belong to."""
        warehouse = str(self._properties.get("warehouse", "")).rstrip("/")
        for schema in sorted({name.schema for name in tables}):
            on_branch = Name(schema, "").on(branch).schema
            sql.run(
                "insert into iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) "
                "select catalog_name, :on_branch, property_key, property_value from iceberg_namespace_properties "
                "where catalog_name = :catalog and namespace = :schema on conflict do nothing",
                on_branch=on_branch, schema=schema,
            )  # fmt: skip
            defaults = {"exists": "true", **({"location": f"{warehouse}/{schema}"} if warehouse else {})}
            for key, value in defaults.items():
                sql.run(
                    "insert into iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) "
                    "values (:catalog, :on_branch, :key, :value) on conflict do nothing",
                    on_branch=on_branch, key=key, value=value,
                )  # fmt: skip

    def _add_tables(self, sql: _Sql, branch: str, names: Sequence[Name], *, copied: bool) -> None:
        if not names:
            return
        listed = {
            "schemas": [name.schema for name in names],
            "tables": [name.table for name in names],
            "on_branch": [name.on(branch).schema for name in names],
        }
        is_table = f"{self._type('i')} = 'TABLE'"
        sql.run(
            "insert into lakehouse_branch_tables (catalog_name, branch, table_namespace, table_name, branch_namespace, "
            "base_location, is_copy) select :catalog, :branch, n.s, n.t, n.b, i.metadata_location, "
            f":copied and i.metadata_location is not null and {is_table} "
            "from unnest(cast(:schemas as text[]), cast(:tables as text[]), cast(:on_branch as text[])) as n (s, t, b) "
            "left join iceberg_tables as i on i.catalog_name = :catalog and i.table_namespace = n.s "
            "and i.table_name = n.t",
            branch=branch, copied=copied, **listed,
        )  # fmt: skip
        if copied:
            types = ", iceberg_type" if self._typed() else ""
            sql.run(
                "insert into iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, "
                f"previous_metadata_location{types}) select i.catalog_name, t.branch_namespace, i.table_name, "
                f"i.metadata_location, i.previous_metadata_location{types.replace(' ', ' i.')} "
                "from lakehouse_branch_tables as t join iceberg_tables as i on i.catalog_name = t.catalog_name "
                "and i.table_namespace = t.table_namespace and i.table_name = t.table_name "
                "and i.metadata_location = t.base_location "
                "where t.catalog_name = :catalog and t.branch = :branch and t.is_copy",
                branch=branch,
            )  # fmt: skip

    def publish(self, branch: str, tables: Collection[Name], publication: str) -> Published:
        """Replace tables with those of the branch. See `BranchCatalog.publish`."""
        what = f"The branch {branch} cannot be published"
        names = sorted(tables)
        with self._transaction(what) as sql:
            built = self._rows(sql, [name.on(branch) for name in names])
            bases = self._bases(sql, branch)
        if unknown := [name for name in names if name not in bases]:
            raise BranchError(f"The branch {branch} has no table {some([*map(str, unknown)], 3)}.")
        if missing := [name for name in names if name.on(branch) not in built]:
            raise BranchError(f"The branch {branch} has not built {some([*map(str, missing)], 3)}.")
        schemas = {Name(schema, "").on(branch).schema: schema for schema in {name.schema for name in bases}}
        locations = {
            name: self._publishable(row, schemas) for name in names for row in [built[name.on(branch)]]
        }
        with self._transaction(what) as sql:
            now = self._rows(sql, names, lock=True)
            if conflicts := [name for name in names if _location(now.get(name)) != bases[name]]:
                raise ConflictError(branch, conflicts)
            if self._rows(sql, [name.on(branch) for name in names], lock=True) != built:
                raise BranchError(f"The branch {branch} is still being written. Publish it when its builds have ended.")
            changed = [name for name in names if locations[name] != bases[name]]
            self._record(sql, publication, {name: (now.get(name), locations[name]) for name in changed})
            self._replace(sql, [(name, locations[name], built[name.on(branch)].type) for name in changed])
            self._remove(sql, [name.on(branch) for name in names])
            sql.run(
                "delete from lakehouse_branch_tables where catalog_name = :catalog and branch = :branch and "
                "(table_namespace, table_name) in (select * from unnest(cast(:schemas as text[]), "
                "cast(:tables as text[])))",
                branch=branch, **_listed(names),
            )  # fmt: skip
        return Published(changed, [name for name in names if name not in changed])

    def _publishable(self, row: _Row, schemas: Mapping[str, str]) -> str:
        return publishable(self._io(row.location), row.location, schemas) if row.type == "VIEW" else row.location

    def rollback(self, publication: str) -> Published:
        """Restore the tables as they were before a publication. See `BranchCatalog.rollback`."""
        create_tables(self._name, self._engine)
        with self._transaction(f"{publication} cannot be rolled back") as sql:
            rows = sql.run(
                "select table_namespace, table_name, previous_location, previous_type, metadata_location, rolled_back "
                "from lakehouse_publications where catalog_name = :catalog and publication = :publication order by 1, 2 "
                "for update",
                publication=publication,
            )
            if not rows:
                raise BranchError(f"Nothing was published by {publication}, or it is no longer known.")
            if done := [row for row in rows if row[5]]:
                raise BranchError(f"{publication} was rolled back already, at {done[0][5]:%Y-%m-%d %H:%M:%S %Z}.")
            names = [Name(row[0], row[1]) for row in rows]
            now = self._rows(sql, names, lock=True)
            if changed := [name for name, row in zip(names, rows, strict=True) if _location(now.get(name)) != row[4]]:
                raise BranchError(
                    f"{publication} cannot be rolled back, because tables have been changed since: "
                    f"{some([*map(str, changed)], 5)}. Roll back the later runs first, or build the tables again."
                )
            for name, row in zip(names, rows, strict=True):
                if row[2]:
                    self._check_restorable(publication, name, row[2], row[3])
            self._replace(sql, [(name, row[2], row[3]) for name, row in zip(names, rows, strict=True) if row[2]])
            created = [name for name, row in zip(names, rows, strict=True) if not row[2]]
            self._remove(sql, created)
            self._mark_dropped(sql, [(now[name], None) for name in created], after=KEPT_AFTER_ROLLBACK)
            sql.run(
                "update lakehouse_publications set rolled_back = now() "
                "where catalog_name = :catalog and publication = :publication",
                publication=publication,
            )
        return Published(names)

    def _check_restorable(self, publication: str, name: Name, location: str, kind: str) -> None:
        """Refuse to restore a table whose files maintenance has deleted."""
        from pyiceberg.serializers import FromInputFile

        io = self._io(location)
        there = io.new_input(location).exists()
        if there and kind != "VIEW":
            snapshot = FromInputFile.table_metadata(io.new_input(location)).current_snapshot()
            there = snapshot is None or io.new_input(snapshot.manifest_list).exists()
        if not there:
            raise BranchError(
                f"{publication} cannot be rolled back: the snapshot of {name} before it has expired. "
                "Build the table again."
            )

    def drop(self, branch: str) -> int:
        """Drop a branch and the files that only it has. See `BranchCatalog.drop`."""
        if not has_tables(self._engine):
            return 0
        with self._transaction(f"The branch {branch} cannot be dropped") as sql:
            bases = {name.on(branch): base for name, base in self._copies(sql, branch).items()}
            schemas = [row[0] for row in sql.run(
                "select distinct namespace from iceberg_namespace_properties "
                "where catalog_name = :catalog and right(namespace, length(:ending)) = :ending",
                ending=Name("", "").on(branch).schema,
            )]  # fmt: skip
            left = {
                Name(row[0], row[1]): _Row(row[2], row[3])
                for row in sql.run(
                    f"select table_namespace, table_name, metadata_location, {self._type()} from iceberg_tables "
                    "where catalog_name = :catalog and table_namespace = any(:schemas) for update",
                    schemas=schemas,
                )
            }
            self._mark_dropped(sql, [(row, bases.get(name)) for name, row in left.items() if row.location != bases.get(name)])
            self._remove(sql, left)
            sql.run(
                "delete from iceberg_namespace_properties where catalog_name = :catalog and namespace = any(:schemas)",
                schemas=schemas,
            )
            sql.run("delete from lakehouse_branches where catalog_name = :catalog and branch = :branch", branch=branch)
        return self.delete_dropped()

    def delete_dropped(self) -> int:
        """Delete the files of dropped branches, also those that a killed process has left. Return their number."""
        if not has_tables(self._engine):
            return 0
        deleted = 0
        with self._transaction("The files of dropped branches cannot be deleted") as sql:
            rows = sql.run(
                "select metadata_location, base_location, is_view from lakehouse_dropped_tables "
                "where catalog_name = :catalog and delete_after <= now() and not exists (select from iceberg_tables as i "
                "where i.metadata_location = lakehouse_dropped_tables.metadata_location) for update skip locked"
            )
            for location, base, is_view in rows:
                io = self._io(location)
                if io.new_input(location).exists():
                    files = {location} if is_view else exclusive_files(io, location, base)
                    # The metadata names the other files, so it goes last.
                    deleted += delete(io, files - {location}) + delete(io, {location})
                sql.run(
                    "delete from lakehouse_dropped_tables "
                    "where catalog_name = :catalog and metadata_location = :location",
                    location=location,
                )
        return deleted

    def branches(self) -> Sequence[Branch]:
        """Return all branches, the oldest first."""
        if not has_tables(self._engine):
            return []
        with self._transaction("The branches cannot be listed") as sql:
            rows = sql.run(
                "select b.branch, b.kind, b.created, b.expires, count(t.table_name) from lakehouse_branches as b "
                "left join lakehouse_branch_tables as t using (catalog_name, branch) where b.catalog_name = :catalog "
                "group by 1, 2, 3, 4 order by 3, 1"
            )
        return [Branch(*row) for row in rows]

    def _bases(self, sql: _Sql, branch: str) -> dict[Name, str | None]:
        """Return the metadata of each table of a branch at its creation, by the name outside of the branch."""
        return {Name(row[0], row[1]): row[2] for row in sql.run(
            "select table_namespace, table_name, base_location from lakehouse_branch_tables "
            "where catalog_name = :catalog and branch = :branch",
            branch=branch,
        )}  # fmt: skip

    def _copies(self, sql: _Sql, branch: str) -> dict[Name, str | None]:
        return {Name(row[0], row[1]): row[2] for row in sql.run(
            "select table_namespace, table_name, base_location from lakehouse_branch_tables "
            "where catalog_name = :catalog and branch = :branch and is_copy",
            branch=branch,
        )}  # fmt: skip

    def _rows(self, sql: _Sql, names: Sequence[Name], *, lock: bool = False) -> dict[Name, _Row]:
        rows = sql.run(
            f"select table_namespace, table_name, metadata_location, {self._type()} from iceberg_tables "
            "where catalog_name = :catalog and (table_namespace, table_name) in "
            "(select * from unnest(cast(:schemas as text[]), cast(:tables as text[]))) "
            f"order by 1, 2{' for update' if lock else ''}",
            **_listed(names),
        )
        return {Name(row[0], row[1]): _Row(row[2], row[3]) for row in rows}

    def _record(self, sql: _Sql, publication: str, changed: Mapping[Name, tuple[_Row | None, str]]) -> None:
        if not changed:
            return
        sql.run(
            "insert into lakehouse_publications (catalog_name, publication, table_namespace, table_name, "
            "previous_location, previous_type, metadata_location) select :catalog, :publication, n.* from "
            "unnest(cast(:schemas as text[]), cast(:tables as text[]), cast(:previous as text[]), "
            "cast(:types as text[]), cast(:locations as text[])) as n",
            publication=publication,
            previous=[_location(before) for before, _ in changed.values()],
            types=[before.type if before else None for before, _ in changed.values()],
            locations=[location for _, location in changed.values()],
            **_listed(changed),
        )

    def _replace(self, sql: _Sql, rows: Sequence[tuple[Name, str, str]]) -> None:
        """Let tables point to other metadata, and create those that do not exist."""
        if not rows:
            return
        typed = self._typed()
        sql.run(
            "insert into iceberg_tables (catalog_name, table_namespace, table_name, metadata_location"
            f"{', iceberg_type' if typed else ''}) select :catalog, n.s, n.t, n.l{', n.k' if typed else ''} "
            "from unnest(cast(:schemas as text[]), cast(:tables as text[]), cast(:locations as text[]), "
            "cast(:types as text[])) as n (s, t, l, k) "
            "on conflict (catalog_name, table_namespace, table_name) do update set "
            "previous_metadata_location = iceberg_tables.metadata_location, "
            f"metadata_location = excluded.metadata_location{', iceberg_type = excluded.iceberg_type' if typed else ''}",
            locations=[location for _, location, _ in rows],
            types=[kind for _, _, kind in rows],
            **_listed([name for name, _, _ in rows]),
        )

    def _remove(self, sql: _Sql, names: Iterable[Name]) -> None:
        sql.run(
            "delete from iceberg_tables where catalog_name = :catalog and (table_namespace, table_name) in "
            "(select * from unnest(cast(:schemas as text[]), cast(:tables as text[])))",
            **_listed(names),
        )

    def _mark_dropped(
        self, sql: _Sql, rows: Iterable[tuple[_Row, str | None]], *, after: timedelta = timedelta()
    ) -> None:
        for row, base in rows:
            sql.run(
                "insert into lakehouse_dropped_tables "
                "(catalog_name, metadata_location, base_location, is_view, delete_after) "
                "values (:catalog, :location, :base, :is_view, now() + :after) on conflict do nothing",
                location=row.location, base=base, is_view=row.type == "VIEW", after=after,
            )  # fmt: skip

    def _typed(self) -> bool:
        """Return whether the catalog has views: only since version 1 of the schema, rows have a type."""
        if self._has_types is None:
            from sqlalchemy import inspect

            columns = {column["name"] for column in inspect(self._engine).get_columns("iceberg_tables")}
            self._has_types = "iceberg_type" in columns
        return self._has_types

    def _type(self, table: str = "iceberg_tables") -> str:
        return f"coalesce({table}.iceberg_type, 'TABLE')" if self._typed() else "'TABLE'"

    def _io(self, location: str) -> FileIO:
        from pyiceberg.io import load_file_io

        return load_file_io(self._properties, location)

    @contextmanager
    def _transaction(self, what: str) -> Iterator[_Sql]:
        """Run statements in one transaction.

        Raises:
            BranchError: The database refused a statement. The message begins with `what`.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql(OURS)
                yield _Sql(connection, self._name)
        except SQLAlchemyError as error:
            raise BranchError(f"{what}: {reason(self._name, error)}.") from None


class _Sql:
    """Runs statements of one transaction."""

    def __init__(self, connection: Connection, catalog: str) -> None:
        self._connection, self._catalog = connection, catalog

    def run(self, statement: str, **values: object) -> Sequence[Any]:
        from sqlalchemy import text

        result = self._connection.execute(text(statement), {"catalog": self._catalog, **values})
        return result.fetchall() if result.returns_rows else []


def _location(row: _Row | None) -> str | None:
    return row.location if row else None


def _listed(names: Iterable[Name]) -> dict[str, list[str]]:
    listed = [*names]
    return {"schemas": [name.schema for name in listed], "tables": [name.table for name in listed]}
