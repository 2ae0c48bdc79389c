"""Publications of branches of a SQL catalog, and their rollback."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from lakehouse_analytics.branches.catalog import (
    ABBREVIATED,
    BranchError,
    ConflictError,
    Name,
    Publication,
    Published,
    RefusedError,
    branch_schema,
    changed_since,
    expired,
    of_one_run,
    run_to_roll_back,
)
from lakehouse_analytics.branches.files import THREADS, delete, is_restorable, location_of
from lakehouse_analytics.branches.published_metadata import newest_time, published_table, published_view, write_next
from lakehouse_analytics.branches.restoration import is_rewritten, restored
from lakehouse_analytics.branches.sql_database import CatalogDatabase
from lakehouse_analytics.branches.sql_session import Base, CatalogSession, Row
from lakehouse_analytics.branches.sql_tables import has_tables
from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.iceberg.metadata_file import read_json

#: How long the files of a table are kept that a rollback has removed.
KEPT_AFTER_ROLLBACK = timedelta(days=7)


class SqlPublications(CatalogDatabase):
    """Publishes branches, and restores what was there before: all tables in one transaction, or none."""

    def publish(self, branch: str, tables: Collection[Name], publication: str) -> Published:
        """Replace tables with those of the branch. See `BranchCatalog.publish`.

        Raises:
            ConflictError: A table has changed since the branch was created.
            BranchError: The branch has no such table.
        """
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
        changed = {name: (built[name.on(branch)], bases[name]) for name in names}
        changed = {name: (row, base) for name, (row, base) in changed.items() if row.location != base.location}
        after, began = self._published(changed, schemas)
        written = [row.location for name, row in after.items() if row.location != changed[name][0].location]
        try:
            with self.transaction(what) as session:
                self._exchange(session, branch, publication, tables=names, built=built, bases=bases, after=after)
        except RefusedError:
            # After other errors, it is not known whether the database has committed. Orphan files do no harm.
            for location in written:
                delete(self.io(location), [location])
            raise
        return Published([*changed], [name for name in names if name not in changed], time.time() - began)

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
        """Let tables point to the metadata with which they are published, unless they have changed since."""
        if not session.lock_branch(branch):
            raise RefusedError(f"There is no branch {branch}.")
        now = session.rows(tables, lock=True)
        if conflicts := [name for name in tables if _location(now.get(name)) != bases[name].location]:
            raise ConflictError(branch, conflicts)
        on_branch = [name.on(branch) for name in tables]
        if session.rows(on_branch, lock=True) != built:
            raise RefusedError(
                f"The branch {branch} cannot be published, because it is still being written. "
                "Publish it when its builds have ended."
            )
        session.record(publication, {name: now.get(name) for name in after}, after)
        session.replace({name: row for name, row in after.items() if name in now})
        if conflicts := session.insert({name: row for name, row in after.items() if name not in now}):
            raise ConflictError(branch, conflicts)
        for name in after:
            # The new table is not a version of the old one, whose files a rollback may need.
            if name in now and not bases[name].is_copy:
                session.mark_dropped(now[name], None, after=KEPT_AFTER_ROLLBACK)
        session.remove(on_branch)
        session.remove_from_branch(branch, tables)

    def _published(
        self, tables: Mapping[Name, tuple[Row, Base]], schemas: Mapping[str, str]
    ) -> tuple[dict[Name, Row], float]:
        """Write the metadata with which tables and views are published.

        Returns:
            Their rows, and the time of publication in seconds since 1970.
        """
        with ThreadPoolExecutor(THREADS, thread_name_prefix="publish") as pool:
            read = dict(zip(tables, pool.map(lambda built: self._history(*built), tables.values()), strict=True))
            newest = max((newest_time(history[0]) for history in read.values() if history), default=0)
            # Iceberg refuses times that go back, such as those of a clock that is behind Trino's.
            when = max(int(time.time() * 1000), newest + 1)

            def write(name: Name) -> Row:
                row, history = tables[name][0], read[name]
                io = self.io(row.location)
                if history is None:
                    return Row(published_view(io, row.location, schemas), row.type)
                return Row(published_table(io, row.location, *history, when), row.type)

            return dict(zip(tables, pool.map(write, tables), strict=True)), when / 1000

    def _history(self, row: Row, base: Base) -> tuple[dict[str, Any], int] | None:
        """Return a table's metadata, and the number of entries of its history that are older than the branch.

        None for a view.
        """
        if row.type == "VIEW":
            return None
        io, known = self.io(row.location), 0
        if base.is_copy and base.location and io.new_input(base.location).exists():
            known = len(read_json(io, base.location).get("snapshot-log", ()))
        return read_json(io, row.location), known

    def publications(self, run: str) -> Sequence[Publication]:
        """Return the publications of a run, the oldest first. See `BranchCatalog.publications`.

        Raises:
            BranchError: Several runs begin so.
        """
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
        return of_one_run(run, found)

    def rollback(self, run: str) -> Published:
        """Restore the tables as they were before the publications of a run.

        Raises:
            BranchError: The run has published nothing, it was rolled back already, or a table has changed since.
        """
        publications = self.publications(run)
        run = run_to_roll_back(run, publications)
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
            with ThreadPoolExecutor(THREADS, thread_name_prefix="rollback") as pool:
                unchanged = pool.map(lambda name: self._is_unchanged(now.get(name), published[name]), before)
                if changed := [name for name, same in zip(before, unchanged, strict=True) if not same]:
                    raise changed_since(run, changed)
                existed = {name: row for name, row in before.items() if row}
                self._keep(session, run, existed)
                after = self._restored(run, pool, {name: (now[name], row) for name, row in existed.items()})
            session.replace(after)
            created = [name for name, row in before.items() if row is None]
            session.remove(created)
            unwritten = [name for name, row in existed.items() if after[name] == row]
            replaced = [name for name in unwritten if not self._is_version(now[name], existed[name])]
            for name in (*created, *replaced):
                session.mark_dropped(now[name], None, after=KEPT_AFTER_ROLLBACK)
            session.run(
                "update lakehouse_publications set rolled_back = now() "
                "where catalog_name = :catalog and publication = any(:publications)",
                publications=[publication.name for publication in publications],
            )
        return Published([*before])

    def _keep(self, session: CatalogSession, run: str, tables: Mapping[Name, Row]) -> None:
        """Keep the files of tables that a publication has replaced.

        Raises:
            BranchError: They are due to be deleted, so some may be gone already.
        """
        for name, row in tables.items():
            dropped = session.run(
                "delete from lakehouse_dropped_tables where catalog_name = :catalog and metadata_location = :location "
                "returning delete_after <= now()",
                location=row.location,
            )
            if any(is_due for (is_due,) in dropped):
                raise expired(run, name)

    def _is_version(self, row: Row, other: Row) -> bool:
        """Return whether two rows are versions of one table, which share its files."""
        locations = {location_of(self.io(one.location), one.location) for one in (row, other)}
        return row.type == other.type and len(locations) == 1

    def _is_unchanged(self, row: Row | None, published: str) -> bool:
        """Return whether a table or view is as it was published. Maintenance may have rewritten its files."""
        if row is None or row.location == published:
            return row is not None
        io = self.io(row.location)
        if row.type == "VIEW" or not io.new_input(published).exists():
            return False
        return is_rewritten(read_json(io, row.location), read_json(io, published))

    def _restored(self, run: str, pool: ThreadPoolExecutor, tables: Mapping[Name, tuple[Row, Row]]) -> dict[Name, Row]:
        """Return the rows of tables and views with the state before a run, for which metadata is written.

        Args:
            run: The run.
            pool: Reads and writes the files.
            tables: The row of each as it is, and as it was. The latter is returned if it was another table, or a view.

        Raises:
            BranchError: A snapshot has expired.
        """

        def read(name: Name) -> tuple[dict[str, Any], dict[str, Any]] | None:
            now, before = tables[name]
            io = self.io(before.location)
            if not is_restorable(io, before.location, is_view=before.type == "VIEW"):
                raise expired(run, name)
            if "VIEW" in (now.type, before.type):
                return None
            metadata, previous = read_json(io, now.location), read_json(io, before.location)
            return (metadata, previous) if metadata["table-uuid"] == previous["table-uuid"] else None

        found = {name: states for name, states in zip(tables, pool.map(read, tables), strict=True) if states}
        when = max([int(time.time() * 1000), *(newest_time(metadata) + 1 for metadata, _ in found.values())])
        written: dict[Name, dict[str, Any]] = {}
        for name, (metadata, previous) in found.items():
            version = restored(metadata, previous, location=tables[name][0].location, now_ms=when)
            if version is None:
                raise expired(run, name)
            written[name] = version

        def write(name: Name) -> Row:
            now, before = tables[name]
            if name not in written:
                return before
            return Row(write_next(self.io(now.location), written[name], now.location), before.type)

        return dict(zip(tables, pool.map(write, tables), strict=True))


def _location(row: Row | None) -> str | None:
    return row.location if row else None
