"""Branches of a SQL catalog in PostgreSQL, which Trino calls a JDBC catalog."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import ClassVar, Literal

from lakehouse_analytics.branches.catalog import Branch, BranchError, Name, branch_schema, check_name
from lakehouse_analytics.branches.files import THREADS, delete, exclusive_files, in_stages, location_of
from lakehouse_analytics.branches.sql_publications import SqlPublications
from lakehouse_analytics.branches.sql_session import Base, CatalogSession
from lakehouse_analytics.branches.sql_tables import create_tables, has_tables
from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.iceberg.metadata_file import read_json

#: Iceberg's property with which a commit deletes the oldest metadata files of its log.
_DELETING = "write.metadata.delete-after-commit.enabled"
_SCHEMAS = "select namespace from lakehouse_branch_schemas where catalog_name = :catalog and branch = :branch"
_EXISTS = """
select 1 from iceberg_namespace_properties where catalog_name = :catalog and namespace = :on_branch
union select 1 from iceberg_tables where catalog_name = :catalog and table_namespace = :on_branch
union select 1 from lakehouse_branch_schemas where catalog_name = :catalog and namespace = :on_branch
"""
_DROPPED = """
select metadata_location, base_location, is_view from lakehouse_dropped_tables as d
where catalog_name = :catalog and delete_after <= now() and not metadata_location = any(cast(:problems as text[]))
and not exists (select from iceberg_tables as i where i.metadata_location = d.metadata_location)
limit 1 for update skip locked
"""


class SqlBranchCatalog(SqlPublications):
    """The branches of a catalog of pyiceberg's type `sql`, whose tables can be copied without their data."""

    copies_tables: ClassVar[bool] = True

    def create(
        self,
        branch: str,
        tables: Mapping[Name, bool],
        *,
        kind: Literal["run", "branch"] = "branch",
        expires: datetime | None = None,
    ) -> None:
        """Create a branch. See `BranchCatalog.create`.

        Raises:
            BranchError: A branch of that name exists, or the catalog or a table cannot have branches.
        """
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
        bases = session.bases(branch)
        self._refuse_deleting({name: bases[name] for name in tables if bases[name].is_copy})

    def _refuse_deleting(self, copies: Mapping[Name, Base]) -> None:
        """Refuse tables of which each commit on a branch could delete metadata files of the table itself."""

        def deletes(base: Base) -> bool:
            location = str(base.location)
            return bool(read_json(self.io(location), location).get("properties", {}).get(_DELETING) == "true")

        with ThreadPoolExecutor(THREADS, thread_name_prefix="properties") as pool:
            found = [str(name) for name, one in zip(copies, pool.map(deletes, copies.values()), strict=True) if one]
        if found:
            raise BranchError(
                f"{some(found, FEW)} cannot be on a branch, because of the table property {_DELETING}: commits on the "
                "branch would delete metadata files of the table itself. Remove the property."
            )

    def _create_schemas(self, session: CatalogSession, branch: str, tables: Iterable[Name]) -> None:
        """Create the schemas of a branch at the locations of the schemas that they belong to."""
        warehouse = str(self._properties.get("warehouse", "")).rstrip("/")
        own = {row[0] for row in session.run(_SCHEMAS, branch=branch)}
        for schema in sorted({name.schema for name in tables}):
            on_branch = branch_schema(schema, branch)
            if on_branch in own:
                continue
            if session.run(_EXISTS, on_branch=on_branch):
                raise BranchError(
                    f"The branch {branch} needs the schema {on_branch}, which exists and is not of a branch. "
                    "Choose another name for the branch."
                )
            session.run(
                "insert into lakehouse_branch_schemas values (:catalog, :branch, :on_branch)",
                branch=branch,
                on_branch=on_branch,
            )
            session.run(
                "insert into iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) "
                "select catalog_name, :on_branch, property_key, property_value from iceberg_namespace_properties "
                "where catalog_name = :catalog and namespace = :schema",
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
        """Add tables to a branch. See `BranchCatalog.extend`.

        Raises:
            BranchError: There is no such branch.
        """
        self.built(branch)
        with self.transaction(f"The branch {branch} cannot be extended") as session:
            if not session.lock_branch(branch):
                raise BranchError(f"There is no branch {branch}. `lakehouse branch list` shows all.")
            known = session.bases(branch)
            # A model that has become a view cannot replace the copy of its table.
            obsolete = [name for name, base in known.items() if base.is_copy and not tables.get(name, True)]
            rows = session.rows([name.on(branch) for name in obsolete], lock=True)
            obsolete = [
                name for name in obsolete if (row := rows.get(name.on(branch))) and row.location == known[name].location
            ]
            session.remove([name.on(branch) for name in obsolete])
            session.remove_from_branch(branch, obsolete)
            new = {name: copied for name, copied in tables.items() if name not in known or name in obsolete}
            self._add(session, branch, new)

    def record_results(self, branch: str, passed: Collection[Name], failed: Collection[Name]) -> None:
        """Record which tables of a branch a run has built and which have passed their gates."""
        with self.transaction(f"The results of the branch {branch} cannot be recorded") as session:
            for value, names in ((True, passed), (False, failed)):
                session.record_results(branch, names, passed=value)

    def failed(self, branch: str) -> Sequence[Name]:
        """Return the tables of a branch that failed, or were not built, in the last run that should have built them."""
        with self.transaction(f"The branch {branch} cannot be read") as session:
            rows = session.run(
                "select table_namespace, table_name from lakehouse_branch_tables "
                "where catalog_name = :catalog and branch = :branch and not passed order by 1, 2",
                branch=branch,
            )
        return [Name(row[0], row[1]) for row in rows]

    def drop(self, branch: str) -> int:
        """Drop a branch and the files that only it has. Return the number of deleted files.

        Raises:
            BranchError: Files cannot be deleted yet. The branch is dropped, and `delete_dropped` repeats it.
        """
        if not has_tables(self._engine):
            return 0
        with self.transaction(f"The branch {branch} cannot be dropped") as session:
            if not session.lock_branch(branch):
                return 0
            bases = {name.on(branch): base.location for name, base in session.bases(branch).items() if base.is_copy}
            schemas = [row[0] for row in session.run(_SCHEMAS, branch=branch)]
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
        deleted, problems, first = 0, list[str](), ""
        while True:
            with self.transaction("The files of dropped branches cannot be deleted") as session:
                rows = session.run(_DROPPED, problems=problems)
                if not rows:
                    break
                location, base, is_view = rows[0]
                try:
                    deleted += self._delete(session, location, base, is_view=is_view)
                except Exception as error:  # of the storage: the others can still be deleted, and these the next time
                    problems.append(location)
                    first = f"{location}: {type(error).__name__}: {error}" if len(problems) == 1 else first
                    continue
                session.run(
                    "delete from lakehouse_dropped_tables "
                    "where catalog_name = :catalog and metadata_location = :location",
                    location=location,
                )
        if problems:
            raise BranchError(f"The files of {len(problems)} dropped tables cannot be deleted yet: {first}")
        return deleted

    def _delete(self, session: CatalogSession, location: str, base: str | None, *, is_view: bool) -> int:
        io = self.io(location)
        if not io.new_input(location).exists():
            return 0
        if is_view:
            return delete(io, [location])
        inside = "select 1 from iceberg_tables where starts_with(metadata_location, :folder) limit 1"
        if base is None and session.run(inside, folder=location_of(io, location)):
            return 0  # the table has been registered again since, and may have changed
        return sum(delete(io, stage) for stage in in_stages(exclusive_files(io, location, base)))

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
