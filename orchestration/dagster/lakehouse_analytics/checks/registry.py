"""The registry of kinds of checks: a module and an entry of `KINDS` each.

Pure. It does not import the modules until they are needed, because reading the manifest requires the reserved names of
checks only.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    from lakehouse_analytics.partitions.by_column import ColumnPartitions
    from lakehouse_analytics.partitions.definitions import GrainPartitions


class EvaluationPoint(Enum):
    """Where and when the checks of a kind are evaluated."""

    #: During the build, as a node of dbt's graph. See `assets.gates`.
    IN_DBT = "in dbt's graph"
    #: During the build, after the table has been built. See `TableCheckKind`.
    WITH_TABLES = "with the tables"
    #: In the op of the build, before the first table is built. See `SourceCheckKind`.
    BEFORE_TABLES = "before the tables"
    #: In a separate op, which the module defines.
    ALONE = "alone"


@dataclass(frozen=True)
class Kind:
    """An entry of the registry.

    Attributes:
        module: The full name of the module. Its `KIND` is a `TableCheckKind`, a `SourceCheckKind`, or for `IN_DBT` a
            `CheckKind`. For `ALONE`, it has none.
        evaluated: Where and when the checks are evaluated.
        names: The names of the checks, which dbt tests must not use. dbt's own tests have none here.
    """

    module: str
    evaluated: EvaluationPoint
    names: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the module and return its `KIND`."""
        return importlib.import_module(self.module).KIND


KINDS: tuple[Kind, ...] = (
    Kind("lakehouse_analytics.checks.dbt_tests", EvaluationPoint.IN_DBT),
    Kind("lakehouse_analytics.checks.row_count", EvaluationPoint.IN_DBT, (ROW_COUNT, DRIFT)),
    Kind("lakehouse_analytics.triggers.airbyte.checks", EvaluationPoint.ALONE, ("airbyte_sync",)),
    Kind("lakehouse_analytics.assets.arrivals", EvaluationPoint.ALONE, ("arrived", "quarantined_rows")),
    Kind("lakehouse_analytics.checks.freshness", EvaluationPoint.BEFORE_TABLES, ("freshness",)),
)

Owner = Table | Source | External


@dataclass(frozen=True)
class Scope:
    """What the specs of checks are made from.

    Attributes:
        graph: The graph of the manifest.
        grain_partitions: The partitions definition of each grain.
        column_partitions: The partitions definition of each column.
        circular: Unique ids of tests that cannot block, because they wait for tables that they would block.
    """

    graph: Graph
    grain_partitions: Mapping[Grain, GrainPartitions]
    column_partitions: Mapping[str, ColumnPartitions] = field(default_factory=dict)
    circular: Collection[str] = ()


class CheckKind(Protocol):
    """A kind of check that declares its specs."""

    def specs(self, owner: Owner, scope: Scope) -> Iterable[dg.AssetCheckSpec]:
        """Return the checks of one table, source or external. Empty if the kind does not apply to it."""


class TableCheckKind(CheckKind, Protocol):
    """A kind of check on tables that a run builds.

    A check whose spec has `blocking` is a gate: if it fails, no downstream table is built.
    """

    def evaluate(self, tables: Sequence[Table], fetch_all: FetchAll) -> Iterable[dg.AssetCheckResult]:
        """Evaluate all checks of some tables that the run has built, or that it only checks.

        Called in a thread while dbt continues to build, with as many tables at once as possible.

        Args:
            tables: The tables for which the kind has specs.
            fetch_all: Runs a statement on dbt's own connection, and raises an error if it fails.

        Returns:
            A result per spec. A missing result is reported as an error of its check.
        """


class SourceCheckKind(CheckKind, Protocol):
    """A kind of check on sources, which exist before a run. These checks block nothing."""

    def evaluate(self, sources: Sequence[Source], dbt: Dbt) -> Iterable[dg.AssetCheckResult]:
        """Evaluate all checks of some sources before the run builds anything.

        Args:
            sources: The sources whose checks are selected.
            dbt: Runs dbt commands.

        Returns:
            A result per spec. A missing result is reported as an error of its check.
        """


class Dbt(Protocol):
    """Runs dbt commands on the parsed project of a run."""

    def __call__(self, args: Sequence[str]) -> tuple[DbtResult, Path]:
        """Run one command, and return its result and the folder of its artifacts."""


def kinds(*evaluated: EvaluationPoint) -> Iterator[Kind]:
    """Return the kinds that are evaluated at any of the given points."""
    return (kind for kind in KINDS if kind.evaluated in evaluated)


def table_check_names() -> frozenset[str]:
    """Return the names of all checks on tables that a build evaluates, except dbt's tests."""
    return frozenset(name for kind in kinds(EvaluationPoint.IN_DBT, EvaluationPoint.WITH_TABLES) for name in kind.names)


def reserved_names(owner: Owner) -> set[str]:
    """Return the names that dbt's tests of an owner must not use."""
    of_sources = kinds(EvaluationPoint.BEFORE_TABLES, EvaluationPoint.ALONE) if isinstance(owner, Source) else ()
    return {*table_check_names(), *(name for kind in of_sources for name in kind.names)}


def specs(scope: Scope, owners: Collection[Owner], *evaluated: EvaluationPoint) -> Iterator[dg.AssetCheckSpec]:
    """Yield the checks of some owners, kind by kind.

    Sources that share an asset key have one check per name.

    Args:
        scope: What the specs are made from.
        owners: Tables, sources and externals.
        evaluated: The points of evaluation. Checks that are evaluated elsewhere are left out.
    """
    for kind in kinds(*evaluated):
        loaded: CheckKind = kind.load()
        of_sources: set[dg.AssetCheckKey] = set()
        for owner in owners:
            for spec in loaded.specs(owner, scope):
                if kind.names and isinstance(owner, Source):
                    if spec.key in of_sources:
                        continue
                    of_sources.add(spec.key)
                yield spec


def source_check_keys(graph: Graph) -> dict[str, list[dg.AssetCheckKey]]:
    """Return the keys of the checks that are evaluated before a build, by check name."""
    found: dict[str, list[dg.AssetCheckKey]] = {}
    for spec in specs(Scope(graph, {}), graph.sources.values(), EvaluationPoint.BEFORE_TABLES):
        found.setdefault(spec.name, []).append(spec.key)
    return found
