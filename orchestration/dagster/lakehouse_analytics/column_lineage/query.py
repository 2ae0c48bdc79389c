"""The lineage of one query, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, order=True)
class Ref:
    """A column of a model, seed, snapshot or source.

    Attributes:
        relation: dbt's unique id, or the name of a table that dbt does not know.
        column: The name of the column.
    """

    relation: str
    column: str


@dataclass(frozen=True)
class Output:
    """A column of a query's result.

    Attributes:
        name: The name of the column.
        reads: The columns that its values are made of.
        direct: Whether it is another column, unchanged.
        expression: Its SQL, with the names of the query in which it was last more than another column.
        fingerprint: Equal if the values are made in the same way, whatever CTEs and aliases are called.
        type: The data type, or an empty string if it is unknown.
    """

    name: str
    reads: frozenset[Ref]
    direct: bool
    expression: str
    fingerprint: str
    type: str = ""


@dataclass(frozen=True)
class Query:
    """The lineage of a query.

    Attributes:
        outputs: The columns of the result, in order.
        filters: The columns that decide which rows there are: of joins, filters, groups and limits.
        inputs: The tables that the rows come from.
        row_fingerprint: Equal if the same rows are read, joined, filtered and grouped.
        open: The tables of which a `*` passes on columns that are not known.
        problem: The reason why the lineage is not known, or an empty string.
        named: The columns that the statement names itself, not by a `*`, including those that decide neither values
            nor rows: of an order, or of a CTE that does not pass them on. Empty for a query within a statement.
        left_out: The columns of the open tables that the `*` does not pass on.
    """

    outputs: tuple[Output, ...] = ()
    filters: frozenset[Ref] = frozenset()
    inputs: frozenset[str] = frozenset()
    row_fingerprint: str = ""
    open: frozenset[str] = frozenset()
    problem: str = ""
    named: frozenset[Ref] = frozenset()
    left_out: frozenset[Ref] = frozenset()

    @cached_property
    def by_name(self) -> dict[str, Output]:
        """The columns by name."""
        return {output.name: output for output in self.outputs}

    @cached_property
    def reads(self) -> frozenset[Ref]:
        """All columns that the query reads."""
        return self.filters.union(self.named, *(output.reads for output in self.outputs))

    def may_have(self, name: str) -> bool:
        """Return whether the result has a column, or may have it by a `*`."""
        return name in self.by_name or any(Ref(table, name) not in self.left_out for table in self.open)


def left_out_of(queries: Iterable[Query]) -> frozenset[Ref]:
    """Return the columns that no `*` of several queries passes on, of those whose result is combined."""
    all_ = [*queries]
    found = frozenset[Ref]().union(*(query.left_out for query in all_))
    return frozenset(ref for ref in found if all(ref in q.left_out for q in all_ if ref.relation in q.open))


@dataclass(frozen=True)
class Table:
    """What is known of a table that a query reads.

    Attributes:
        name: dbt's unique id, or another name that identifies it.
        columns: The data type of each known column, or an empty string.
        complete: Whether these are all columns.
    """

    name: str
    columns: dict[str, str]
    complete: bool = False
