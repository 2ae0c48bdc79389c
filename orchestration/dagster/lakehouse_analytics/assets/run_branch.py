"""A run whose tables become visible together at its end: it builds them on a branch of the catalog.

See `branches` for what a branch is. The run locks its tables until it has published them, so that no other run and no
maintenance changes them in the meantime; the catalog refuses to publish over changes of writers without locks.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import dagster as dg

from lakehouse_analytics.assets.build_locks import BuildLocks
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.branches.catalog import SETTLED, BranchError, branch_schema
from lakehouse_analytics.branches.names import copies_of, name_of, schemas_on_branch
from lakehouse_analytics.common.names import FEW, counted, some
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.relation import Relation, relation_of
from lakehouse_analytics.engines.base import DatabaseError, Queried
from lakehouse_analytics.iceberg.catalog import CatalogError
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.locks import TableBusyError, TableLockLostError, lock_name

if TYPE_CHECKING:
    from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog
    from lakehouse_analytics.settings import Settings

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext


class RunBranch:
    """The branch of one step of a run. A context manager: leaving it drops what was not published.

    Attributes:
        schemas: The schema on the branch of each table that the run builds, by unique id.
        visible: The schema that readers see, by the schema on the branch.
    """

    #: Tables are not reported before they are published.
    withholds = True

    def __init__(self, graph: Graph, tables: Collection[str], catalog: str, *, run_id: str, step: str) -> None:
        """
        Args:
            graph: The manifest's graph.
            tables: Unique ids of the tables that the run builds.
            catalog: The name of the Iceberg catalog in pyiceberg's configuration.
            run_id, step: The run and its step, of which the branch has its name.
        """
        suffix = "" if step == "build" else "_" + re.sub("[^a-z0-9]+", "_", step.lower())[:20].strip("_")
        self.name, self.publication = f"run_{run_id[:8]}{suffix}", run_id + suffix.replace("_", "/", 1)
        self._catalog_name, self._graph = catalog, graph
        self._tables = sorted((graph.tables[unique_id] for unique_id in tables), key=name_of)
        self.schemas: Mapping[str, str] = schemas_on_branch(self._tables, self.name)
        self.visible = {self.schemas[table.unique_id]: name_of(table).schema for table in self._tables}
        self._stack = ExitStack()
        self._stop = threading.Event()

    @property
    def graph(self) -> Graph:
        """The graph with the tables on the branch."""
        return self._graph.with_schemas(self.schemas)

    def opened(self, locks: BuildLocks, engine: Queried, log: Callable[[str], None]) -> Self:
        """Return the context manager, which locks the tables, removes the branches of dead runs, and copies the tables.

        Args:
            locks: The locks of the step.
            engine: Runs queries.
            log: Called with a message for each lock to wait for, and each problem that does not concern this run.
        """
        self._locks, self._engine, self._log = locks, engine, log
        return self

    def __enter__(self) -> Self:
        """Create the branch.

        Raises:
            dg.Failure: The branch cannot be created. The message has the reason.
        """
        try:
            self._open()
        except (BranchError, CatalogError, DatabaseError, TableBusyError, TableLockLostError) as error:
            self._stack.close()
            raise dg.Failure(f"LAKEHOUSE_PUBLISH is run: {error}", allow_retries=False) from error
        return self

    def _open(self) -> None:
        from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog

        catalogs = {relation_of(table.node).catalog for table in self._tables}
        if len(catalogs) > 1:
            raise BranchError(
                f"the tables of a run must be in one catalog, and these are in {some(sorted(catalogs), FEW)}."
            )
        [self._trino_catalog] = catalogs
        self._catalog = SqlBranchCatalog(self._catalog_name)
        # Locked as long as this process lives, so that others know whether the branch is still in use.
        self._stack.enter_context(self._locks.hold(_lock_of(self._trino_catalog, self.name)))
        for table in self._tables:
            self._stack.enter_context(self._locks.lock(table, self._log, self._stop))
        try:
            remove_dead_branches(self._catalog, self._trino_catalog, self._locks.hold, own=self.name)
        except BranchError as error:
            self._log(f"Branches of earlier runs were not removed: {error}")
        self._catalog.create(self.name, copies_of(self._tables), kind="run")
        self._stack.callback(self._drop)
        self._check_same_catalog()

    def _check_same_catalog(self) -> None:
        """Check that Trino reads the catalog that has the branch."""
        schema = branch_schema(name_of(self._tables[0]).schema, self.name)
        listed = Relation(self._trino_catalog, "information_schema", "schemata")
        found = self._engine.fetch_all(f"select 1 from {listed} where schema_name = '{schema}'")  # noqa: S608
        if not found:
            raise BranchError(
                f"LAKEHOUSE_ICEBERG_CATALOG is {self._catalog_name}, and that is not the catalog that Trino calls "
                f"{self._trino_catalog}: Trino does not see the schema {schema}."
            )

    def publish(self, run: Run, *, crashed: bool) -> frozenset[str]:
        """Publish the groups of connected tables that are good as a whole, and return the other built tables.

        Args:
            run: The state of the run, which gets a line that says what was published.
            crashed: Whether dbt crashed. Then nothing is published, because tests may be missing.
        """
        groups = [] if crashed else run.connected()
        good = frozenset[str]().union(*(group for group in groups if run.is_good(group)))
        bad = run.selection.selected - good
        if good:
            tables = [self._graph.tables[unique_id] for unique_id in good]
            try:
                published = self._catalog.publish(self.name, [name_of(table) for table in tables], self.publication)
                if published.seconds > SETTLED:
                    took = f"Publishing took {published.seconds:.0f} s"
                    self._log(f"{took}: queries as of {SETTLED:g} s ago may have seen a part of it.")
            except BranchError as error:
                run.problems.append(str(error))
                good, bad = frozenset(), run.selection.selected
        run.publication = _summary(run, good, bad)
        return frozenset(bad & run.built)

    def _drop(self) -> None:
        try:
            self._catalog.drop(self.name)
        except Exception as error:
            self._log(f"The branch {self.name} was not dropped, which the next run does: {error}")

    def __exit__(self, *_: object) -> None:
        """Drop what was not published, and release the locks."""
        self._stop.set()
        self._stack.close()


class StandingBranch:
    """A branch that people have created and that a run writes to (LAKEHOUSE_BRANCH).

    Attributes:
        name: The name.
        schemas: The schema on the branch of each table of the project, by unique id.
        visible: Empty: the branch is what readers of this code location see.
    """

    withholds = False

    def __init__(self, graph: Graph, name: str, catalog: str) -> None:
        """
        Args:
            graph: The manifest's graph.
            name: The name of the branch.
            catalog: The name of the Iceberg catalog in pyiceberg's configuration.
        """
        self.name, self._graph, self._catalog = name, graph, catalog
        self.schemas: Mapping[str, str] = schemas_on_branch(graph.tables.values(), name)
        self.visible: Mapping[str, str] = {}

    @property
    def graph(self) -> Graph:
        """The graph with all tables on the branch."""
        return self._graph.with_schemas(self.schemas)

    def __enter__(self) -> Self:
        """Add new models of the project to the branch.

        Raises:
            dg.Failure: There is no such branch, or it cannot be read.
        """
        from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog

        try:
            SqlBranchCatalog(self._catalog).extend(self.name, copies_of(self._graph.tables.values()))
        except (BranchError, CatalogError) as error:
            raise dg.Failure(f"LAKEHOUSE_BRANCH is {self.name}: {error}", allow_retries=False) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the branch as it is."""


