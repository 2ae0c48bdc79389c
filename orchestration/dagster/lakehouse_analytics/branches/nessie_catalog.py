"""Branches of a REST catalog of Nessie: schemas beside the others, in the reference of Nessie that Trino reads.

Here, they are created, extended and dropped. `nessie_publications` publishes them, and `nessie_history` rolls back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from lakehouse_analytics.branches.catalog import Branch, BranchError, Name, RefusedError, branch_schema, check_name
from lakehouse_analytics.branches.nessie_api import NAMESPACE, TABLE, ChangedError, Content, delete, put
from lakehouse_analytics.branches.nessie_files import folder_of, metadata_of
from lakehouse_analytics.branches.nessie_publications import ATTEMPTS, NessiePublications
from lakehouse_analytics.branches.nessie_records import Record, SchemaRecord, TableRecord
from lakehouse_analytics.iceberg.catalog import reason

Operations = list[dict[str, Any]]


class NessieBranchCatalog(NessiePublications):
    """The branches of a REST catalog of Nessie, whose tables can be copied without their data."""

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
        if not tables:
            raise BranchError(f"The branch {branch} cannot be created without tables.")
        created = datetime.now(UTC)

        def operations(at: str) -> tuple[Operations, dict[Name, Content]]:
            if branch in self._records(at):
                raise BranchError(f"The branch {branch} exists already.")
            new = SchemaRecord(branch, kind, created, expires, self._nessie.reference, schema="", location="")
            return self._added(Record({}), new, tables, at)

        self._commit(branch, operations, f"lakehouse: create the branch {branch}")

    def _commit(
        self, branch: str, operations: Callable[[str], tuple[Operations, dict[Name, Content]]], message: str
    ) -> None:
        """Commit operations, again if another writer has changed one of their keys in the meantime.

        Args:
            branch: The branch.
            operations: Returns the operations after a commit, and the contents whose metadata was written for them.
            message: The message of the commit.
        """
        for _ in range(ATTEMPTS):
            at = self._nessie.current()
            found, written = operations(at)
            if not found:
                return
            try:
                self._nessie.commit(found, at, message)
            except ChangedError:
                there = self._nessie.contents([name.on(branch) for name in written], self._nessie.current())
                used = set(map(metadata_of, there.values()))  # if a proxy has sent the request twice
                self._files.remove({name: of for name, of in written.items() if metadata_of(of) not in used})
                if written and len(used) == len(written):
                    return
            else:
                return
        raise RefusedError(f"Nothing was changed, because other writers change the same tables ({message}). Try again.")

    def _added(
        self, record: Record, new: SchemaRecord, tables: Mapping[Name, bool], at: str
    ) -> tuple[Operations, dict[Name, Content]]:
        """Return the operations that add tables to a branch, and the copies.

        Args:
            record: The branch as it is.
            new: The record of a new schema of it.
            tables: See `create`.
            at: The commit of which the tables are copied.
        """
        names = sorted(tables)
        schemas = sorted({name.schema for name in names})
        on_branch = [branch_schema(schema, new.branch) for schema in schemas]
        there = self._nessie.contents([*names, *schemas, *on_branch], at)
        records = dict(record.schemas)
        root = ""
        for schema in schemas:
            if schema in records:
                continue
            if (name := branch_schema(schema, new.branch)) in there:
                raise BranchError(
                    f"The branch {new.branch} needs the schema {name}, which exists and is not of a branch. "
                    "Choose another name for the branch."
                )
            own = (there.get(schema, {}).get("properties") or {}).get("location", "").rstrip("/")
            root = root or own or self._warehouse()
            location = f"{own}__{new.branch}" if own else f"{root}/{name}"
            records[schema] = replace(new, schema=schema, location=location)
        copied = {name: there[name] for name in names if tables[name] and there.get(name, {}).get("type") == TABLE}
        folders = {name: f"{records[name.schema].location}/{name.table}_{uuid.uuid4()}" for name in copied}
        copies = self._files.copies(copied, folders)
        operations = [put(name.on(new.branch), copy) for name, copy in copies.items()]
        for schema in schemas:
            own_names = [name for name in names if name.schema == schema]
            added = {
                name.table: TableRecord(metadata_of(there.get(name)), metadata_of(copies.get(name)))
                for name in own_names
            }
            changed = records[schema].with_tables({**records[schema].tables, **added})
            operations.insert(0, put(changed.on_branch, changed.content()))
        return operations, copies

    def _warehouse(self) -> str:
        if not (found := self._nessie.warehouse()):
            raise BranchError(
                f"Nessie does not say where the warehouse of the catalog {self._nessie.name} is. "
                "Set the property `warehouse` of the catalog in pyiceberg's configuration."
            )
        return found

    def built(self, branch: str) -> Sequence[Name]:
        """Return the tables that a branch has, as named outside of it.

        Raises:
            BranchError: There is no such branch.
        """
        at = self._nessie.current()
        tables = self._record(branch, at).tables
        there = self._nessie.contents([name.on(branch) for name in tables], at)
        return [name for name in tables if name.on(branch) in there]

    def extend(self, branch: str, tables: Mapping[Name, bool]) -> None:
        """Add tables to a branch. See `BranchCatalog.extend`.

        Raises:
            BranchError: There is no such branch.
        """

        def operations(at: str) -> tuple[Operations, dict[Name, Content]]:
            record = self._record(branch, at)
            known = record.tables
            copies = [name for name, of in known.items() if of.copy and not tables.get(name, True)]
            there = self._nessie.contents([name.on(branch) for name in copies], at)
            # A model that has become a view cannot replace the copy of its table.
            obsolete = [name for name in copies if metadata_of(there.get(name.on(branch))) == known[name].copy]
            new = {name: copied for name, copied in tables.items() if name not in known or name in obsolete}
            if not new:
                return [], {}
            added, written = self._added(record, next(iter(record.schemas.values())), new, at)
            removed = [delete(name.on(branch)) for name in obsolete]
            return [*removed, *added], written

        self._commit(branch, operations, f"lakehouse: extend the branch {branch}")

    def record_results(self, branch: str, passed: Collection[Name], failed: Collection[Name]) -> None:
        """Record which tables of a branch a run has built and which have passed their gates."""
        results = {**dict.fromkeys(failed, False), **dict.fromkeys(passed, True)}

        def operations(at: str) -> tuple[Operations, dict[Name, Content]]:
            changed = []
            for schema in self._record(branch, at).schemas.values():
                tables = {
                    name: replace(of, passed=results.get(Name(schema.schema, name), of.passed))
                    for name, of in schema.tables.items()
                }
                if tables != schema.tables:
                    changed.append(put(schema.on_branch, schema.with_tables(tables).content()))
            return changed, {}

        self._commit(branch, operations, f"lakehouse: results of the branch {branch}")

    def failed(self, branch: str) -> Sequence[Name]:
        """Return the tables of a branch that failed, or were not built, in the last run that should have built them."""
        record = self._records(self._nessie.current()).get(branch, Record({}))
        return [name for name, of in record.tables.items() if of.passed is False]

    def drop(self, branch: str) -> int:
        """Drop a branch and the files that only it has. Return the number of deleted files.

        The branch is first marked, so that nothing is published from it anymore. Its tables are removed when their
        files are deleted: after an interruption, `delete_dropped` finds them.

        Raises:
            BranchError: Files cannot be deleted yet. `delete_dropped` repeats it.
        """

        def mark(at: str) -> tuple[Operations, dict[Name, Content]]:
            record = self._records(at).get(branch)
            schemas = [schema for schema in (record.schemas.values() if record else ()) if not schema.dropped]
            return [put(schema.on_branch, replace(schema, dropped=True).content()) for schema in schemas], {}

        self._commit(branch, mark, f"lakehouse: drop the branch {branch}")
        return self._delete(branch)

    def delete_dropped(self) -> int:
        """Delete the files of dropped branches, also those that a killed process has left. Return their number."""
        records = self._records(self._nessie.current())
        return sum(self._delete(branch) for branch, record in records.items() if record.dropped)

    def _delete(self, branch: str) -> int:
        """Delete the files of a branch that is marked, and then its tables and schemas."""
        deleted = 0

        def operations(at: str) -> tuple[Operations, dict[Name, Content]]:
            nonlocal deleted
            record = self._records(at).get(branch)
            if record is None:
                return [], {}
            schemas = {schema.on_branch: schema for schema in record.schemas.values()}
            tables, others = dict[Name, Content](), set[str]()
            for key, content in self._nessie.entries(at, f"entry.contentType != '{NAMESPACE}'"):
                if len(key) == 2 and key[0] in schemas:
                    tables[Name(*key)] = content
                elif metadata := metadata_of(content):
                    others.add(metadata)
            deleted += self._delete_files(tables, schemas, others)
            return [*map(delete, tables), *map(delete, schemas)], {}

        self._commit(branch, operations, f"lakehouse: drop the branch {branch}")
        return deleted

    def _delete_files(
        self, tables: Mapping[Name, Content], schemas: Mapping[str, SchemaRecord], others: Iterable[str]
    ) -> int:
        """Delete the folders of tables that are in the folder of their schema, and that no other table is in."""
        deleted = 0
        for name, content in tables.items():
            folder, schema = folder_of(content), schemas[name.schema]
            inside = folder.startswith(f"{schema.location}/") and folder not in schema.published
            if inside and not any(metadata.startswith(f"{folder}/") for metadata in others):
                try:
                    deleted += self._files.delete_folder(folder)
                except Exception as error:  # of the storage
                    why = reason(self._nessie.name, error)
                    raise BranchError(f"The files of the dropped table {name} cannot be deleted yet: {why}.") from None
        return deleted

    def branches(self) -> Sequence[Branch]:
        """Return all branches, the oldest first."""
        found = [record.branch() for record in self._records(self._nessie.current()).values()]
        return sorted(found, key=lambda branch: (branch.created, branch.name))
