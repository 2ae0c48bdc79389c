"""Maintenance of the Iceberg tables as assets. One op maintains all tables, one at a time.

The op measures each table, and skips it if nothing is due. Steps that are due run while no build and no sync writes the
table. After each step, the op measures the table again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import dagster as dg
from pydantic import Field

from lakehouse_analytics.assets.multi_asset import multi_asset
from lakehouse_analytics.assets.run_branch import remove_dead_branches
from lakehouse_analytics.branches.catalog import BranchCatalog, BranchError
from lakehouse_analytics.common.names import counted
from lakehouse_analytics.dbt.graph import Graph, Key
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.trino.errors import COMMIT_ERROR
from lakehouse_analytics.engines.trino.session import TrinoError, TrinoUnavailableError
from lakehouse_analytics.iceberg.catalog import CatalogError
from lakehouse_analytics.keys import MAINTENANCE_GROUP
from lakehouse_analytics.locks import TableBusyError, TableLock, TableLocks, lock_name
from lakehouse_analytics.maintenance.plan import (
    ORDER,
    PARTITIONS,
    Kind,
    State,
    Statement,
    Step,
    due,
    optimize_statements,
    plan,
)
from lakehouse_analytics.maintenance.policy import MaintainedTable, maintained_tables
from lakehouse_analytics.maintenance.protection import Protected, ProtectedError
from lakehouse_analytics.maintenance.report import Memory, load_memories, state_metadata, step_metadata
from lakehouse_analytics.maintenance.state import existing, left_behind, measure, partitions_sql
from lakehouse_analytics.runs.failed_launch import refuse_failed_launch

#: Not "maintenance", because run configurations contain the name of the op, and retries of stored runs use them.
OP_NAME = "upkeep"
#: Opens the branches of the lakehouse; None if there are none. It gets a function that logs.
OpenBranches = Callable[[Callable[[str], None]], BranchCatalog | None]


class MaintenanceConfig(dg.Config):
    """The options of one run."""

    dry_run: bool = Field(default=False, description="Change nothing; report what would be done, and why.")


class Executed(Protocol):
    """A finished statement."""

    @property
    def query_id(self) -> str:
        """Trino's id of the query."""


class Trino(Protocol):
    """Runs statements on the engine that has the tables."""

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Return all rows of one statement."""

    def execute(self, sql: str) -> Executed:
        """Run one statement to its end."""

    def query_url(self, query_id: str) -> str | None:
        """Return the URL of a query's page; None if it has none."""


class SyncGuard(Protocol):
    """Finds out whether a sync may be writing a raw table."""

    def running(self, connection: str) -> str | None:
        """Return the reason why maintenance must skip the tables of an Airbyte connection now, or None."""


class UnknownSyncs:
    """The guard for environments without Airbyte's URL, where a sync could be running at any time."""

    def running(self, connection: str) -> str | None:
        """Return the reason why it is unknown whether a sync is running; never None."""
        return f"it is unknown whether Airbyte's connection {connection} is syncing: LAKEHOUSE_AIRBYTE_URL is not set"


def maintenance_key(key: Key) -> dg.AssetKey:
    """Return the key of a table's maintenance: `[maintenance, layer, model]` or `[maintenance, source, table]`."""
    return dg.AssetKey([MAINTENANCE_GROUP, *key])


