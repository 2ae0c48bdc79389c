"""Plans the maintenance of an Iceberg table: derives the steps that are due, with reasons, from policy and state.

Pure functions: no Dagster, no connection. After a step, the state is such that the step is not due any more.
Syntax: https://trino.io/docs/476/connector/iceberg.html#alter-table-execute
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from lakehouse_analytics.common import durations
from lakehouse_analytics.common.names import counted
from lakehouse_analytics.common.sql import literal
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.maintenance.policy import Policy

Kind = Literal[
    "drop_temp_relations", "optimize", "optimize_manifests", "expire_snapshots", "remove_orphan_files", "analyze"
]
#: Merging comes first, so that the files that it replaces can be expired later, and its result analyzed.
ORDER: tuple[Kind, ...] = (
    "drop_temp_relations",
    "optimize",
    "optimize_manifests",
    "expire_snapshots",
    "remove_orphan_files",
    "analyze",
)
#: Iceberg's `commit.manifest.target-size-bytes`.
MANIFEST_BYTES = 8 * 2**20
#: Maximum number of partitions merged by one statement. A writer of Trino has at most 100 open, and fails beyond that.
PARTITIONS = 90
#: Additional time for which snapshots are kept. The statement computes their age when it runs, which may be minutes
#: after they were measured if it is retried.
MARGIN = timedelta(hours=1)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of the table. `changed` is the number of rows that it added or deleted; merging files changes none."""

    id: int
    at: datetime
    changed: int = 0


@dataclass(frozen=True)
class State:
    """The measured state of a table.

    Attributes:
        now: Trino's clock when the table was measured.
        mergeable: Number of files by which merging small ones, partition by partition, would reduce the table.
        partitions_to_merge: Number of partitions with files to merge.
        rows, deleted_rows: Rows in data files, and how many of them delete files mark as deleted.
        snapshots: Oldest first; the last is the current one.
        referenced: Ids of the snapshots to which branches or tags refer.
        analyzed, searched: When maintenance last collected statistics, and searched for orphan files.
        temp_relations: Temporary relations of dead builds, with their type: `table` or `view`.
    """

    now: datetime
    data_files: int = 0
    data_bytes: int = 0
    small_files: int = 0
    mergeable: int = 0
    partitions_to_merge: int = 0
    delete_files: int = 0
    delete_bytes: int = 0
    rows: int = 0
    deleted_rows: int = 0
    manifests: int = 0
    manifest_bytes: int = 0
    snapshots: tuple[Snapshot, ...] = ()
    referenced: frozenset[int] = frozenset()
    analyzed: datetime | None = None
    searched: datetime | None = None
    temp_relations: tuple[tuple[Relation, str], ...] = ()


@dataclass(frozen=True)
class Statement:
    """A statement for one table or view."""

    relation: Relation
    sql: str

    @property
    def deletes_files(self) -> bool:
        """Whether files of the relation may be deleted. True unless the statement is known to keep all of them."""
        table = f"ALTER TABLE {self.relation} EXECUTE"
        keeps = (f"{table} optimize(", f"{table} optimize_manifests", f"ANALYZE {self.relation}", "DROP VIEW ")
        return not self.sql.startswith(keeps)


@dataclass(frozen=True)
class Step:
    """A maintenance step and the reason for it."""

    kind: Kind
    reason: str
    statements: tuple[Statement, ...]


def plan(relation: Relation, policy: Policy, state: State) -> list[Step]:
    """Return the steps that are due, in the order of execution.

    Each step changes the state. Measure again before the next one, and call `due` for it.
    """
    return [step for kind in ORDER if (step := due(kind, relation, policy, state))]


def due(kind: Kind, relation: Relation, policy: Policy, state: State) -> Step | None:
    """Return the step of a kind, or None if it is not due."""
    match kind:
        case "drop_temp_relations":
            return _drop_temp_relations(state)
        case "optimize":
            return _optimize(relation, policy, state)
        case "optimize_manifests":
            return _optimize_manifests(relation, policy, state)
        case "expire_snapshots":
            return _expire_snapshots(relation, policy, state)
        case "remove_orphan_files":
            return _remove_orphan_files(relation, policy, state)
        case "analyze":
            return _analyze(relation, policy, state)


def optimize_statements(relation: Relation, policy: Policy, partitions: Sequence[str] = ()) -> tuple[Statement, ...]:
    """Return the statements that merge the files of a table.

    Args:
        relation: The table.
        policy: Its policy.
        partitions: Values of `"$partition"`, if the table has too many partitions for one statement. If empty, one
            statement merges the whole table.
    """
    execute = f"ALTER TABLE {relation} EXECUTE optimize(file_size_threshold => '{policy.small_file}')"
    chunks = [partitions[start : start + PARTITIONS] for start in range(0, len(partitions), PARTITIONS)]
    pieces = [f'{execute} WHERE "$partition" IN ({_literals(chunk)})' for chunk in chunks]
    return tuple(Statement(relation, sql) for sql in pieces or [execute])


