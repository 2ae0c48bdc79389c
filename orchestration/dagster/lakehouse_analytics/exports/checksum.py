"""The checksum by which the rows of a copy are compared with those of the lakehouse.

Each row becomes a text with all its values in an unambiguous form; the checksum is the number of rows, and the sum of
the first 60 bits of the MD5 of each text. DuckDB computes it from the batches while they are loaded, and the
destination computes it from the rows that it has stored, in SQL.

It finds a lost row, a row that is there twice (unlike an exclusive or, a sum counts both), and a changed value,
including values exchanged between rows or columns and a NULL in place of an empty text. The order of the rows has no
effect. Two different tables have the same checksum with a probability of 1 in 10^18; it does not protect against
deliberate changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lakehouse_analytics.exports.base import Checksum
from lakehouse_analytics.exports.columns import Column, Kind

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: Hexadecimal digits of a row's MD5. Sixty bits: PostgreSQL's integers have no more than 63.
DIGITS = 15
#: The bits of a double that is not a number. Engines differ in the bits of theirs.
NAN_BITS = 0x7FF8000000000000
#: What represents NULL. Other values begin with a digit, a sign or their length, or are `t`, `f` or hexadecimal.
NULL = "N;"
#: Kinds whose text has any characters, so that it is preceded by its length in bytes.
_SIZED = (Kind.TEXT, Kind.JSON)


def parts(
    columns: Sequence[Column], plain: Callable[[int, Column], str], sized: Callable[[int, Column], str]
) -> list[str]:
    """Return an SQL expression per column, whose texts together represent a row.

    Args:
        columns: The columns.
        plain: Returns the expression of a value's text followed by `;`, for kinds whose text has no `;`.
        sized: Returns the expression of a value's length in bytes, `:` and its text.
    """
    return [
        sized(number, column) if column.kind in _SIZED else plain(number, column)
        for number, column in enumerate(columns)
    ]


def checksum_of(duckdb: duckdb.DuckDBPyConnection, columns: Sequence[Column], table: pa.Table) -> Checksum:
    """Return the checksum of some rows of a copy, whose columns are named `c0`, `c1` and so on."""
    for number, column in enumerate(columns):
        if column.kind is Kind.DOUBLE:
            table = table.set_column(number, f"c{number}", _bits(table[f"c{number}"]))
    texts = parts(
        columns,
        lambda number, column: f"coalesce({_text(f'c{number}', column)} || ';', '{NULL}')",
        lambda number, _: f"coalesce(strlen(c{number})::varchar || ':' || c{number}, '{NULL}')",
    )
    duckdb.register("hashed", table)
    row = f"('0x' || substr(md5({' || '.join(texts)}), 1, {DIGITS}))::bigint"
    query = f"select count(*), coalesce(sum({row}::hugeint), 0) from hashed"  # noqa: S608
    [(rows, total)] = duckdb.execute(query).fetchall()
    return Checksum(int(rows), int(total))


def _text(name: str, column: Column) -> str:
    match column.kind:
        case Kind.BOOLEAN:
            return f"case {name} when true then 't' when false then 'f' end"
        case Kind.DATE:
            return f"({name} - date '1970-01-01')::varchar"
        case Kind.TIMESTAMP | Kind.INSTANT:
            return f"epoch_us({name})::varchar"
        case Kind.BINARY:
            return f"lower(hex({name}))"
    return f"{name}::varchar"


def _bits(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the bits of doubles as integers: their text differs between engines."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = []
    for chunk in values.chunks:
        bits = chunk.view(pa.int64())
        chunks.append(pc.if_else(pc.fill_null(pc.is_nan(chunk), False), pa.scalar(NAN_BITS, pa.int64()), bits))
    return pa.chunked_array(chunks, pa.int64())