def maintenance_assets(
    graph: Graph,
    *,
    floor: timedelta,
    max_runtime: float,
    guard: SyncGuard | None = None,
    branches: OpenBranches | None = None,
) -> list[dg.AssetsDefinition]:
    """Return one asset per maintained table; none on an engine without Iceberg.

    Args:
        graph: The manifest's graph.
        floor: Minimum retention. A table's contract cannot go below it.
        max_runtime: Maximum duration of a run in seconds. Older files and temporary relations belong to no run.
        guard: Finds out which syncs are running; None if that is unknown.
        branches: Opens the branches, of which the expired ones are dropped; None if there are none.

    Raises:
        ContractError: A contract's retention is below the floor.
    """
    longest_write = timedelta(seconds=max_runtime)
    tables = maintained_tables(graph, floor=floor, longest_write=longest_write) if graph.engine.iceberg else []
    if not tables:
        return []
    sync_guard = guard or UnknownSyncs()

    @multi_asset(name=OP_NAME, specs=[_spec(table, graph.adapter) for table in tables], can_subset=True)
    def maintenance(
        context: dg.AssetExecutionContext, config: MaintenanceConfig, engine: dg.ResourceParam[Trino]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        refuse_failed_launch(context.instance, context.run.run_id)
        selected = [table for table in tables if maintenance_key(table.key) in context.selected_asset_keys]
        execution = Maintenance(context, engine, sync_guard, longest_write, dry_run=config.dry_run)
        with execution.locks:
            if branches and selected and not config.dry_run:
                execution.drop_branches(branches)
            yield from execution.events(selected)

    return [maintenance]


def _spec(table: MaintainedTable, engine: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=maintenance_key(table.key),
        deps=[dg.AssetKey(table.key)],
        description=f"Maintenance of {table.relation}: small files, manifests, snapshots, orphan files, statistics.",
        group_name=MAINTENANCE_GROUP,
        kinds={"iceberg", engine},
        skippable=True,  # a dry run, and a table in use, materialize nothing
    )


class Maintenance:
    """One execution of the op that maintains tables."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        engine: Trino,
        guard: SyncGuard,
        longest_write: timedelta,
        *,
        dry_run: bool,
    ) -> None:
        self.context, self.guard = context, guard
        self.fetch, self.query_url = engine.fetch_all, engine.query_url
        # All statements that change something run through it, because it protects files that may still be needed.
        self.protected = Protected(engine)
        self.longest_write, self.dry_run = longest_write, dry_run
        self.locks = TableLocks(context.instance, context.run_id, OP_NAME)
        self.relations: Mapping[Relation, str] = {}
        self.failed: dict[str, str] = {}

    def events(self, tables: Sequence[MaintainedTable]) -> Iterator[dg.MaterializeResult[Any]]:
        """Maintain each table.

        Raises:
            TrinoUnavailableError: Trino is unavailable, so no table can be maintained.
            dg.Failure: Tables failed. The message names all of them; the others have been maintained.
        """
        self.relations = existing(tables, self.fetch)
        there = [table for table in tables if self._may_be_read(table)]
        memories = load_memories(
            self.context.instance, {table.unique_id: maintenance_key(table.key) for table in there}
        )
        measured = measure(there, self.fetch)
        for table in there:
            name = "/".join(table.key)
            if error := measured.errors.get(table.unique_id):
                self._fail(name, error)
                continue
            state = self._complete(table, measured.states[table.unique_id], memories[table.unique_id])
            try:
                yield from self._table(table, state)
            except TrinoUnavailableError:
                raise  # the other tables would fail as well
            except Exception as error:
                self._fail(name, str(error).strip() or type(error).__name__)
        if self.failed:
            lines = "\n".join(f"✘ {name}: {reason}" for name, reason in self.failed.items())
            what = f"{counted(len(self.failed), 'table')} of {len(tables)}"
            raise dg.Failure(f"Maintenance of {what} failed; the others are done.\n{lines}", allow_retries=False)

    def drop_branches(self, opened: OpenBranches) -> None:
        """Drop the branches of runs that have died, and those that have expired."""
        try:
            branches = opened(self.context.log.warning)
            dropped = remove_dead_branches(branches) if branches else []
        except (CatalogError, DatabaseError) as error:
            # Maintenance itself does not need them.
            self.context.log.warning(f"Branches that are not needed anymore were not dropped: {error}")
            return
        except BranchError as error:
            self._fail("branches", str(error))
            return
        for branch in dropped:
            self.context.log.info(f"Dropped the branch {branch}.")

    def _may_be_read(self, table: MaintainedTable) -> bool:
        if self.relations.get(table.relation) == "table":
            return True
        self._skip(table, "not built yet" if table.relation not in self.relations else "a view")
        return False

    def _table(self, table: MaintainedTable, state: State) -> Iterator[dg.MaterializeResult[Any]]:
        steps = plan(table.relation, table.policy, state)
        if reason := self._syncing(table):
            return self._skip(table, reason, steps)
        kept = self._kept(steps)
        if self.dry_run:
            words = "; ".join(
                f"would not {step.kind}: {kept[step.kind].reason}" if step.kind in kept else f"would {_words(step)}"
                for step in steps
            )
            reasons = {kind: error.reason for kind, error in kept.items()}
            metadata = {"dry_run": True, **state_metadata(state, state), **step_metadata(steps, kept=reasons)}
            self._observe(table, words or "nothing to do", metadata)
            return None
        if len(kept) == len(steps):
            if not steps:
                self.context.log.info(f"{table.relation}: nothing to do")
            for step in steps:
                self._keep(step, kept[step.kind])
            yield self._result(table, state, state, [], [(step, kept[step.kind]) for step in steps])
            return None
        try:
            with self.locks.locked(lock_name(table.relation)) as lock:
                # Since the measurement, a build may have written the table, or a sync may have started.
                if reason := self._syncing(table):
                    return self._skip(table, reason, steps)
                result = self._maintain(table, self._measure_again(table, state), lock)
        except TableBusyError as error:
            return self._skip(table, f"being written: {error}", steps)
        except TrinoError as error:
            if error.failure.name != COMMIT_ERROR:
                raise
            return self._skip(table, "another writer committed first; the next run tries again", steps)
        yield result

    def _maintain(self, table: MaintainedTable, before: State, lock: TableLock) -> dg.MaterializeResult[Any]:
        state, done, kept = before, list[tuple[Step, list[str]]](), list[tuple[Step, ProtectedError]]()
        for kind in ORDER:
            step = due(kind, table.relation, table.policy, state)
            if step is None:
                continue
            self.context.log.info(f"{table.relation}: {_words(step)}")
            queries: list[str] = []
            protected: ProtectedError | None = None
            try:
                for statement in self._statements(table, step, state):
                    lock.check()
                    try:
                        queries.append(self.protected.execute(statement))
                    except ProtectedError as error:
                        protected = error
            except TrinoError as error:
                if not done or error.failure.name != COMMIT_ERROR:
                    raise
                self.context.log.info(f"{table.relation}: another writer committed first; the next run continues")
                break
            if protected:
                self._keep(step, protected)
                kept.append((step, protected))
            if queries:
                done.append((step, queries))
                state = self._measure_again(table, state if protected else _after(step, state))
        return self._result(table, before, state, done, kept)

    def _kept(self, steps: Sequence[Step]) -> dict[Kind, ProtectedError]:
        """Return the steps of which no statement may run, with the reasons."""
        errors = {
            step.kind: [self.protected.expected_refusal(statement) for statement in step.statements] for step in steps
        }
        return {kind: found[0] for kind, found in errors.items() if found[0] and all(found)}

    def _keep(self, step: Step, error: ProtectedError) -> None:
        log = self.context.log.warning if error.unreadable else self.context.log.info
        log(f"{step.kind} not done. {error}")

    def _statements(self, table: MaintainedTable, step: Step, state: State) -> tuple[Statement, ...]:
        if step.kind != "optimize" or state.partitions_to_merge <= PARTITIONS:
            return step.statements
        names = [str(name) for (name,) in self.fetch(partitions_sql(table.relation))]
        return optimize_statements(table.relation, table.policy, names)

    def _measure_again(self, table: MaintainedTable, known: State) -> State:
        """Measure a table again, and keep the state that earlier runs have recorded."""
        found = measure([table], self.fetch)
        if error := found.errors.get(table.unique_id):
            raise RuntimeError(error)
        state = found.states[table.unique_id]
        return replace(state, analyzed=known.analyzed, searched=known.searched, temp_relations=known.temp_relations)

    def _complete(self, table: MaintainedTable, state: State, memory: Memory) -> State:
        stale = left_behind(table, self.relations, now=datetime.now(UTC), older_than=self.longest_write)
        return replace(state, temp_relations=stale, analyzed=memory.analyzed, searched=memory.searched)

    def _syncing(self, table: MaintainedTable) -> str | None:
        return self.guard.running(table.connection) if table.connection else None

    def _result(
        self,
        table: MaintainedTable,
        before: State,
        after: State,
        done: Sequence[tuple[Step, Sequence[str]]],
        kept: Sequence[tuple[Step, ProtectedError]] = (),
    ) -> dg.MaterializeResult[Any]:
        links = {step.kind: self._links(queries) for step, queries in done}
        reasons = {step.kind: error.reason for step, error in kept}
        steps = {step.kind: step for step, _ in (*done, *kept)}
        return dg.MaterializeResult(
            asset_key=maintenance_key(table.key),
            metadata={
                "dry_run": False,
                **state_metadata(before, after),
                **step_metadata([*steps.values()], links, reasons),
                **Memory(after.analyzed, after.searched).metadata(),
            },
        )

    def _links(self, queries: Sequence[str]) -> str:
        urls = ((query, self.query_url(query)) for query in queries)
        return ", ".join(f"[{query}]({url})" if url else query for query, url in urls)

    def _skip(self, table: MaintainedTable, reason: str, steps: Sequence[Step] = ()) -> None:
        metadata = {"dry_run": self.dry_run, "skipped": reason, **step_metadata(steps)}
        self._observe(table, f"skipped: {reason}", metadata)

    def _observe(self, table: MaintainedTable, words: str, metadata: Mapping[str, Any]) -> None:
        self.context.log.info(f"{table.relation}: {words}")
        key = maintenance_key(table.key)
        self.context.log_event(dg.AssetObservation(asset_key=key, description=words, metadata=metadata))

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        self.context.log.error(f"{name}: {reason}")


def _after(step: Step, state: State) -> State:
    match step.kind:
        case "analyze":
            return replace(state, analyzed=state.now)
        case "remove_orphan_files":
            return replace(state, searched=state.now)
        case "drop_temp_relations":
            return replace(state, temp_relations=())
        case _:
            return state


def _words(step: Step) -> str:
    return f"{step.kind} ({step.reason})"