def expirable(policy: Policy, state: State) -> tuple[list[Snapshot], datetime | None]:
    """Return the snapshots that can be expired, and the time of the oldest one that is kept because of its age.

    The snapshot that was current at the start of the retention period is kept, however old it is: that state can be
    queried, and a query that began before the last commit reads its files.
    """
    retained_from = state.now - policy.retain
    keep_from = max((s.at for s in state.snapshots if s.at <= retained_from), default=None)
    if keep_from is None:
        return [], None
    needed = state.referenced | {state.snapshots[-1].id}
    return [s for s in state.snapshots if s.at < keep_from - MARGIN and s.id not in needed], keep_from


def _drop_temp_relations(state: State) -> Step | None:
    if not state.temp_relations:
        return None
    statements = tuple(
        Statement(relation, f"DROP {kind.upper()} IF EXISTS {relation}") for relation, kind in state.temp_relations
    )
    return Step("drop_temp_relations", f"{counted(len(statements), 'temporary relation')} of dead builds", statements)


def _optimize(relation: Relation, policy: Policy, state: State) -> Step | None:
    if not policy.optimize or not state.data_files:
        return None
    reasons = []
    if state.mergeable >= policy.small_files:
        reasons.append(f"{state.small_files} files below {policy.small_file}, merging removes {state.mergeable}")
    if state.delete_files >= policy.small_files or state.deleted_rows >= max(1, policy.deleted * state.rows):
        marked = f"{state.deleted_rows} of {counted(state.rows, 'row')} marked as deleted"
        reasons.append(f"{marked} in {counted(state.delete_files, 'delete file')}")
    return Step("optimize", "; ".join(reasons), optimize_statements(relation, policy)) if reasons else None


def _optimize_manifests(relation: Relation, policy: Policy, state: State) -> Step | None:
    # Trino does not merge manifests of delete files, and `$manifests` does not distinguish them. Each has at least one
    # file.
    of_data = state.manifests - state.delete_files
    fewer = of_data - max(1, math.ceil(state.manifest_bytes / MANIFEST_BYTES))
    if not policy.optimize_manifests or fewer < policy.small_manifests:
        return None
    reason = f"{state.manifests} manifests for {counted(state.data_files, 'file')}"
    statement = Statement(relation, f"ALTER TABLE {relation} EXECUTE optimize_manifests")
    return Step("optimize_manifests", reason, (statement,))


def _expire_snapshots(relation: Relation, policy: Policy, state: State) -> Step | None:
    snapshots, keep_from = expirable(policy, state)
    if not policy.expire_snapshots or not snapshots or keep_from is None:
        return None
    threshold = _seconds(max(policy.retain, state.now - keep_from + MARGIN))
    of = counted(len(state.snapshots), "snapshot")
    reason = f"{len(snapshots)} of {of} older than {durations.rounded(policy.retain)}"
    statement = f"ALTER TABLE {relation} EXECUTE expire_snapshots(retention_threshold => '{threshold}')"
    return Step("expire_snapshots", reason, (Statement(relation, statement),))


def _remove_orphan_files(relation: Relation, policy: Policy, state: State) -> Step | None:
    since = state.searched
    if not policy.remove_orphan_files or (since and state.now - since < policy.orphans):
        return None
    reason = f"last searched on {since:%Y-%m-%d}" if since else "never searched"
    threshold = _seconds(policy.orphans)
    statement = f"ALTER TABLE {relation} EXECUTE remove_orphan_files(retention_threshold => '{threshold}')"
    return Step("remove_orphan_files", reason, (Statement(relation, statement),))


def _analyze(relation: Relation, policy: Policy, state: State) -> Step | None:
    if not policy.analyze or not state.rows:
        return None
    since = state.analyzed
    changed = sum(s.changed for s in state.snapshots if since is None or s.at > since)
    if since and changed < max(1, policy.changed * state.rows):
        return None
    reason = f"{changed} rows changed since {since:%Y-%m-%d %H:%M}, of {state.rows}" if since else "never analyzed"
    return Step("analyze", reason, (Statement(relation, f"ANALYZE {relation}"),))


def _seconds(time: timedelta) -> str:
    return f"{math.ceil(time.total_seconds())}s"


def _literals(texts: Collection[str]) -> str:
    return ", ".join(map(literal, texts))
