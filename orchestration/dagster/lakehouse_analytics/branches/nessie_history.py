"""What was published in a catalog of Nessie, as its commits say, and the rollback of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lakehouse_analytics.branches.catalog import (
    ABBREVIATED,
    Name,
    Publication,
    Published,
    changed_since,
    expired,
    of_one_run,
    run_to_roll_back,
)
from lakehouse_analytics.branches.nessie_api import NAMESPACE, ChangedError, Content, delete, literal, put
from lakehouse_analytics.branches.nessie_files import metadata_of
from lakehouse_analytics.branches.nessie_tables import NessieTables

#: The properties of commits that have published tables, or rolled a run back.
PUBLICATION, ROLLBACK = "lakehouse.publication", "lakehouse.rollback"
#: A run does not publish tables so long after it has published others.
LONGEST_RUN = timedelta(days=7)
#: How much the clocks of Nessie's servers, which write the times of commits, may differ.
CLOCKS = timedelta(minutes=1)


@dataclass(frozen=True)
class Commit:
    """A commit that has published tables, or rolled back a publication."""

    name: str
    is_rollback: bool
    parent: str
    time: datetime
    tables: Mapping[Name, Content]


class NessieHistory(NessieTables):
    """Lists publications, and restores what was there before them, all tables in one commit."""

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
        return of_one_run(run, list(found.values()))

    def _commits(self, run: str) -> list[Commit]:
        """Return the commits that have published or rolled back a run, the oldest first."""
        commits = []
        for entry in self._entries(run):
            meta = entry["commitMeta"]
            properties = {key: values[0] for key, values in meta["allProperties"].items()}
            tables = {
                Name(*operation["key"]["elements"]): operation["content"]
                for operation in self._nessie.operations(meta["hash"])
                if operation["type"] == "PUT" and operation["content"]["type"] != NAMESPACE
            }
            name = properties.get(PUBLICATION) or properties[ROLLBACK]
            commits.append(Commit(name, ROLLBACK in properties, entry["parentCommitHash"], _time(entry), tables))
        return commits[::-1]

    def _entries(self, run: str) -> Sequence[Mapping[str, Any]]:
        """Return the entries of the history that have published or rolled back a run, the newest first.

        The history may have years. It is read until all publications of the run must have been found.
        """
        matches = f".startsWith({literal(run)})" if len(run) >= ABBREVIATED else f" == {literal(run)}"
        condition = " || ".join(
            f"('{key}' in commit.properties && commit.properties['{key}']{matches})" for key in (PUBLICATION, ROLLBACK)
        )
        entries: list[Mapping[str, Any]] = []
        for found, before in self._nessie.log(condition):
            entries += found
            if before is None or (entries and before < _time(entries[-1]) - LONGEST_RUN):
                break
        return entries

    def rollback(self, run: str) -> Published:
        """Restore the tables as they were before the publications of a run. See `BranchCatalog.rollback`.

        Raises:
            BranchError: The run has published nothing, it was rolled back already, or a table has changed since.
        """
        publications = self.publications(run)
        run = run_to_roll_back(run, publications)
        before, published = self._replaced(run)
        at = self._nessie.current()
        now = self._nessie.contents(before, at)
        changed = {name for name in before if metadata_of(now.get(name)) != metadata_of(published[name])}
        there = {name: published[name] for name in changed if name in now}
        if changed := changed - self._rewritten(there, publications[0].published):
            raise changed_since(run, sorted(changed))
        for name, content in before.items():
            if content and not self._files.is_restorable(content):
                raise expired(run, name)
        operations = [put(name, content) if content else delete(name) for name, content in before.items()]
        try:
            self._nessie.commit(operations, at, f"lakehouse: roll back {run}", properties={ROLLBACK: run})
        except ChangedError:
            raise changed_since(run, [*before]) from None
        return Published([*before])

    def _rewritten(self, published: Mapping[Name, Content], since: datetime) -> set[Name]:
        """Return the tables of which only files have been rewritten since they were published.

        Args:
            published: The tables as they were published.
            since: The time of the publication.
        """
        later: dict[tuple[str, ...], list[Content]] = {(name.schema, name.table): [] for name in published}
        found = set[Name]()
        since -= CLOCKS
        condition = f"timestamp(commit.commitTime) >= timestamp({literal(since.isoformat())})"
        for entries, before in self._nessie.log(condition, operations=True) if published else ():
            for operation in (operation for entry in entries for operation in entry["operations"]):
                key = tuple(operation["key"]["elements"])
                if key not in later:
                    continue
                content, name = operation.get("content", {}), Name(*key)
                _append(later[key], content)
                is_published = metadata_of(content) == metadata_of(published[name])
                if is_published and self._files.is_rewritten(later.pop(key)):
                    found.add(name)
            if not later or before is None or before < since:
                break
        return found

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


def _append(states: list[Content], earlier: Content) -> None:
    """Append an earlier state of a table. What is between it and a later rollback to it does not count."""
    for number, content in enumerate(states):
        if metadata_of(content) == metadata_of(earlier):
            del states[number:]
            break
    states.append(earlier)


def _time(entry: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["commitMeta"]["commitTime"])
