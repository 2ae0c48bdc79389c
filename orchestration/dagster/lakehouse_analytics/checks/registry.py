"""Kinds of checks: a module each, and a line of `KINDS`.

Pure, and imports none of the modules by itself: names of checks are reserved while the manifest is read.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.dbt.graph import External, Graph, Source, Table

if TYPE_CHECKING:
    from pathlib import Path

    import dagster as dg

    from lakehouse_analytics.contract.models import Grain
    from lakehouse_analytics.dbt.run_results import DbtResult
    from lakehouse_analytics.engines.base import FetchAll
    from lakehouse_analytics.partitions.definitions import GrainPartitions


class Evaluated(Enum):
    """Where and when the checks of a kind are evaluated."""

    #: By the op that builds, among dbt's own nodes: see `assets.gates`.
    IN_DBT = "in dbt's graph"
    #: By the op that builds, of the tables as they are built: see `ChecksOfTables`.
    WITH_TABLES = "with the tables"
    #: By the op that builds, before the first table is built: see `ChecksOfSources`.
    BEFORE_TABLES = "before the tables"
    #: By an op of their own, which the module defines.
    ALONE = "alone"


@dataclass(frozen=True)
class Kind:
    """A line of the registry.

    Attributes:
        module: Full name. Its `KIND` is a `ChecksOfTables`, a `ChecksOfSources`, or for `IN_DBT` a `Specs`. `ALONE` has
            none.
        evaluated: Where and when.
        names: Of its checks; a dbt test of such a name gets another one. dbt's tests have their own.
    """

    module: str
    evaluated: Evaluated
    names: tuple[str, ...] = ()

    def load(self) -> Any:
        """`KIND` of the module."""
        return importlib.import_module(self.module).KIND


KINDS: tuple[Kind, ...] = (
    Kind("lakehouse_analytics.checks.dbt_tests", Evaluated.IN_DBT),
    Kind("lakehouse_analytics.checks.row_count", Evaluated.IN_DBT, (ROW_COUNT, DRIFT)),
    Kind("lakehouse_analytics.triggers.airbyte.checks", Evaluated.ALONE, ("airbyte_sync",)),
    Kind("lakehouse_analytics.checks.freshness", Evaluated.BEFORE_TABLES, ("freshness",)),
)

Owner = Table | Source | External


@dataclass(frozen=True)
class Scope:
    """What specs are made from.

    Attributes:
        graph: The manifest's.
        grain_partitions: Windows of the partitioned tables, by grain.
        circular: Unique ids of tests that cannot block, because they wait for what they would block.
    """

    graph: Graph
    grain_partitions: Mapping[Grain, GrainPartitions]
    circular: Collection[str] = ()


class Specs(Protocol):
    """Which checks there are."""

    def specs(self, owner: Owner, scope: Scope) -> Iterable[dg.AssetCheckSpec]:
        """The checks of one table, source or external; none where the kind does not apply."""


class ChecksOfTables(Specs, Protocol):
    """Checks of what a run builds. A spec with `blocking` is a gate: nothing is built below a table that fails it."""

    def evaluate(self, tables: Sequence[Table], fetch_all: FetchAll) -> Iterable[dg.AssetCheckResult]:
        """Evaluate every check of some tables, which the run has just built or was asked to look at.

        Called in a thread, while dbt goes on: for many tables at once where it can be.

        Args:
            tables: Those that the kind has specs of.
            fetch_all: Answers a statement over dbt's own connection; raises where it fails.

        Returns:
            A result for each spec. One that is missing is an error of its check.
        """


class ChecksOfSources(Specs, Protocol):
    """Checks of sources, which are there before a run. They stop nothing."""

    def evaluate(self, sources: Sequence[Source], dbt: Dbt) -> Iterable[dg.AssetCheckResult]:
        """Evaluate every check of some sources, before the run builds anything.

        Args:
            sources: Those whose checks were selected.
            dbt: Runs dbt's commands.

        Returns:
            A result for each spec. One that is missing is an error of its check.
        """


class Dbt(Protocol):
    """dbt's commands on the project of a run, which is parsed already."""

    def __call__(self, args: Sequence[str]) -> tuple[DbtResult, Path]:
        """Run one command to its end: its result, and the folder of its artifacts."""


def kinds(*evaluated: Evaluated) -> Iterator[Kind]:
    """The kinds that are evaluated there."""
    return (kind for kind in KINDS if kind.evaluated in evaluated)


def names_of_tables() -> frozenset[str]:
    """Names of the checks that a build evaluates of its tables, other than dbt's tests."""
    return frozenset(name for kind in kinds(Evaluated.IN_DBT, Evaluated.WITH_TABLES) for name in kind.names)


def reserved(owner: Owner) -> set[str]:
    """Names that dbt's tests of an owner must not take."""
    of_sources = kinds(Evaluated.BEFORE_TABLES, Evaluated.ALONE) if isinstance(owner, Source) else ()
    return {*names_of_tables(), *(name for kind in of_sources for name in kind.names)}


def specs(scope: Scope, owners: Collection[Owner], *evaluated: Evaluated) -> Iterator[dg.AssetCheckSpec]:
    """The checks of some owners, by kind. Sources that share an asset key have one check of a name.

    Args:
        scope: What they are made from.
        owners: Tables, sources and externals.
        evaluated: Leaves out what is evaluated elsewhere.
    """
    for kind in kinds(*evaluated):
        loaded: Specs = kind.load()
        of_sources: set[dg.AssetCheckKey] = set()
        for owner in owners:
            for spec in loaded.specs(owner, scope):
                if kind.names and isinstance(owner, Source):
                    if spec.key in of_sources:
                        continue
                    of_sources.add(spec.key)
                yield spec


def checks_of_sources(graph: Graph) -> dict[str, list[dg.AssetCheckKey]]:
    """The checks that are evaluated before a build, by name; names without a check are left out."""
    found: dict[str, list[dg.AssetCheckKey]] = {}
    for spec in specs(Scope(graph, {}), graph.sources.values(), Evaluated.BEFORE_TABLES):
        found.setdefault(spec.name, []).append(spec.key)
    return found
