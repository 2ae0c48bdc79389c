"""Types the rows of a batch, and separates the ones that cannot be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lakehouse_analytics.arrivals.files.batch import TEXT, Batch
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.common.text import shortened
from lakehouse_analytics.contract.arrivals import FileArrival

#: What the key of a partition cannot contain: `|` separates dimensions, `...` the ends of a range.
_NOT_IN_KEYS = r"\||\.\.\.|[\x00-\x1f]"
#: Characters of a value that a reason quotes.
_QUOTED = 60


def declared_types(arrival: FileArrival) -> dict[str, str]:
    """Return the declared types of columns, as DuckDB names them, by the column's name in lower case.

    Raises:
        ArrivalError: A type does not exist.
    """
    import duckdb

    found = {}
    for name, text in arrival.columns.items():
        try:
            found[name.lower()] = str(duckdb.sqltype(text))
        except duckdb.Error:
            raise ArrivalError(
                f"meta.lakehouse.arrives.columns.{name} is {shortened(text)}: DuckDB has no such type. Use one such "
                "as decimal(12,4), bigint, double, date, timestamptz, boolean or text."
            ) from None
    return found


@dataclass(frozen=True)
class Typing:
    """The types of a batch.

    Attributes:
        arrival: The contract.
        types: The type in the table of each column of the batch.
        batch: The batch.
    """

    arrival: FileArrival
    types: Mapping[str, str]
    batch: Batch

    @property
    def split_column(self) -> str | None:
        """The column of the batch that is the second dimension of the partitions; None if no file has rows."""
        wanted = self.arrival.split_by
        return next((name for name in self.types if wanted is not None and name.lower() == wanted.lower()), None)

    @property
    def reason(self) -> str:
        """An expression: the reason why a row of `raw` cannot be loaded, or null."""
        parts = [
            _not_of_type(name, self.batch.columns[name], kind)
            for name, kind in self.types.items()
            if kind != self.batch.columns[name]
        ]
        if self.split_column:
            parts.append(_no_key(self.split_column))
        return f"coalesce({', '.join(parts)})" if parts else "NULL::VARCHAR"


def separate(arrival: FileArrival, types: Mapping[str, str], batch: Batch) -> Typing:
    """Create the table `good`: typed rows of good files. Rows that cannot be loaded move to `bad`.

    Args:
        arrival: The contract.
        types: Types that the columns must have, by name in lower case. Other columns keep the type of their file.
        batch: The batch. Files with too many bad rows are added to its bad files.
    """
    typing = Typing(arrival, {name: types.get(name.lower(), kind) for name, kind in batch.columns.items()}, batch)
    reason = typing.reason
    packed = ", ".join(f"{identifier(name)} := {identifier(name)}" for name in typing.types) or "x := NULL"
    batch.run(
        f"INSERT INTO bad SELECT __lh_file, NULL, to_json(struct_pack({packed}))::VARCHAR, __lh_reason "  # noqa: S608
        f"FROM (SELECT *, {reason} AS __lh_reason FROM raw) WHERE __lh_reason IS NOT NULL"
    )
    _refuse_files(arrival.max_bad_rows, reason, batch)
    values = [
        f"{_stored(name, batch.columns[name], kind, name == typing.split_column)} AS {identifier(name)}"
        for name, kind in typing.types.items()
    ]
    refused = ", ".join(map(str, batch.bad_files)) or "-1"
    batch.run(
        f"CREATE OR REPLACE TABLE good AS SELECT {', '.join(['__lh_file', *values])} FROM raw "  # noqa: S608
        f"WHERE {reason} IS NULL AND __lh_file NOT IN ({refused})"
    )
    batch.run("DROP TABLE raw")
    return typing


def _refuse_files(max_bad_rows: float, reason: str, batch: Batch) -> None:
    """Add the files with too many bad rows to the bad files."""
    counts = batch.run(
        "SELECT bad.__lh_file, bad.rows, bad.rows + coalesce(good.rows, 0) FROM "  # noqa: S608
        "(SELECT __lh_file, count(*) AS rows FROM bad GROUP BY __lh_file) AS bad LEFT JOIN "
        f"(SELECT __lh_file, count(*) AS rows FROM raw WHERE {reason} IS NULL GROUP BY __lh_file) AS good "
        "USING (__lh_file)"
    )
    for number, bad, rows in counts:
        assert isinstance(number, int) and isinstance(bad, int) and isinstance(rows, int)  # noqa: S101, PT018
        if bad > rows * max_bad_rows:
            batch.bad_files[number] = f"{bad} of its {rows} rows are bad, more than max_bad_rows: {max_bad_rows:g}"


def _cast(name: str, have: str, kind: str) -> str:
    column = identifier(name)
    if have == kind:
        return column
    # An empty value of a text format is null for all types except text.
    return f"TRY_CAST(nullif(trim({column}), '') AS {kind})" if have == TEXT else f"TRY_CAST({column} AS {kind})"


def _stored(name: str, have: str, kind: str, is_key: bool) -> str:
    """Return the expression of a value in the table. A text that is part of the partition's key is trimmed, like it."""
    return f"trim({identifier(name)})" if is_key and have == kind == TEXT else _cast(name, have, kind)


def _is_rounded(name: str, have: str, kind: str) -> str:
    """Return the condition that a cast would change a number: DuckDB rounds fractions that a type does not have."""
    if have != TEXT or not (kind.startswith("DECIMAL") or kind.endswith("INT") or kind == "INTEGER"):
        return "false"
    exact = f"TRY_CAST(trim({identifier(name)}) AS DECIMAL(38, 18))"
    return f"coalesce({exact} <> {_cast(name, have, kind)}, false)"


def _not_of_type(name: str, have: str, kind: str) -> str:
    column = identifier(name)
    filled = f"coalesce(trim({column}), '') <> ''" if have == TEXT else f"{column} IS NOT NULL"
    value = f"left({column}::VARCHAR, {_QUOTED})"
    reason = f"{literal(name + ' is ')} || chr(39) || {value} || chr(39) || {literal(', which is not ' + kind)}"
    wrong = f"({_cast(name, have, kind)} IS NULL OR {_is_rounded(name, have, kind)})"
    return f"CASE WHEN {filled} AND {wrong} THEN {reason} END"


def _no_key(column: str) -> str:
    value = f"coalesce(trim({identifier(column)}::VARCHAR), '')"
    quoted = f"chr(39) || left({value}, {_QUOTED}) || chr(39)"
    forbidden = f"{literal(column + ' is ')} || {quoted} || {literal(', which the key of a partition cannot contain')}"
    return (
        f"CASE WHEN {value} = '' THEN {literal(column + ' is empty, but it is part of the partition')} "
        f"WHEN regexp_matches({value}, {literal(_NOT_IN_KEYS)}) THEN {forbidden} END"
    )
