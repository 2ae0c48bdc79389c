"""The folders of published copies that no table needs anymore.

Nessie's GC tool lists the folder of each table, but not those of the copies that the table was published from. So they
are deleted here, when the state that was published has been replaced for some time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from lakehouse_analytics.branches.catalog import Name
from lakehouse_analytics.branches.nessie_api import TABLE, Content
from lakehouse_analytics.branches.nessie_files import folder_of
from lakehouse_analytics.branches.nessie_history import Commit, NessieHistory

#: How long the files of replaced states are kept, for rollbacks and for queries as of earlier commits.
KEPT = timedelta(days=7)
#: Publications that are older were looked at often enough.
OLDEST = timedelta(days=90)


class NessieReplaced(NessieHistory):
    """Deletes what publications have replaced."""

    def delete_replaced(self) -> int:
        """Delete the files of published copies that were replaced long ago. Return their number.

        A folder is kept as a whole if a table needs a file of it, in any reference of Nessie and by any name, or needed
        it in the last days.
        """
        limit = datetime.now(UTC) - KEPT
        commits = self._all_commits()
        folders: dict[Name, set[str]] = defaultdict(set)
        for commit in commits:
            if limit - OLDEST < commit.time < limit and not commit.is_rollback:
                for name, folder in self._published_from(commit).items():
                    folders[name].add(folder)
        left = {name: {folder for folder in own if self._files.has_files(folder)} for name, own in folders.items()}
        left = {name: own for name, own in left.items() if own}
        if not left:
            return 0
        states = self._states(left, commits, limit)
        unused = [
            folder
            for name, own in left.items()
            for folder in own - self._files.used_folders(states[name].values(), own)
        ]
        return sum(map(self._files.delete_folder, unused))

    def _published_from(self, commit: Commit) -> dict[Name, str]:
        """Return the folders of the copies from which tables were published, if they are not the table's own."""
        tables = [name for name, content in commit.tables.items() if content["type"] == TABLE]
        copies = self._nessie.contents([name.on(commit.branch) for name in tables], commit.parent)
        folders = {
            name: folder_of(copies[name.on(commit.branch)]) for name in tables if name.on(commit.branch) in copies
        }
        return {name: folder for name, folder in folders.items() if folder != folder_of(commit.tables[name])}

    def _states(
        self, folders: Mapping[Name, Collection[str]], commits: Sequence[Commit], limit: datetime
    ) -> dict[Name, dict[str, Content]]:
        """Return the states of tables that are or were recently needed, by their metadata."""
        states: dict[Name, dict[str, Content]] = {name: {} for name in folders}
        related = self._related(folders, commits)
        for reference, head in self._nessie.references().items():
            for key, content in self._nessie.entries(head, f"entry.contentType == '{TABLE}'", reference):
                for mark in (key, content["id"], folder_of(content)):
                    if name := related.get(mark):
                        states[name][str(content["metadataLocation"])] = content
        for commit in commits:
            if commit.time < limit:
                continue
            before = self._nessie.contents([name for name in folders if name in commit.tables], commit.parent)
            for name in folders:
                for found in (before.get(name), commit.tables.get(name)):
                    if found and found["type"] == TABLE:
                        states[name][str(found["metadataLocation"])] = found
        return states

    def _related(self, folders: Mapping[Name, Collection[str]], commits: Sequence[Commit]) -> dict[object, Name]:
        """Return what a table that needs files of some tables can be known by: its key, its id, or its folder.

        A table that was renamed has the same id, a registered one the same folder, and a copy is on a branch.
        """
        related: dict[object, Name] = {(name.schema, name.table): name for name in folders}
        for name, own in folders.items():
            related |= dict.fromkeys(own, name)
        for commit in commits:
            for name, content in commit.tables.items():
                if name in folders:
                    related |= {content["id"]: name, folder_of(content): name}
        for record in self._records(self._nessie.current()).values():
            for schema in record.schemas.values():
                copies = {Name(schema.schema, table): (schema.on_branch, table) for table in schema.tables}
                related |= {key: name for name, key in copies.items() if name in folders}
        return related
