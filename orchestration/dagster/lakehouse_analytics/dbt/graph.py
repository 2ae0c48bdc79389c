"""The dbt manifest as a graph of tables and tests.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from lakehouse_analytics.contract.models import LAYERS, Grain, ModelContract, SourceContract
from lakehouse_analytics.dbt.nodes import Exposure, Node
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.registry import engine_type

Key = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A model, seed or snapshot that a run builds."""

    unique_id: str
    key: Key
    layer: str
    contract: ModelContract
    node: Node = field(repr=False, compare=False)
    parents: tuple[str, ...] = field(compare=False)  # tables, sources and externals, through ephemeral models
    group: str = "default"  # of Dagster; jobs and sensors go by the layer
    functions: tuple[str, ...] = field(default=(), compare=False)  # that it calls, through ephemeral models too

    @property
    def name(self) -> str:
        """dbt's name of it."""
        return self.node.name

    @property
    def grain(self) -> Grain | None:
        """Length of its windows; None where it is built as a whole."""
        return self.contract.partition

    @property
    def event_time(self) -> str | None:
        """Column of the rows' own time."""
        return self.node.config.event_time


@dataclass(frozen=True)
class Source:
    """A table that somebody else fills; `[source, table]`."""

    unique_id: str
    key: Key
    contract: SourceContract
    node: Node = field(repr=False, compare=False)
    group: str = "sources"


@dataclass(frozen=True)
class External:
    """Something that is neither a table of this project nor a source, and that lineage or a check needs.

    `kind` is `model` for another project's model, `ephemeral` for an ephemeral model of constants that has tests, and
    `project` for a dbt project with tests that read no table.
    """

    unique_id: str
    key: Key
    kind: Literal["model", "ephemeral", "project"]
    node: Node = field(repr=False, compare=False)
    group: str = "sources"


@dataclass(frozen=True)
class Function:
    """A user-defined function, which a run creates before the models that call it. No asset: it holds no data."""

    unique_id: str
    node: Node = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """dbt's name of it."""
        return self.node.name


@dataclass(frozen=True, slots=True)
class DbtTest:
    """A dbt data test, and the table, source or external whose check it is."""

    unique_id: str
    name: str
    attached: str
    parents: tuple[str, ...]
    blocking: bool
    node: Node = field(repr=False, compare=False)
    functions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Everything of a manifest that becomes an asset or a check."""

    tables: Mapping[str, Table]
    sources: Mapping[str, Source]
    tests: Mapping[str, DbtTest]
    exposures: Mapping[str, Exposure]
    adapter: str
    warnings: tuple[str, ...] = ()
    #: dbt groups and the email address, or addresses, of who owns them.
    group_owners: Mapping[str, Any] = field(default_factory=dict)
    externals: Mapping[str, External] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=dict)
    #: dbt's name of the project.
    project: str = ""
    #: Tables, sources and externals above each exposure, through metrics and semantic models.
    exposure_parents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Asset keys of the exposures.
    exposure_keys: Mapping[str, Key] = field(default_factory=dict)

    @property
    def engine(self) -> EngineType:
        """The kind of database that the manifest was made for.

        Raises:
            UnsupportedEngineError: there is no such engine.
        """
        return engine_type(self.adapter)

    @cached_property
    def unbuilt(self) -> Mapping[str, Source | External]:
        """What has an asset and is built by no run of this project."""
        return {**self.sources, **self.externals}

    def known(self, unique_id: str) -> Table | Source | External:
        """What has the asset of a unique id.

        Raises:
            KeyError: no asset is of this unique id.
        """
        return self.tables.get(unique_id) or self.unbuilt[unique_id]

    @cached_property
    def children(self) -> Mapping[str, tuple[str, ...]]:
        """Tables directly below each table, source, external and function."""
        found: dict[str, list[str]] = defaultdict(list)
        for table in self.tables.values():
            for parent in (*table.parents, *table.functions):
                found[parent].append(table.unique_id)
        return {parent: tuple(children) for parent, children in found.items()}

    @cached_property
    def unused_functions(self) -> frozenset[str]:
        """Functions that no table and no test calls."""
        things: list[Table | DbtTest] = [*self.tables.values(), *self.tests.values()]
        return frozenset(self.functions.keys() - {function for thing in things for function in thing.functions})

    @cached_property
    def tests_of(self) -> Mapping[str, tuple[DbtTest, ...]]:
        """Tests by the table or source they are attached to."""
        found: dict[str, list[DbtTest]] = defaultdict(list)
        for test in self.tests.values():
            found[test.attached].append(test)
        return {unique_id: tuple(tests) for unique_id, tests in found.items()}

    @cached_property
    def by_key(self) -> Mapping[Key, Table]:
        """Tables by asset key."""
        return {table.key: table for table in self.tables.values()}

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Every table's place in a topological order; Dagster takes results in such an order only."""
        return {unique_id: place for place, unique_id in enumerate(_topological(self.tables))}

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """How late each table is built, roughly: its layer's place, or later.

        Tells of which of its tables a test of several is a check. Keys of checks, and with them history, depend on it.
        """
        ranks: dict[str, int] = {}
        for unique_id in self.order:
            table = self.tables[unique_id]
            own = LAYERS.index(table.layer) if table.layer in LAYERS else 0
            above = (
                ranks[parent] + (self.tables[parent].layer != table.layer or self.tables[parent].contract.has_row_count_gate)
                for parent in table.parents
                if parent in self.tables
            )
            ranks[unique_id] = max([own, *above])
        return ranks

    def descendants(self, unique_ids: Iterable[str]) -> set[str]:
        """Every table downstream of the given ones, without themselves unless reached."""
        found: set[str] = set()
        stack = [child for unique_id in unique_ids for child in self.children.get(unique_id, ())]
        while stack:
            unique_id = stack.pop()
            if unique_id not in found:
                found.add(unique_id)
                stack.extend(self.children.get(unique_id, ()))
        return found


def _topological(tables: Mapping[str, Table]) -> list[str]:
    order: list[str] = []
    seen: set[str] = set()
    for root in sorted(tables):
        stack = [(root, False)]
        while stack:
            unique_id, done = stack.pop()
            if done:
                order.append(unique_id)
            elif unique_id not in seen:
                seen.add(unique_id)
                stack.append((unique_id, True))
                stack.extend((p, False) for p in tables[unique_id].parents if p in tables and p not in seen)
    return order
