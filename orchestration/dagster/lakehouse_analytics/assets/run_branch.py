"""A run whose tables become visible together at its end: it builds them on a branch of the catalog.

See `branches` for what a branch is. The run locks its tables until it has published them, so that no other run and no
maintenance changes them in the meantime; the catalog refuses to publish over changes of writers without locks.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import dagster as dg

from lakehouse_analytics.assets.build_locks import BuildLocks
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.branches.catalog import SETTLED, BranchBusyError, BranchError, branch_schema
from lakehouse_analytics.branches.names import copies_of, name_of, schemas_on_branch
from lakehouse_analytics.common.names import FEW, counted, some
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.dbt.relation import Relation, relation_of
from lakehouse_analytics.engines.base import Queried
from lakehouse_analytics.iceberg.catalog import CatalogError
from lakehouse_analytics.keys import BRANCH

if TYPE_CHECKING:
    from lakehouse_analytics.branches.catalog import BranchCatalog

#: Statements that delete files which an older snapshot, or another table at the same location, needs.
_HARMFUL = re.compile(r"expire_snapshots|remove_orphan_files", re.IGNORECASE)


class RunBranch:
    """The branch of one step of a run. A context manager: leaving it drops what was not published.

    Attributes:
        schemas: The schema on the branch of each table that the run builds, by unique id.
        visible: The schema that readers see, by the schema on the branch.
    """

    #: Tables are not reported before they are published.
    withholds = True

    def __init__(
        self, graph: Graph, tables: Collection[str], catalog: str, *, run_id: str, step: str, full_refresh: bool = False
    ) -> None:
        """
        Args:
            graph: The manifest's graph.
            tables: Unique ids of the tables that the run builds.
            catalog: The name of the Iceberg catalog in pyiceberg's configuration.
            run_id, step: The run and its step, of which the branch has its name.
            full_refresh: Whether dbt builds everything from scratch.
        """
        suffix = "" if step == "build" else "_" + re.sub("[^a-z0-9]+", "_", step.lower())[:20].strip("_")
        self.name, self.publication = f"run_{run_id[:8]}{suffix}", run_id + suffix.replace("_", "/", 1)
        self._catalog_name, self._graph, self._full_refresh = catalog, graph, full_refresh
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
        except BaseException as error:
            self._stack.close()
            if isinstance(error, RuntimeError):  # of the catalog, the locks, or Trino
                raise dg.Failure(f"LAKEHOUSE_PUBLISH is run: {error}", allow_retries=False) from error
            raise
        return self

    def _open(self) -> None:
        from lakehouse_analytics.branches.opening import open_branches

        catalogs = {relation_of(table.node).catalog for table in self._tables}
        if len(catalogs) > 1:
            raise BranchError(
                f"the tables of a run must be in one catalog, and these are in {some(sorted(catalogs), FEW)}."
            )
        [self._trino_catalog] = catalogs
        refuse_harmful_hooks(self._tables)
        self._catalog = open_branches(self._catalog_name)
        # As long as this process lives, so that others know whether the branch is still needed.
        self._stack.enter_context(self._catalog.in_use(self.name))
        for table in self._tables:
            self._stack.enter_context(self._locks.lock(table, self._log, self._stop))
        try:
            remove_dead_branches(self._catalog, own=self.name)
        except BranchError as error:
            self._log(f"Branches of earlier runs were not removed: {error}")
        self._catalog.create(self.name, copies_of(self._tables, full_refresh=self._full_refresh), kind="run")
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

    def finish(self, run: Run, *, crashed: bool) -> frozenset[str]:
        """Publish the groups of connected tables that are good as a whole, and return the other tables.

        Args:
            run: The state of the run, which gets a line that says what was published.
            crashed: Whether dbt crashed.
        """
        good = run.good_tables(crashed=crashed)
        bad = run.selection.selected - run.selection.reused - good
        good -= run.selection.reused  # readers see them already
        if good:
            tables = [self._graph.tables[unique_id] for unique_id in good]
            try:
                published = self._catalog.publish(self.name, [name_of(table) for table in tables], self.publication)
                if published.seconds > SETTLED:
                    took = f"Publishing took {published.seconds:.0f} s"
                    self._log(f"{took}: queries as of {SETTLED:g} s ago may have seen a part of it.")
            except BranchError as error:
                run.problems.append(str(error))
                good, bad = frozenset(), run.selection.selected - run.selection.reused
        run.publication = _summary(run, good, bad)
        return bad

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
        self._stack = ExitStack()
        self.schemas: Mapping[str, str] = schemas_on_branch(graph.tables.values(), name)
        self.visible: Mapping[str, str] = {}

    @property
    def graph(self) -> Graph:
        """The graph with all tables on the branch."""
        return self._graph.with_schemas(self.schemas)

    def opened(self, *_: object) -> Self:
        """Return the context manager. See `RunBranch.opened`."""
        return self

    def __enter__(self) -> Self:
        """Add new models of the project to the branch.

        Raises:
            dg.Failure: There is no such branch, or it cannot be read.
        """
        from lakehouse_analytics.branches.opening import open_branches

        try:
            refuse_harmful_hooks(self._graph.tables.values())
            refuse_functions(self._graph)
            self._opened = open_branches(self._catalog)
            self._stack.enter_context(self._opened.in_use(self.name, shared=True))
            self._opened.extend(self.name, copies_of(self._graph.tables.values()))
        except BaseException as error:
            self._stack.close()
            if isinstance(error, BranchError | CatalogError):
                raise dg.Failure(f"LAKEHOUSE_BRANCH is {self.name}: {error}", allow_retries=False) from error
            raise
        return self

    def finish(self, run: Run, *, crashed: bool) -> frozenset[str]:
        """Record which tables of the branch are good, so that only good ones are published.

        Returns:
            The tables that were not published: none, because all are visible on the branch.
        """
        good = run.good_tables(crashed=crashed)
        passed, failed = (
            [name_of(self._graph.tables[unique_id]) for unique_id in ids]
            for ids in (good, run.selection.selected - good)
        )
        self._opened.record_results(self.name, passed, failed)
        return frozenset()

    def __exit__(self, *_: object) -> None:
        """Leave the branch as it is."""
        self._stack.close()


def remove_dead_branches(catalog: BranchCatalog, *, own: str = "") -> list[str]:
    """Drop the branches of runs that have died, and those that have expired, unless they are in use.

    Args:
        catalog: The catalog that has the branches.
        own: The branch of this run, of which an earlier attempt may have left one.

    Returns:
        The names of the dropped branches.

    Raises:
        BranchError: The database refused a statement, or files cannot be deleted.
    """
    dropped = []
    for branch in catalog.branches():
        if branch.name == own:  # which this process is using
            catalog.drop(branch.name)
            dropped.append(branch.name)
        elif branch.kind == "run" or (branch.expires and branch.expires < datetime.now(UTC)):
            with suppress(BranchBusyError), catalog.in_use(branch.name):
                catalog.drop(branch.name)
                dropped.append(branch.name)
    catalog.delete_dropped()
    return dropped


def refuse_other_branch(tags: Mapping[str, str], branch: str | None) -> None:
    """Refuse a run that was launched on a branch, if it would write somewhere else.

    Args:
        tags: The tags of the run.
        branch: The branch that the run would write to; None for the tables themselves.

    Raises:
        dg.Failure: They differ.
    """
    expected = tags.get(BRANCH)
    if expected is not None and expected != branch:
        where = f"LAKEHOUSE_BRANCH is {branch}" if branch else "LAKEHOUSE_BRANCH is not set"
        raise dg.Failure(
            f"This run was launched on the branch {expected}, but {where} where it is executed. Set it there as in the "
            "code location; in Kubernetes, with `includeConfigInLaunchedRuns` of the deployment.",
            allow_retries=False,
        )


def refuse_functions(graph: Graph) -> None:
    """Refuse projects with functions, because dbt would replace those of production from a branch.

    Raises:
        BranchError: There are functions. The message names them.
    """
    if functions := sorted(function.name for function in graph.functions.values()):
        raise BranchError(
            f"the project has functions ({some(functions, FEW)}), which a branch has no copies of: dbt would replace "
            "those of production."
        )


def refuse_harmful_hooks(tables: Iterable[Table]) -> None:
    """Refuse hooks that would delete files of the original, because a copy has the same files.

    Raises:
        BranchError: A table has such a hook. The message names both.
    """
    for table in tables:
        for hook in table.node.config.post_hooks:
            if found := _HARMFUL.search(hook):
                raise BranchError(
                    f"{'/'.join(table.key)} has a post-hook with {found[0]}, which on a branch would delete files of "
                    "the table itself. Remove the hook: `iceberg_maintenance` does the same."
                )


def _summary(run: Run, good: Collection[str], bad: Collection[str]) -> str:
    names = [*map(run.label, sorted({*run.failed_gates, *run.failed}))]
    because = f" because of {some(names, FEW)}" if names else ""
    if not bad:
        return f"Published {counted(len(good), 'table')}."
    if not good:
        return f"Nothing was published{because}."
    return f"Published {counted(len(good), 'table')}; {len(bad)} were not published{because}."
