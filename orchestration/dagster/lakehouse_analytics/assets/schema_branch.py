"""A run that writes to a branch which consists of schemas (LAKEHOUSE_BRANCH). See `branches.schema_catalog`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Self

import dagster as dg

from lakehouse_analytics.assets.build_locks import BuildLocks
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.assets.run_branch import refuse_functions
from lakehouse_analytics.branches.catalog import BranchError
from lakehouse_analytics.branches.deferral import refuse_other_databases, schemas_of_build
from lakehouse_analytics.branches.names import copies_of
from lakehouse_analytics.branches.schema_catalog import SchemaBranches
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.engines.base import DatabaseError, Queried


class SchemaBranch:
    """The branch of a run. A context manager: entering it creates missing schemas.

    Attributes:
        name: The name.
        schemas: The schema on the branch of each table that is built or read there, by unique id.
        visible: Empty: the branch is what readers of this code location see.
    """

    withholds = False

    def __init__(
        self, graph: Graph, name: str, catalog: SchemaBranches, *, selected: Collection[str], database: str
    ) -> None:
        """
        Args:
            graph: The manifest's graph.
            name: The name of the branch.
            catalog: The branches of the database.
            selected: Unique ids of the tables that the run builds.
            database: The database of dbt's target.

        Raises:
            dg.Failure: There is no such branch, it cannot be read, or the project cannot be built on it.
        """
        self.name, self._graph, self._catalog = name, graph, catalog
        self.visible: Mapping[str, str] = {}
        try:
            refuse_functions(graph)
            refuse_other_databases(graph.tables.values(), database)
            built = catalog.built(name)
        except (BranchError, DatabaseError) as error:
            raise self._failure(error) from error
        self.schemas: Mapping[str, str] = schemas_of_build(graph.tables.values(), name, selected=selected, built=built)

    @property
    def graph(self) -> Graph:
        """The graph with the tables that are built or read on the branch, and all others as they are."""
        return self._graph.with_schemas(self.schemas)

    def opened(self, locks: BuildLocks, engine: Queried, log: Callable[[str], None]) -> Self:  # noqa: ARG002
        """Return the context manager. See `RunBranch.opened`."""
        self._log = log
        return self

    def __enter__(self) -> Self:
        """Create the schemas of new models.

        Raises:
            dg.Failure: There is no such branch anymore, or it cannot be extended.
        """
        try:
            self._catalog.extend(self.name, copies_of(self._graph.tables.values()))
        except (BranchError, DatabaseError) as error:
            raise self._failure(error) from error
        return self

    def finish(self, run: Run, *, crashed: bool) -> frozenset[str]:  # noqa: ARG002
        """Return the tables that were not published: none, because all are visible on the branch."""
        return frozenset()

    def __exit__(self, *_: object) -> None:
        """Leave the branch as it is, unless it was dropped while the run was writing."""
        try:
            if self._catalog.drop_remains(self.name, copies_of(self._graph.tables.values())):
                self._log(f"The branch {self.name} was dropped during the run, so what the run built was dropped, too.")
        except DatabaseError as error:
            self._log(f"It is not known whether the branch {self.name} still exists: {error}")

    def _failure(self, error: Exception) -> dg.Failure:
        return dg.Failure(f"LAKEHOUSE_BRANCH is {self.name}: {error}", allow_retries=False)
