"""Publications of branches of Nessie's catalog. Each is one commit of Nessie."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lakehouse_analytics.branches.catalog import BranchError, ConflictError, Name, Published, RefusedError
from lakehouse_analytics.branches.files import THREADS
from lakehouse_analytics.branches.nessie_api import NAMESPACE, TABLE, VIEW, ChangedError, Content, delete, put
from lakehouse_analytics.branches.nessie_files import folder_of, metadata_of
from lakehouse_analytics.branches.nessie_history import PUBLICATION, NessieHistory
from lakehouse_analytics.branches.nessie_records import Record
from lakehouse_analytics.branches.published_metadata import newest_time, renamed_view
from lakehouse_analytics.common.names import FEW, some

#: Attempts to commit while other writers change other keys of the catalog.
ATTEMPTS = 5


class NessiePublications(NessieHistory):
    """Publishes branches: all tables in one commit, or none."""

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
            seconds = self._commit_publication(branch, changed, record, now, publication)
            if seconds is not None:
                return Published(changed, [name for name in names if name not in changed], seconds)
        raise RefusedError(f"Nothing of the branch {branch} was published, because its tables are being changed.")

    def _commit_publication(
        self, branch: str, names: Sequence[Name], record: Record, now: Mapping[Any, Content], publication: str
    ) -> float | None:
        """Publish tables, and return the seconds since the time of publication.

        None if the tables were not as expected anymore.
        """
        views = self._create_views(branch, names, record, now)
        at = self._nessie.current()
        there = self._nessie.contents([*now, *views.values()], at)
        after: dict[Name, Content] = {}
        # The record is that of `now`, and must not replace one by which the branch is being dropped.
        as_before = self._records(at).get(branch) == record
        if as_before and all(there.get(name) == content for name, content in now.items()):
            after, when = self._published_tables(branch, names, now)
            for name, view in views.items():
                after[name] = {**there[view], "id": now[name]["id"]} if name in now else there[view]
            operations = [
                *self._operations(branch, after, now, at),
                *_forgotten(record, names, now),
                *map(delete, views.values()),
            ]
            message, properties = f"lakehouse: publish {publication}", {PUBLICATION: publication}
            try:
                self._nessie.commit(operations, at, message, properties=properties)
            except ChangedError:
                # Also the answer to a request that a proxy has sent twice.
                if self._is_published(after):
                    return time.time() - when
            except BranchError as error:
                if not self._is_published(after):
                    raise BranchError(f"Whether the branch {branch} was published is not known: {error}") from None
                return time.time() - when
            else:
                return time.time() - when
        with suppress(BranchError):  # they are removed with the branch
            if views:
                self._nessie.commit(
                    [delete(view) for view in views.values()], at, f"lakehouse: not published {publication}"
                )
        self._files.remove({name: content for name, content in after.items() if name in now and name not in views})
        return None

    def _is_published(self, contents: Mapping[Name, Content]) -> bool:
        """Return whether tables have the contents of a commit whose answer was lost."""
        try:
            now = self._nessie.contents(contents, self._nessie.current())
        except BranchError:
            return False
        return all(metadata_of(now.get(name)) == metadata_of(content) for name, content in contents.items())

    def _create_views(
        self, branch: str, names: Sequence[Name], record: Record, now: Mapping[Any, Content]
    ) -> dict[Name, Name]:
        """Create views on the branch with the SQL that will be published, and return their names."""
        schemas = {schema.on_branch: name for name, schema in record.schemas.items()}
        views = {}
        for name in names:
            if now[name.on(branch)]["type"] == VIEW:
                view = Name(name.on(branch).schema, f"{name.table}__{uuid.uuid4().hex[:8]}")
                self._nessie.create_view(view, renamed_view(self._files.read(now[name.on(branch)]), schemas))
                views[name] = view
        return views

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

    def _published_tables(
        self, branch: str, names: Sequence[Name], now: Mapping[Any, Content]
    ) -> tuple[dict[Name, Content], float]:
        """Write the metadata with which tables are published.

        Returns:
            The contents that have it, and the time of publication in seconds since 1970.
        """
        tables = [name for name in names if now[name.on(branch)]["type"] == TABLE]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="publish") as pool:
            read = dict(zip(tables, pool.map(lambda name: self._files.read(now[name.on(branch)]), tables), strict=True))
            # Iceberg refuses times that go back, such as those of a clock that is behind Trino's.
            when = max([int(time.time() * 1000), *(newest_time(metadata) + 1 for metadata in read.values())])

            def content(name: Name) -> Content:
                built, base = now[name.on(branch)], now.get(name)
                return self._files.published(built, base, read[name], when) if base else built

            return dict(zip(tables, pool.map(content, tables), strict=True)), when / 1000

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
