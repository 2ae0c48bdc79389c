"""Publications of branches of Nessie's catalog, and their rollback. Each is one commit of Nessie."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from lakehouse_analytics.branches.catalog import (
    ABBREVIATED,
    BranchError,
    ConflictError,
    Name,
    Publication,
    Published,
    RefusedError,
)
from lakehouse_analytics.branches.files import THREADS
from lakehouse_analytics.branches.nessie_api import NAMESPACE, TABLE, VIEW, ChangedError, Content, Nessie, delete, put
from lakehouse_analytics.branches.nessie_files import NessieFiles, folder_of, metadata_of
from lakehouse_analytics.branches.nessie_leases import Lease
from lakehouse_analytics.branches.nessie_records import Record, SchemaRecord
from lakehouse_analytics.branches.published_metadata import newest_time, published_view
from lakehouse_analytics.common.names import FEW, some

#: Attempts to commit while other writers change other keys of the catalog.
ATTEMPTS = 5
_PUBLICATION, _ROLLBACK = "lakehouse.publication", "lakehouse.rollback"


@dataclass(frozen=True)
class _Commit:
    """A commit that has published tables, or rolled back a publication."""

    name: str
    is_rollback: bool
    parent: str
    time: datetime
    tables: Mapping[Name, Content]


class NessiePublications:
    """Publishes branches, and restores what was there before: all tables in one commit, or none."""

    def __init__(self, catalog: str) -> None:
        """
        Args:
            catalog: The name of the catalog in pyiceberg's configuration.

        Raises:
            CatalogError: The catalog cannot be opened.
        """
        self._nessie = Nessie(catalog)
        self._files = NessieFiles(self._nessie.properties)

    def in_use(self, branch: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """Mark a branch as being used for as long as the block runs. See `BranchCatalog.in_use`.

        If this process dies, others see the mark for a minute.
        """
        return Lease(self._nessie, branch, shared=shared).held()

    def _records(self, at: str) -> dict[str, Record]:
        """Return the branches at a commit, by their names."""
        found: dict[str, dict[str, SchemaRecord]] = {}
        for _, content in self._nessie.entries(at, f"entry.contentType == '{NAMESPACE}'"):
            if schema := SchemaRecord.of(content):
                found.setdefault(schema.branch, {})[schema.schema] = schema
        return {branch: Record(schemas) for branch, schemas in found.items()}

    def _record(self, branch: str, at: str) -> Record:
        record = self._records(at).get(branch)
        if record is None or record.dropped:
            raise BranchError(f"There is no branch {branch}. `lakehouse branch list` shows all.")
        return record

    def publish(self, branch: str, tables: Collection[Name], publication: str) -> Published:
        """Replace tables with those of the branch. See `BranchCatalog.publish`.

        Raises:
            ConflictError: A table has changed since the branch was created.
            BranchError: The branch has no such table.
        """
        names = sorted(tables)
        seen: dict[Name, str | None] | None = None
        for _ in range(ATTEMPTS):
            at = self._nessie.current()
            record = self._record(branch, at)
            now = self._nessie.contents([*names, *(name.on(branch) for name in names)], at)
            self._check(branch, names, record, now)
            built = {name: metadata_of(now[name.on(branch)]) for name in names}
            if seen not in (None, built):
                raise RefusedError(
                    f"The branch {branch} cannot be published, because it is still being written. "
                    "Publish it when its builds have ended."
                )
            seen = built
            changed = [name for name in names if built[name] != record.tables[name].copy]
            if not changed:
                return Published([], names)
            began = time.time()
            after, written = self._published(branch, changed, record, now)
            operations = [*self._operations(branch, after, now, at), *_forgotten(record, changed, now)]
            try:
                self._nessie.commit(
                    operations, at, f"lakehouse: publish {publication}", properties={_PUBLICATION: publication}
                )
            except ChangedError:
                self._files.remove(written)
                continue
            return Published(changed, [name for name in names if name not in changed], time.time() - began)
        raise RefusedError(f"Nothing of the branch {branch} was published, because its tables are being changed.")

    def _check(self, branch: str, names: Sequence[Name], record: Record, now: Mapping[Any, Content]) -> None:
        if unknown := [str(name) for name in names if name not in record.tables]:
            raise BranchError(f"The branch {branch} has no table {some(unknown, FEW)}.")
        if missing := [str(name) for name in names if name.on(branch) not in now]:
            raise BranchError(f"The branch {branch} has not built {some(missing, FEW)}.")
        if conflicts := [name for name in names if metadata_of(now.get(name)) != record.tables[name].base]:
            raise ConflictError(branch, conflicts)
        others = [str(name) for name in names if name in now and now[name]["type"] != now[name.on(branch)]["type"]]
        if others:
            raise RefusedError(
                f"Nothing of the branch {branch} was published, because a view would replace a table, or a table a "
                f"view, and Nessie cannot do that in one commit: {some(others, FEW)}. Drop the old one first."
            )

    def _published(
        self, branch: str, names: Sequence[Name], record: Record, now: Mapping[Any, Content]
    ) -> tuple[dict[Name, Content], dict[Name, Content]]:
        """Write the metadata with which tables and views are published.

        Returns:
            The contents of all names, and those of them whose metadata was written.
        """
        schemas = {schema.on_branch: name for name, schema in record.schemas.items()}

        with ThreadPoolExecutor(THREADS, thread_name_prefix="publish") as pool:
            tables = [name for name in names if name in now and now[name]["type"] == TABLE]
            read = dict(zip(tables, pool.map(lambda name: self._files.read(now[name.on(branch)]), tables), strict=True))
            # Iceberg refuses times that go back, such as those of a clock that is behind Trino's.
            when = max([int(time.time() * 1000), *(newest_time(metadata) + 1 for metadata in read.values())])

            def content(name: Name) -> Content:
                built, base = now[name.on(branch)], now.get(name)
                if built["type"] == VIEW:
                    location = str(built["metadataLocation"])
                    rewritten = published_view(self._files.io(location), location, schemas)
                    return {**built, "id": (base or built)["id"], "metadataLocation": rewritten}
                return self._files.published(built, base, read[name], when) if base else built

            after = dict(zip(names, pool.map(content, names), strict=True))
        return after, {
            name: content
            for name, content in after.items()
            if metadata_of(content) != metadata_of(now[name.on(branch)])
        }

    def _operations(
        self, branch: str, after: Mapping[Name, Content], now: Mapping[Any, Content], at: str
    ) -> Iterable[dict[str, Any]]:
        """Yield the operations that let names have other contents, and remove those of the branch."""
        schemas = sorted({name.schema for name in after if name not in now})
        there = self._nessie.contents(schemas, at)
        for schema in schemas:
            if schema not in there:
                yield put(schema, {"type": NAMESPACE, "elements": [schema], "properties": {}})
        for name, content in after.items():
            # A new table keeps its id in Nessie, by which Nessie's GC tool knows that it was renamed.
            yield delete(name.on(branch))
            yield put(name, content)

    def publications(self, run: str) -> Sequence[Publication]:
        """Return the publications of a run, the oldest first. See `BranchCatalog.publications`.

        Raises:
            BranchError: Several runs begin so.
        """
        found: dict[str, Publication] = {}
        for commit in self._commits(run):
            known = found.get(commit.name)
            if commit.is_rollback:
                found |= {
                    name: Publication(name, of.published, of.rolled_back or commit.time, of.tables)
                    for name, of in found.items()
                    if of.run == commit.name
                }
            elif known and not known.rolled_back:
                tables = sorted({*known.tables, *commit.tables})
                found[commit.name] = Publication(commit.name, known.published, None, tables)
            else:
                found[commit.name] = Publication(commit.name, commit.time, None, sorted(commit.tables))
        runs = sorted({publication.run for publication in found.values()})
        if len(runs) > 1:
            raise BranchError(f"{run} is the beginning of several runs: {some(runs, FEW)}. Give more of the id.")
        return list(found.values())

    def _commits(self, run: str) -> list[_Commit]:
        """Return the commits that have published or rolled back a run, the oldest first."""
        condition = f"'{_PUBLICATION}' in commit.properties || '{_ROLLBACK}' in commit.properties"
        commits = []
        for entry in self._nessie.log(condition):
            meta = entry["commitMeta"]
            properties = {key: values[0] for key, values in meta["allProperties"].items()}
            name = properties.get(_PUBLICATION) or properties[_ROLLBACK]
            if name == run or (len(run) >= ABBREVIATED and name.startswith(run)):
                tables = {
                    Name(*operation["key"]["elements"]): operation["content"]
                    for operation in entry["operations"]
                    if operation["type"] == "PUT" and operation["content"]["type"] != NAMESPACE
                }
                when = datetime.fromisoformat(meta["commitTime"])
                commits.append(_Commit(name, _ROLLBACK in properties, entry["parentCommitHash"], when, tables))
        return commits[::-1]

    def rollback(self, run: str) -> Published:
        """Restore the tables as they were before the publications of a run. See `BranchCatalog.rollback`.

        Raises:
            BranchError: The run has published nothing, it was rolled back already, or a table has changed since.
        """
        publications = self.publications(run)
        if not publications:
            raise BranchError(
                f"The run {run} has published nothing. Give the id of a run, or its first {ABBREVIATED} characters."
            )
        run = publications[0].run
        if done := [publication.rolled_back for publication in publications if publication.rolled_back]:
            raise BranchError(f"The run {run} was rolled back already, at {done[0]:%Y-%m-%d %H:%M:%S %Z}.")
        before, published = self._replaced(run)
        at = self._nessie.current()
        now = self._nessie.contents(before, at)
        changed = [str(name) for name in before if metadata_of(now.get(name)) != metadata_of(published[name])]
        if changed:
            raise _changed(run, changed)
        for name, content in before.items():
            if content and not self._files.is_restorable(content):
                raise BranchError(
                    f"The run {run} cannot be rolled back: the snapshot of {name} before it has expired. "
                    "Build the table again."
                )
        operations = [put(name, content) if content else delete(name) for name, content in before.items()]
        try:
            self._nessie.commit(operations, at, f"lakehouse: roll back {run}", properties={_ROLLBACK: run})
        except ChangedError:
            raise _changed(run, [str(name) for name in before]) from None
        return Published([*before])

    def _replaced(self, run: str) -> tuple[dict[Name, Content | None], dict[Name, Content]]:
        """Return the tables as they were before the publications of a run, and as it has published them."""
        before: dict[Name, Content | None] = {}
        published: dict[Name, Content] = {}
        for commit in self._commits(run):
            if commit.is_rollback:
                before, published = {}, {}
                continue
            previous = self._nessie.contents(commit.tables, commit.parent)
            for name, content in commit.tables.items():
                # A retried step publishes again: what was there before its first attempt is what is restored.
                if name not in published or metadata_of(previous.get(name)) != metadata_of(published[name]):
                    before[name] = previous.get(name)
                published[name] = content
        return before, published


def _forgotten(record: Record, names: Sequence[Name], now: Mapping[Any, Content]) -> list[dict[str, Any]]:
    """Return the operations with which tables are no longer parts of a branch.

    They are refused if the branch is dropped at the same time, because that changes the same keys.
    """
    operations = []
    for schema in record.schemas.values():
        own = {name.table: name for name in names if name.schema == schema.schema}
        folders = [folder_of(now[Name(schema.on_branch, table)]) for table in own]
        left = schema.with_tables({table: of for table, of in schema.tables.items() if table not in own})
        changed = replace(left, published=(*schema.published, *folders))
        operations.append(put(schema.on_branch, changed.content()))
    return operations


def _changed(run: str, names: Sequence[str]) -> BranchError:
    return BranchError(
        f"The run {run} cannot be rolled back, because tables have been changed since: {some([*names], FEW)}. "
        "Roll back the later runs first, or build the tables again."
    )