def remove_dead_branches(
    catalog: SqlBranchCatalog,
    trino_catalog: str,
    hold: Callable[[str], AbstractContextManager[object]],
    *,
    own: str = "",
) -> list[str]:
    """Drop the branches of runs that have died, and those that have expired.

    Args:
        catalog: The catalog that has the branches.
        trino_catalog: Its name in Trino.
        hold: Holds a lock of which the name is given, or raises a `TableBusyError`.
        own: The branch of this run, of which an earlier attempt may have left one.

    Returns:
        The names of the dropped branches.

    Raises:
        BranchError: The database refused a statement.
    """
    dropped = []
    for branch in catalog.branches():
        if branch.name == own or (branch.expires and branch.expires < datetime.now(UTC)):
            catalog.drop(branch.name)
            dropped.append(branch.name)
        elif branch.kind == "run":
            with suppress(TableBusyError), hold(_lock_of(trino_catalog, branch.name)):
                catalog.drop(branch.name)
                dropped.append(branch.name)
    catalog.delete_dropped()
    return dropped


def _lock_of(trino_catalog: str, branch: str) -> str:
    """Return the lock that a run has as long as it lives."""
    return lock_name(Relation(trino_catalog, "lakehouse_branches", branch))


def _summary(run: Run, good: Collection[str], bad: Collection[str]) -> str:
    culprits = [*sorted(run.failed_gates), *sorted(run.failed)]
    names = ["/".join(run.selection.graph.resource(one).key) for one in culprits if one in _assets(run)]
    because = f" because of {some(names, FEW)}" if names else ""
    if not bad:
        return f"Published {counted(len(good), 'table')}."
    if not good:
        return f"Nothing was published{because}."
    return f"Published {counted(len(good), 'table')}; {len(bad)} were not published{because}."


def _assets(run: Run) -> Sequence[str]:
    graph = run.selection.graph
    return [*graph.tables, *graph.unbuilt]


BranchOf = Callable[[Graph, Context, AbstractSet[dg.AssetKey]], RunBranch | StandingBranch | None]


def branch_of(settings: Settings) -> BranchOf | None:
    """Return the function that returns the branch of an execution, from the graph, the context and the assets to build.

    None if runs write the tables themselves.
    """
    name, catalog = settings.branch, settings.iceberg_catalog or ""
    if name:
        return lambda graph, *_: StandingBranch(graph, name, catalog)
    if settings.publish != "run":
        return None

    def of_run(graph: Graph, context: Context, keys: AbstractSet[dg.AssetKey]) -> RunBranch | None:
        tables = [table.unique_id for table in graph.tables.values() if asset_key(table) in keys]
        step = context.op_execution_context.op_def.name
        return RunBranch(graph, tables, catalog, run_id=context.run.run_id, step=step) if tables else None

    return of_run
