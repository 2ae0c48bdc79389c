"""Partitions of tables by the values of a column, and the values that a run builds.

Each column has one definition of its values, which all tables that are partitioned by the column share. Its values are
listed in the contract. Otherwise they are stored in Dagster: under the name of the column, or, if an upstream source is
split by the same column, under the name of the source's values, so that a value that is loaded becomes a partition.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import dagster as dg

from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.contract.partitions import ColumnPartition
from lakehouse_analytics.dbt.graph import Graph, Source, Table
from lakehouse_analytics.partitions.arrivals import values_name
from lakehouse_analytics.partitions.keys import partition_stretches, split_key

ColumnPartitions = dg.PartitionsDefinition[str]


def column_partitions(graph: Graph) -> dict[str, ColumnPartitions]:
    """Return the partitions definition of each column by which tables are partitioned.

    Args:
        graph: The graph of the manifest.

    Raises:
        ContractError: Tables that share a column have different values, or their values are those of several sources.
    """
    by_column: dict[str, list[Table]] = {}
    for unique_id in sorted(graph.tables):
        table = graph.tables[unique_id]
        if table.by:
            by_column.setdefault(table.by, []).append(table)
    return {column: _definition(graph, column, tables) for column, tables in by_column.items()}


def _definition(graph: Graph, column: str, tables: Sequence[Table]) -> ColumnPartitions:
    first, *others = tables
    for table in others:
        if (mine := _values(table)) != _values(first) and set(mine or ()) != set(_values(first) or ()):
            raise ContractError(
                f"{table.node.label} and {first.node.label}: meta.lakehouse.partition has other `values` of "
                f"`by: {column}`. Tables that are partitioned by the same column are built together, so list the same "
                "values for both, or for neither"
            )
    if values := _values(first):
        return dg.StaticPartitionsDefinition([*values])
    sources = {source.key: source for table in tables for source in _split_sources(graph, table, column)}
    if len(sources) > 1:
        names = some([".".join(key) for key in sorted(sources)], FEW)
        raise ContractError(
            f"{first.node.label}: meta.lakehouse.partition has `by: {column}` without `values`, and several sources "
            f"are split by {column}, each with its own values: {names}. List the `values`"
        )
    name = next((values_name(source) for source in sources.values()), column)
    return dg.DynamicPartitionsDefinition(name=name)


def _values(table: Table) -> Sequence[str] | None:
    partition = table.contract.partition
    return partition.values if isinstance(partition, ColumnPartition) else None


def _split_sources(graph: Graph, table: Table, column: str) -> list[Source]:
    """Return the sources upstream of a table that are split by a column."""
    found, seen, stack = [], set[str](), [*table.parents]
    while stack:
        unique_id = stack.pop()
        if unique_id in seen:
            continue
        seen.add(unique_id)
        if unique_id in graph.tables:
            stack.extend(graph.tables[unique_id].parents)
        elif (source := graph.sources.get(unique_id)) and is_split_by(source, column):
            found.append(source)
    return found


def is_split_by(source: Source, column: str) -> bool:
    """Return whether the partitions of a source have a dimension with the values of a column."""
    arrival = source.contract.arrives
    return isinstance(arrival, FileArrival) and (arrival.split_by or "").lower() == column


def known_values(values: ColumnPartitions, instance: dg.DagsterInstance) -> Sequence[str]:
    """Return all values of a column, in the order of their partitions."""
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        return values.get_partition_keys()


def value_ranges(known: Sequence[str], wanted: Collection[str], most: int | None = None) -> list[tuple[str, str]]:
    """Return the first and the last value of each stretch of wanted values that are consecutive partitions.

    Args:
        known: The values of all partitions, in their order.
        wanted: The values to cover. Those that are no partitions are omitted.
        most: Maximum number of values of a stretch; None for no limit.
    """
    return [(stretch[0], stretch[-1]) for stretch in partition_stretches(known, wanted, most)]


def column_mapping(above: Table | Source | None, below: Table) -> dg.PartitionMapping | None:
    """Return the partition mapping to a table from one that it reads, if one of them is partitioned by a column.

    A value depends on the same value of an upstream table or source with the same column, and otherwise on all
    partitions that there are upstream.

    Args:
        above: The upstream table or source; None if it is neither.
        below: The downstream table.
    """
    if isinstance(above, Source):
        arrival = above.contract.arrives
        if below.by is None or not isinstance(arrival, FileArrival) or arrival.date_format is None:
            return None
        if arrival.split_by and is_split_by(above, below.by):
            return dg.MultiToSingleDimensionPartitionMapping(arrival.split_by)
        return dg.AllPartitionMapping()
    if above is None or above.is_whole or below.is_whole or above.by == below.by:
        return None
    return dg.AllPartitionMapping()


def needed_values(
    by_column: Mapping[str, ColumnPartitions], instance: dg.DagsterInstance, run: Sequence[str] | None = None
) -> Callable[[Table, Table], Sequence[str]]:
    """Return a function for the values that a table needs of a table that it reads.

    These are the values of the run if both are partitioned by the same column, and all values otherwise.

    Args:
        by_column: The partitions definition of each column.
        instance: The instance, which knows the values of dynamic partitions.
        run: The values of the run; None for all.
    """

    def values_of(table: Table, parent: Table) -> Sequence[str]:
        if run is not None and table.by == parent.by:
            return run
        return known_values(by_column[parent.by], instance) if parent.by else ()

    return values_of


@dataclass(frozen=True)
class RunValues:
    """The values of a column that one run builds.

    Attributes:
        column: The column.
        partitions_def: The partitions of its tables.
        values: The values.
        known: All values that there are.
    """

    column: str
    partitions_def: ColumnPartitions
    values: Sequence[str]
    known: Sequence[str]

    @classmethod
    def for_run(
        cls, context: dg.AssetExecutionContext, tables: Sequence[Table], definitions: Mapping[str, ColumnPartitions]
    ) -> RunValues | None:
        """Return the values of a run, or None if it builds no table that is partitioned by a column.

        Args:
            context: The context of the step.
            tables: The tables that the run builds.
            definitions: The partitions definition of each column.

        Raises:
            dagster.Failure: The run was started without a partition, or for one that does not exist.
        """
        partitioned = [table for table in tables if table.by]
        column = next((table.by for table in partitioned), None)
        if column is None:
            return None
        names = some(sorted("/".join(table.key) for table in partitioned), FEW)
        definition = definitions[column]
        known = known_values(definition, context.instance)
        if not (context.has_partition_key or context.has_partition_key_range):
            such = f", such as {known[0]}" if known else ""
            raise dg.Failure(
                f"This run was started without a partition, and builds {names}, which are partitioned by {column}: "
                f"launch it for a value of {column}{such}, or for several (docs/time.md).",
                allow_retries=False,
            )
        values = [*context.partition_keys]
        if any(table.grain for table in partitioned):
            values = [*dict.fromkeys(split_key(column, key)[1] for key in values)]
        if not values or (unknown := [value for value in values if value not in known]):
            what, existing = some(unknown, FEW) if values else "in the range of this run", some(known, FEW)
            raise dg.Failure(
                f"There is no partition {what} of {names}. The values of {column} are {existing or 'none yet'}.",
                allow_retries=False,
            )
        return cls(column, definition, values, known)

    @property
    def label(self) -> str:
        """The values for tags and comments of queries: the first and the last one, in ASCII."""
        first, last = (quote(value, safe=" :") for value in (self.values[0], self.values[-1]))
        return first if len(self.values) == 1 else f"{first}...{last}"

    def environment(self) -> dict[str, str]:
        """Return the environment variable that `dbt/macros/replace_values.sql` reads."""
        return {"LAKEHOUSE_PARTITION_VALUES": json.dumps({"by": self.column, "values": [*self.values]})}

    def refuse_partial_rebuild(self) -> None:
        """Raise an error unless the run has all values. Rebuilding a table from some of them would lose the others.

        Raises:
            dagster.Failure: The run does not have all values.
        """
        if missing := [value for value in self.known if value not in set(self.values)]:
            raise dg.Failure(
                f"full_refresh (or DBT_FULL_REFRESH) of tables that are partitioned by {self.column} needs every value "
                f"in one run, and this one does not have {some(missing, FEW)}, whose rows it would delete. Without "
                "full_refresh, it replaces the rows of its own values only.",
                allow_retries=False,
            )
