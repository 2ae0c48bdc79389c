"""Partitions by time and by the values of a column: what they depend on, and the rectangles of a selection.

The dimensions are `date`, as for sources that are loaded from files, and the column. A run builds consecutive windows
for some values, which is a rectangle, so other selections need several runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import dagster as dg

from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.contract.models import ContractError, Grain
from lakehouse_analytics.contract.partitions import DATE_DIMENSION
from lakehouse_analytics.dbt.graph import External, Graph, Source, Table
from lakehouse_analytics.partitions.arrivals import source_mapping
from lakehouse_analytics.partitions.by_column import ColumnPartitions, column_mapping
from lakehouse_analytics.partitions.definitions import GRAINS, GrainPartitions, partition_mapping, waits_for
from lakehouse_analytics.partitions.keys import joined_key, partition_stretches

# Only the mappings are in beta, and a warning per model would hide our own.
warnings.filterwarnings("ignore", message="Class `(MultiPartitionMapping|DimensionPartitionMapping)`")


def table_partitions(
    table: Table, grain_partitions: Mapping[Grain, GrainPartitions], by_column: Mapping[str, ColumnPartitions]
) -> dg.PartitionsDefinition[str] | None:
    """Return the partitions definition of a table, or None if it is not partitioned.

    Args:
        table: The table.
        grain_partitions: The partitions definition of each grain.
        by_column: The partitions definition of each column.
    """
    time = grain_partitions[table.grain] if table.grain else None
    values = by_column[table.by] if table.by else None
    if table.by and time is not None and values is not None:
        return dg.MultiPartitionsDefinition({DATE_DIMENSION: time, table.by: values})
    return time if time is not None else values


def dependency_mapping(
    above: Table | Source | External, below: Table, grain_partitions: Mapping[Grain, GrainPartitions]
) -> dg.PartitionMapping | None:
    """Return the partition mapping from what a table reads to the table, or None for Dagster's default.

    A partition depends on the upstream partitions that overlap its time and have its value. Where only one of two has a
    dimension, a partition depends on all partitions of this dimension.

    Args:
        above: What the table reads.
        below: The table.
        grain_partitions: The partitions definition of each grain.
    """
    if isinstance(above, External):
        return None
    found = _mapping(above, below)
    by_time = isinstance(found, dg.MultiToSingleDimensionPartitionMapping) and (
        found.partition_dimension_name == DATE_DIMENSION
    )
    if by_time and below.contract.automation != "eager" and _begins_earlier(below, above, grain_partitions):
        # Dagster refuses a backfill of the first month if it begins before the first day: unlike the mapping of one
        # dimension, this one cannot ignore days that do not exist. `eager` needs the exact days.
        return dg.AllPartitionMapping()
    return found


def _begins_earlier(below: Table, above: Table | Source, grain_partitions: Mapping[Grain, GrainPartitions]) -> bool:
    """Return whether windows of a table are longer than those of what it reads, and the first one begins earlier."""
    if isinstance(above, Table):
        grain, begin = above.grain, grain_partitions[above.grain].start.date() if above.grain else None
    else:
        arrival = above.contract.arrives
        grain, begin = "daily", arrival.begin if isinstance(arrival, FileArrival) else None
    if below.grain is None or grain is None or begin is None:
        return False
    return GRAINS.index(below.grain) > GRAINS.index(grain) and grain_partitions[below.grain].start.date() < begin


def _mapping(above: Table | Source, below: Table) -> dg.PartitionMapping | None:
    (upstream_time, upstream_column), (time, column) = _dimensions(above), (below.grain is not None, below.by)
    upstream_both, both = upstream_time and upstream_column is not None, time and column is not None
    if not (both or (upstream_both and isinstance(above, Table))):
        return _mapping_of_one_dimension(above, below)
    if not (upstream_time or upstream_column) or not (time or column):
        return None
    if upstream_both and both:
        return _mapping_of_two_dimensions(above, below)
    same = upstream_column if upstream_column and upstream_column.lower() == column else None
    if upstream_time and time:
        return dg.MultiToSingleDimensionPartitionMapping(DATE_DIMENSION)
    return dg.MultiToSingleDimensionPartitionMapping(same) if same else dg.AllPartitionMapping()


def _mapping_of_two_dimensions(above: Table | Source, below: Table) -> dg.PartitionMapping:
    if isinstance(above, Table) and (above.grain, above.by) == (below.grain, below.by):
        return dg.IdentityPartitionMapping()
    column, identity = _dimensions(above)[1], dg.IdentityPartitionMapping()
    overlap = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
    dimensions = {DATE_DIMENSION: dg.DimensionPartitionMapping(DATE_DIMENSION, overlap)}
    if column and below.by and column.lower() == below.by:
        dimensions[column] = dg.DimensionPartitionMapping(below.by, identity)
    return dg.MultiPartitionMapping(dimensions)


def _dimensions(above: Table | Source) -> tuple[bool, str | None]:
    """Return whether a table or source is partitioned by time, and the column that it is partitioned by."""
    if isinstance(above, Table):
        return above.grain is not None, above.by
    arrival = above.contract.arrives
    if not isinstance(arrival, FileArrival) or arrival.date_format is None:
        return False, None
    return True, arrival.split_by


def _mapping_of_one_dimension(above: Table | Source, below: Table) -> dg.PartitionMapping | None:
    by_column = column_mapping(above, below)
    if by_column is not None:  # mappings without fields, such as AllPartitionMapping, are false
        return by_column
    if isinstance(above, Source):
        return source_mapping(above) if below.grain else None
    return partition_mapping(above.grain, below.grain)


def refuse_circles(graph: Graph) -> None:
    """Raise an error if the windows of jobs would wait for each other.

    A job builds all tables with the same dimensions, and waits for the windows that its tables read. A table by time
    between two tables by time and column, or the reverse, would therefore never be built.

    Raises:
        ContractError: Names the partitions of the jobs.
    """
    jobs: dict[str, set[str]] = {}
    for table in graph.tables.values():
        for parent in (graph.tables[name] for name in table.parents if name in graph.tables):
            if waits_for(table, parent):
                jobs.setdefault(_label(table), set()).add(_label(parent))
    try:
        TopologicalSorter(jobs).prepare()
    except CycleError as error:
        circle = " → ".join(f"`{label}`" for label in error.args[1])
        raise ContractError(
            "meta.lakehouse.partition: the tables of one partitioning are built together, and each partitioning here "
            f"reads tables of the next: {circle}. Give the tables in between the same `partition`"
        ) from None


def _label(table: Table) -> str:
    return f"{{grain: {table.grain}, by: {table.by}}}" if table.by else str(table.grain)


@dataclass(frozen=True)
class Rectangle:
    """Consecutive windows and consecutive values, which one run can build.

    Attributes:
        windows: The keys of the windows.
        values: The values.
    """

    windows: Sequence[str]
    values: Sequence[str]


def rectangles(
    windows: Sequence[str], values: Sequence[str], chosen: Collection[tuple[str, str]], most: int | None = None
) -> list[Rectangle]:
    """Return disjoint rectangles whose partitions are exactly the chosen ones.

    Args:
        windows: The keys of all windows, in their order.
        values: All values, in the order of their partitions.
        chosen: Windows with values. Those that are no partitions are omitted.
        most: Maximum number of partitions of a rectangle; None for no limit.
    """
    by_window: dict[str, set[str]] = {}
    for window, value in chosen:
        by_window.setdefault(window, set()).add(value)
    found: list[Rectangle] = []
    growing: dict[tuple[str, ...], list[str]] = {}
    for window in windows:
        stretches = partition_stretches(values, by_window.get(window, ()), most)
        before, growing = growing, {}
        for stretch in map(tuple, stretches):
            grown = before.get(stretch, [])
            if grown and (most is None or (len(grown) + 1) * len(stretch) <= most):
                grown.append(window)
                growing[stretch] = grown
            else:
                growing[stretch] = [window]
                found.append(Rectangle(growing[stretch], stretch))
    return found


def rectangle_keys(column: str, rectangle: Rectangle) -> Iterator[str]:
    """Yield the first and the last partition key of a rectangle."""
    for place in (0, -1):
        yield joined_key(column, rectangle.windows[place], rectangle.values[place])
