"""Branches of a SQL catalog in PostgreSQL, which Trino calls a JDBC catalog."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from lakehouse_analytics.branches.catalog import (
    Branch,
    BranchError,
    ConflictError,
    Name,
    Publication,
    Published,
    branch_schema,
    check_name,
)
from lakehouse_analytics.branches.files import THREADS, delete, exclusive_files
from lakehouse_analytics.branches.published_metadata import published_table, published_view
from lakehouse_analytics.branches.sql_session import Base, CatalogSession, Row
from lakehouse_analytics.branches.sql_tables import OURS, create_tables, has_tables
from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.iceberg.catalog import open_catalog, reason

if TYPE_CHECKING:
    from pyiceberg.io import FileIO

#: How long the files of a table are kept that a rollback has removed.
KEPT_AFTER_ROLLBACK = timedelta(days=7)
#: Characters with which a publication can be abbreviated, as in Dagster's UI.
ABBREVIATED = 8


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

    def publish(self, branch: str, tables: Collection[Name], publication: str) -> Published:
        """Replace tables with those of the branch. See `BranchCatalog.publish`."""
        what = f"The branch {branch} cannot be published"
        names = sorted(tables)
        on_branch = [name.on(branch) for name in names]
        with self.transaction(what) as session:
            built, bases = session.rows(on_branch), session.bases(branch)
        if unknown := [str(name) for name in names if name not in bases]:
            raise BranchError(f"The branch {branch} has no table {some(unknown, FEW)}.")
        if missing := [str(name) for name in names if name.on(branch) not in built]:
            raise BranchError(f"The branch {branch} has not built {some(missing, FEW)}.")
        schemas = {branch_schema(name.schema, branch): name.schema for name in bases}
        changed = [name for name in names if built[name.on(branch)].location != bases[name].location]
        began = time.time()
        after = self._published({name: (built[name.on(branch)], bases[name]) for name in changed}, schemas, began)
        try:
            with self.transaction(what) as session:
                self._exchange(session, branch, publication, tables=names, built=built, bases=bases, after=after)
        except BaseException:
            for row in after.values():
                delete(self._io(row.location), [row.location])
            raise
        return Published(changed, [name for name in names if name not in after], time.time() - began)

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

    def _exchange(
        self,
        session: CatalogSession,
        branch: str,
        publication: str,
        *,
        tables: Sequence[Name],
        built: Mapping[Name, Row],
        bases: Mapping[Name, Base],
        after: Mapping[Name, Row],
    ) -> None:
        """Let tables point to the metadata with which they are published, unless somebody has changed them."""
        now = session.rows(tables, lock=True)
        if conflicts := [name for name in tables if _location(now.get(name)) != bases[name].location]:
            raise ConflictError(branch, conflicts)
        on_branch = [name.on(branch) for name in tables]
        if session.rows(on_branch, lock=True) != built:
            raise BranchError(
                f"The branch {branch} cannot be published, because it is still being written. "
                "Publish it when its builds have ended."
            )
        session.record(publication, {name: now.get(name) for name in after}, after)
        session.replace(after)
        session.remove(on_branch)
        session.remove_from_branch(branch, tables)

    def _published(
        self, tables: Mapping[Name, tuple[Row, Base]], schemas: Mapping[str, str], when: float
    ) -> dict[Name, Row]:
        """Write the metadata with which tables and views are published, and return their rows."""

        def write(built: tuple[Row, Base]) -> Row:
            row, base = built
            io = self._io(row.location)
            if row.type == "VIEW":
                return Row(published_view(io, row.location, schemas), row.type)
            base_location = base.location if base.is_copy else None
            return Row(published_table(io, row.location, base_location, int(when * 1000)), row.type)

        with ThreadPoolExecutor(THREADS, thread_name_prefix="publish") as pool:
            return dict(zip(tables, pool.map(write, tables.values()), strict=True))

    def publications(self, run: str) -> Sequence[Publication]:
        """Return the publications of a run. See `BranchCatalog.publications`."""
        if not has_tables(self._engine):
            return []
        with self.transaction("The publications cannot be listed") as session:
            rows = session.run(
                "select publication, min(published), max(rolled_back), "
                "array_agg(table_namespace || '.' || table_name order by 1) from lakehouse_publications "
                "where catalog_name = :catalog and (publication = :run or (length(:run) >= :length "
                "and starts_with(publication, :run))) group by 1 order by 2, 1",
                run=run,
                length=ABBREVIATED,
            )
        found = [
            Publication(row[0], row[1], row[2], [Name(*name.split(".", 1)) for name in sorted(row[3])]) for row in rows
        ]
        runs = sorted({publication.run for publication in found})
        if len(runs) > 1:
            raise BranchError(f"{run} is the beginning of several runs: {some(runs, FEW)}. Give more of the id.")
        return found

    def rollback(self, run: str) -> Published:
        """Restore the tables as they were before a run. See `BranchCatalog.rollback`."""
        publications = self.publications(run)
        if not publications:
            raise BranchError(
                f"The run {run} has published nothing. Give the id of a run, or its first {ABBREVIATED} characters."
            )
        run = publications[0].run
        if done := [publication.rolled_back for publication in publications if publication.rolled_back]:
            raise BranchError(f"The run {run} was rolled back already, at {done[0]:%Y-%m-%d %H:%M:%S %Z}.")
        with self.transaction(f"The run {run} cannot be rolled back") as session:
            rows = session.run(
                "select table_namespace, table_name, previous_location, previous_type, metadata_location "
                "from lakehouse_publications where catalog_name = :catalog and publication = any(:publications) "
                "and rolled_back is null order by 1, 2 for update",
                publications=[publication.name for publication in publications],
            )
            before = {Name(row[0], row[1]): Row(row[2], row[3]) if row[2] else None for row in rows}
            published = {Name(row[0], row[1]): row[4] for row in rows}
            now = session.rows(before, lock=True)
            if changed := [str(name) for name in before if _location(now.get(name)) != published[name]]:
                raise BranchError(
                    f"The run {run} cannot be rolled back, because tables have been changed since: "
                    f"{some(changed, FEW)}. Roll back the later runs first, or build the tables again."
                )
            restored = {name: row for name, row in before.items() if row}
            for name, row in restored.items():
                self._check_restorable(run, name, row)
            session.replace(restored)
            created = [name for name, row in before.items() if row is None]
            session.remove(created)
            for name in created:
                session.mark_dropped(now[name], None, after=KEPT_AFTER_ROLLBACK)
            session.run(
                "update lakehouse_publications set rolled_back = now() "
                "where catalog_name = :catalog and publication = any(:publications)",
                publications=[publication.name for publication in publications],
            )
        return Published([*before])

    def _check_restorable(self, run: str, name: Name, row: Row) -> None:
        """Refuse to restore a table whose files maintenance has deleted."""
        from pyiceberg.serializers import FromInputFile

        io = self._io(row.location)
        there = io.new_input(row.location).exists()
        if there and row.type != "VIEW":
            snapshot = FromInputFile.table_metadata(io.new_input(row.location)).current_snapshot()
            there = snapshot is None or io.new_input(snapshot.manifest_list).exists()
        if not there:
            raise BranchError(
                f"The run {run} cannot be rolled back: the snapshot of {name} before it has expired. "
                "Build the table again."
            )

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
                io = self._io(location)
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

    def _io(self, location: str) -> FileIO:
        from pyiceberg.io import load_file_io

        return load_file_io(self._properties, location)

    @contextmanager
    def transaction(self, what: str) -> Iterator[CatalogSession]:
        """Run statements in one transaction.

        Raises:
            BranchError: The database refused a statement. The message begins with `what`.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql(OURS)
                yield CatalogSession(connection, self._name)
        except SQLAlchemyError as error:
            raise BranchError(f"{what}: {reason(self._name, error)}.") from None


def has_branches(catalog: str) -> bool:
    """Return whether a catalog is one that can have branches, and had some.

    Raises:
        CatalogError: The catalog cannot be opened.
    """
    opened: Any = open_catalog(catalog)
    return type(opened).__name__ == "SqlCatalog" and has_tables(opened.engine)


def _location(row: Row | None) -> str | None:
    return row.location if row else None
