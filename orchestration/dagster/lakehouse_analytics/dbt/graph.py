"""The dbt manifest as a graph of tables, sources and tests.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from lakehouse_analytics.contract.exports import Serve
from lakehouse_analytics.contract.models import LAYERS, Grain, ModelContract, SourceContract
from lakehouse_analytics.contract.partitions import ColumnPartition
from lakehouse_analytics.dbt.nodes import Exposure, Node
from lakehouse_analytics.dbt.relation import in_schema
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.registry import engine_type

Key = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A model, seed or snapshot that a run builds.

    Attributes:
        unique_id: dbt's unique id.
        key: The asset key.
        layer: The layer.
        contract: The contract.
        node: The node of the manifest.
        parents: Unique ids of upstream tables, sources and externals, including those behind ephemeral models.
        group: Dagster's asset group. Jobs and sensors select by layer instead.
        functions: Unique ids of the functions that it calls, including those in ephemeral models.
    """

    unique_id: str
    key: Key
    layer: str
    contract: ModelContract
    node: Node = field(repr=False, compare=False)
    parents: tuple[str, ...] = field(compare=False)
    group: str = "default"
    functions: tuple[str, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """The name of the dbt node."""
        return self.node.name

    @property
    def grain(self) -> Grain | None:
        """The length of a partition, or None if the table is not partitioned by time."""
        partition = self.contract.partition
        return partition.grain if isinstance(partition, ColumnPartition) else partition

    @property
    def by(self) -> str | None:
        """The column whose values are the partitions, or None if the table is not partitioned by a column."""
        partition = self.contract.partition
        return partition.by if isinstance(partition, ColumnPartition) else None

    @property
    def is_whole(self) -> bool:
        """Whether every run builds the whole table, because it is not partitioned."""
        return self.contract.partition is None

    @property
    def event_time(self) -> str | None:
        """The column with the time of each row."""
        return self.node.config.event_time


@dataclass(frozen=True)
class Source:
    """A source table, which is filled outside of dbt. Its default asset key is `[source, table]`.

    Attributes:
        key_of_values: The asset key where the table is loaded, if it is not `key`: on a branch, it is not.
    """

    unique_id: str
    key: Key
    contract: SourceContract = field(hash=False)
    node: Node = field(repr=False, compare=False)
    group: str = "sources"
    key_of_values: Key = ()


@dataclass(frozen=True)
class External:
    """An asset of lineage or checks that is neither a table of this project nor a source.

    Attributes:
        unique_id: dbt's unique id, or `project.<name>` for a project.
        key: The asset key.
        kind: `model` for a model of another project, `ephemeral` for an ephemeral model of constants that has tests,
            and `project` for a dbt project with tests that read no table.
        node: The node of the manifest.
        group: Dagster's asset group.
    """

    unique_id: str
    key: Key
    kind: Literal["model", "ephemeral", "project"]
    node: Node = field(repr=False, compare=False)
    group: str = "sources"


@dataclass(frozen=True)
class Function:
    """A user-defined function, which a run creates before the models that call it.

    It holds no data, so it is not an asset.
    """

    unique_id: str
    node: Node = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The name of the dbt node."""
        return self.node.name


@dataclass(frozen=True, slots=True)
class DbtTest:
    """A dbt data test.

    Attributes:
        unique_id: dbt's unique id.
        name: The name of the asset check.
        attached: The unique id of the table, source or external that the check is on.
        parents: Unique ids of the tables, sources and externals that the test waits for.
        blocking: Whether the test has `severity: error`.
        node: The node of the manifest.
        functions: Unique ids of the functions that it calls.
    """

    unique_id: str
    name: str
    attached: str
    parents: tuple[str, ...]
    blocking: bool
    node: Node = field(repr=False, compare=False)
    functions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Copy:
    """A copy of a table in another database.

    Attributes:
        table: The unique id of the table.
        serve: The copy, as the contract describes it.
        exposure: The exposure whose contract it is; None if it is that of the table.
    """

    table: str
    serve: Serve
    exposure: Exposure | None = None


@dataclass(frozen=True)
class Graph:
    """Everything in a manifest that becomes an asset or a check.

    Attributes:
        tables: The tables by unique id.
        sources: The sources by unique id.
        tests: The data tests by unique id.
        exposures: The exposures by unique id.
        adapter: The name of the dbt adapter.
        warnings: Findings about the project, one line per kind.
        group_owners: The email address, or addresses, of the owner of each dbt group.
        externals: The externals by unique id.
        functions: The functions by unique id.
        project: dbt's name of the project.
        exposure_parents: The tables, sources and externals upstream of each exposure, including those behind metrics
            and semantic models.
        exposure_keys: The asset keys of the exposures.
        exposure_copies: The copies of tables that contracts of exposures describe.
        prefix: The start of all asset keys, which is the name of a branch; empty for the lakehouse itself.
    """

    tables: Mapping[str, Table]
    sources: Mapping[str, Source]
    tests: Mapping[str, DbtTest]
    exposures: Mapping[str, Exposure]
    adapter: str
    warnings: tuple[str, ...] = ()
    group_owners: Mapping[str, Any] = field(default_factory=dict)
    externals: Mapping[str, External] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=dict)
    project: str = ""
    exposure_parents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exposure_keys: Mapping[str, Key] = field(default_factory=dict)
    exposure_copies: tuple[Copy, ...] = ()
    prefix: Key = ()

    @property
    def engine(self) -> EngineType:
        """The engine that the manifest was made for.

        Raises:
            UnsupportedEngineError: The adapter belongs to no supported engine.
        """
        return engine_type(self.adapter)

    @cached_property
    def unbuilt(self) -> Mapping[str, Source | External]:
        """Sources and externals, which are assets that no run of this project builds."""
        return {**self.sources, **self.externals}

    @property
    def copies(self) -> Iterator[Copy]:
        """The copies of tables in other databases."""
        for table in self.tables.values():
            for serve in table.contract.serve:
                yield Copy(table.unique_id, serve)
        yield from self.exposure_copies

    def with_schemas(self, schemas: Mapping[str, str]) -> Graph:
        """Return the graph with tables in other schemas.

        Args:
            schemas: The schema of each table that moves, by unique id.
        """
        tables = dict(self.tables)
        for unique_id, schema in schemas.items():
            table = tables[unique_id]
            name = in_schema(table.node.relation_name, schema)
            tables[unique_id] = replace(table, node=replace(table.node, schema=schema, relation_name=name))
        return replace(self, tables=tables)

    def with_prefix(self, prefix: str) -> Graph:
        """Return the graph with other asset keys, which all start with a prefix."""
        return replace(
            self,
            tables={name: replace(table, key=(prefix, *table.key)) for name, table in self.tables.items()},
            sources={
                name: replace(source, key=(prefix, *source.key), key_of_values=source.key_of_values or source.key)
                for name, source in self.sources.items()
            },
            externals={name: replace(other, key=(prefix, *other.key)) for name, other in self.externals.items()},
            exposure_keys={name: (prefix, *key) for name, key in self.exposure_keys.items()},
            prefix=(prefix, *self.prefix),
        )

    def resource(self, unique_id: str) -> Table | Source | External:
        """Return the table, source or external of a unique id.

        Raises:
            KeyError: The unique id belongs to none of them.
        """
        return self.tables.get(unique_id) or self.unbuilt[unique_id]

    @cached_property
    def children(self) -> Mapping[str, tuple[str, ...]]:
        """The tables directly downstream of each table, source, external and function."""
        found: dict[str, list[str]] = defaultdict(list)
        for table in self.tables.values():
            for parent in (*table.parents, *table.functions):
                found[parent].append(table.unique_id)
        return {parent: tuple(children) for parent, children in found.items()}

    @cached_property
    def unused_functions(self) -> frozenset[str]:
        """The functions that are called by neither a table nor a test."""
        things: list[Table | DbtTest] = [*self.tables.values(), *self.tests.values()]
        return frozenset(self.functions.keys() - {function for thing in things for function in thing.functions})

    @cached_property
    def tests_of(self) -> Mapping[str, tuple[DbtTest, ...]]:
        """The tests by the table, source or external that they are attached to."""
        found: dict[str, list[DbtTest]] = defaultdict(list)
        for test in self.tests.values():
            found[test.attached].append(test)
        return {unique_id: tuple(tests) for unique_id, tests in found.items()}

    @cached_property
    def by_key(self) -> Mapping[Key, Table]:
        """The tables by asset key."""
        return {table.key: table for table in self.tables.values()}

    @cached_property
    def order(self) -> Mapping[str, int]:
        """The position of each table in a topological order. Dagster only accepts results in such an order."""
        return {unique_id: place for place, unique_id in enumerate(_topological(self.tables))}

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """An estimate of how late each table is built, which is at least the position of its layer.

        It decides to which of its tables a test of several tables is attached. The keys of checks, and with them their
        history, depend on it.
        """
        ranks: dict[str, int] = {}
        for unique_id in self.order:
            table = self.tables[unique_id]
            own = LAYERS.index(table.layer) if table.layer in LAYERS else 0
            above = (
                ranks[parent]
                + (self.tables[parent].layer != table.layer or self.tables[parent].contract.has_row_count_gate)
                for parent in table.parents
                if parent in self.tables
            )
            ranks[unique_id] = max([own, *above])
        return ranks

    def descendants(self, unique_ids: Iterable[str]) -> set[str]:
        """Return all tables downstream of the given ones.

        A given table is only included if it is downstream of another one.
        """
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
