"""The columns of a copy: which types it keeps, and how the lakehouse's types are converted to them.

Engines and destinations have many types; a copy has ten kinds of columns, so that its rows can be compared on both
sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from lakehouse_analytics.common.sql import literal
from lakehouse_analytics.exports.base import ExportError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


class Kind(Enum):
    """The kinds of columns in a copy."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    DECIMAL = "decimal"
    DOUBLE = "double"
    DATE = "date"
    TIMESTAMP = "timestamp without a time zone"
    INSTANT = "timestamp with a time zone"
    TEXT = "text"
    JSON = "JSON"
    BINARY = "binary"


@dataclass(frozen=True)
class Column:
    """A column of a copy.

    Attributes:
        name: The name.
        kind: The kind.
        bits: Of an integer: its size.
        signed: Of an integer: whether it has a sign.
        precision, scale: Of a decimal.
        in_key: Whether the column belongs to the key.
    """

    name: str
    kind: Kind
    bits: int = 64
    signed: bool = True
    precision: int = 38
    scale: int = 0
    in_key: bool = False


def columns_of(schema: pa.Schema, key: Sequence[str]) -> list[Column]:
    """Return the columns of a copy.

    Args:
        schema: The schema of the lakehouse's table.
        key: The columns of the key. Their case may differ.

    Raises:
        ExportError: A column of the key does not exist, or a type cannot be copied.
    """
    wanted = {name.lower() for name in key}
    missing = wanted - {field.name.lower() for field in schema}
    if missing:
        names = ", ".join(field.name for field in schema)
        raise ExportError(f"meta.lakehouse.serve.key has {', '.join(sorted(missing))}, but the table has only {names}.")
    return [_column(field, in_key=field.name.lower() in wanted) for field in schema]


def key_of(columns: Sequence[Column], key: Sequence[str]) -> list[str]:
    """Return the names of the key's columns in the order of the key, as the table writes them."""
    names = {column.name.lower(): column.name for column in columns}
    return [names[name.lower()] for name in key]


def _column(field: pa.Field, *, in_key: bool) -> Column:
    import pyarrow.types as kinds

    kind, name = field.type, field.name
    if kinds.is_integer(kind):
        signed = kinds.is_signed_integer(kind)
        return Column(name, Kind.INTEGER, bits=kind.bit_width, signed=signed, in_key=in_key)
    if kinds.is_decimal(kind):
        if kind.precision > 38 or not 0 <= kind.scale <= kind.precision:
            raise ExportError(
                f"Column {name} is a {kind}: at most 38 digits can be exported. Cast it in the model, such as to "
                "decimal(38, 6)."
            )
        return Column(name, Kind.DECIMAL, precision=kind.precision, scale=kind.scale, in_key=in_key)
    if kinds.is_timestamp(kind):
        return Column(name, Kind.INSTANT if kind.tz else Kind.TIMESTAMP, in_key=in_key)
    others = (
        (kinds.is_boolean, Kind.BOOLEAN),
        (kinds.is_floating, Kind.DOUBLE),
        (kinds.is_date, Kind.DATE),
        (kinds.is_binary, Kind.BINARY),
        (kinds.is_large_binary, Kind.BINARY),
        (kinds.is_fixed_size_binary, Kind.BINARY),
        (kinds.is_dictionary, Kind.TEXT),
        (kinds.is_nested, Kind.JSON),
    )
    return Column(name, next((found for is_of, found in others if is_of(kind)), Kind.TEXT), in_key=in_key)


#: DuckDB's expression of a column's values in a copy, by kind. Those of other kinds are unchanged.
_EXPRESSIONS = {
    Kind.DOUBLE: "{}::double",
    Kind.DATE: "{}::date",
    Kind.TIMESTAMP: "{}::timestamp",
    Kind.INSTANT: "{}::timestamptz",
    Kind.JSON: "to_json({})::varchar",
    Kind.TEXT: "{}::varchar",
    Kind.BINARY: "{}::blob",
}


def _expression(number: int, column: Column, kind: pa.DataType) -> str:
    import pyarrow.types as kinds

    name = f"c{number}"
    if column.kind is Kind.TIMESTAMP and kinds.is_timestamp(kind) and kind.unit == "ns":
        fine = f"error({literal(f'column {column.name} has times with nanoseconds; round them in the model')})"
        return f"case when epoch_ns({name}) % 1000 <> 0 then {fine} else {name}::timestamp end"
    return _EXPRESSIONS.get(column.kind, "{}").format(name)


class Converter:
    """Converts batches of the lakehouse's table to those of a copy, by DuckDB in memory. A context manager."""

    def __init__(self, schema: pa.Schema, columns: Sequence[Column]) -> None:
        """
        Args:
            schema: The schema of the batches.
            columns: The columns of the copy.
        """
        self._columns = columns
        expressions = (_expression(n, column, schema.field(n).type) for n, column in enumerate(columns))
        self._select = ", ".join(f"{text} as c{number}" for number, text in enumerate(expressions))

    def __enter__(self) -> Converter:
        """Open DuckDB."""
        import duckdb

        self._duckdb = duckdb.connect(config={"threads": 2})
        self._duckdb.execute("set TimeZone = 'UTC'")
        return self

    def __exit__(self, *error: object) -> None:
        """Close DuckDB."""
        self._duckdb.close()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection, which can also compute checksums of the batches."""
        return self._duckdb

    def convert(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        """Yield the rows of each batch as the copy has them, in columns `c0`, `c1` and so on.

        Raises:
            ExportError: A value cannot be converted, or is null in the key.
        """
        import duckdb
        import pyarrow as pa

        names = [f"c{number}" for number in range(len(self._columns))]
        for batch in batches:
            rows = pa.Table.from_batches([batch]).rename_columns(names)
            self._duckdb.register("rows", rows)
            try:
                table = self._duckdb.sql(f"select {self._select} from rows").to_arrow_table()  # noqa: S608
            except duckdb.Error as error:
                raise ExportError(f"A value cannot be exported: {str(error).splitlines()[0]}.") from None
            for name, column in zip(names, self._columns, strict=True):
                if column.in_key and table[name].null_count:
                    raise ExportError(
                        f"Column {column.name} of meta.lakehouse.serve.key has nulls. Remove the column from the key, "
                        "or the nulls in the model."
                    )
            yield table
