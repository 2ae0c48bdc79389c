"""The folders of published copies that no table needs anymore.

Nessie's GC tool lists the folder of each table, but not those of the copies that the table was published from. So they
are deleted here, when the state that was published has been replaced for some time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from lakehouse_analytics.branches.catalog import Name
from lakehouse_analytics.branches.nessie_api import TABLE, Content
from lakehouse_analytics.branches.nessie_files import folder_of, metadata_of
from lakehouse_analytics.branches.nessie_history import Commit, NessieHistory

#: How long the files of replaced states are kept, for rollbacks and for queries as of earlier commits.
KEPT = timedelta(days=7)
#: Publications that are older were looked at often enough.
OLDEST = timedelta(days=90)


class NessieReplaced(NessieHistory):
    """Deletes what publications have replaced."""

    def delete_replaced(self) -> int:
        """Delete the files of published copies that were replaced long ago. Return their number.

        A folder is kept as a whole if a table needs a file of it, in any reference of Nessie, or needed it in the last
        days.
        """
        limit = datetime.now(UTC) - KEPT
        commits = self._all_commits()
        folders: dict[Name, set[str]] = defaultdict(set)
        for commit in commits:
            if limit - OLDEST < commit.time < limit and not commit.is_rollback:
                for name, folder in self._published_from(commit).items():
                    folders[name].add(folder)
        left = {name: {folder for folder in own if self._files.has_files(folder)} for name, own in folders.items()}
        names = [name for name, own in left.items() if own]
        if not names:
            return 0
        states = self._states(names, [commit for commit in commits if commit.time >= limit])
        unused = [
            folder
            for name in names
            for folder in left[name] - self._files.used_folders(states[name].values(), left[name])
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

    def _states(self, names: Collection[Name], recent: Iterable[Commit]) -> dict[Name, dict[str, Content]]:
        """Return the states of tables that are or were recently needed, by their metadata."""
        states: dict[Name, dict[str, Content]] = {name: {} for name in names}
        seen = [self._nessie.contents(names, head, reference) for reference, head in self._nessie.references().items()]
        for commit in recent:
            seen += [self._nessie.contents([name for name in names if name in commit.tables], commit.parent)]
            seen += [{name: content for name, content in commit.tables.items() if name in states}]
        for contents in seen:
            for name in names:
                if metadata := metadata_of(contents.get(name)):
                    states[name][metadata] = contents[name]
        return states
