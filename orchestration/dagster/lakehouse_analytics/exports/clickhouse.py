"""Exports to ClickHouse: a server by its HTTP interface, or embedded (chdb) by the same client.

Rows are loaded into a table of the engine MergeTree beside the old one, and EXCHANGE TABLES swaps the two names in one
step. Grants, row policies and views refer to names in ClickHouse, so they apply to the new table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from lakehouse_analytics.exports.base import MARKER, Checksum, ExportError, Target
from lakehouse_analytics.exports.checksum import DIGITS, NAN_BITS, NULL, parts
from lakehouse_analytics.exports.clickhouse_client import ClickHouseClient, literal, quoted
from lakehouse_analytics.exports.clickhouse_types import refuse_old_dates, table_of, type_of
from lakehouse_analytics.exports.columns import Column, Kind, key_of

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse_analytics.arrivals.connections import Connection


class ClickHouse:
    """A table in ClickHouse. See `base.Destination`."""

    def __init__(self, connection: Connection, target: Target) -> None:
        """
        Args:
            connection: The address, of the scheme clickhouse, clickhouses or chdb.
            target: The table.
        """
        self._target = target
        self._database = ClickHouseClient(connection, target.schema)
        self._exists = False

    def __enter__(self) -> Self:
        """Connect."""
        self._database.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Disconnect."""
        self._database.__exit__(*error)

    def prepare(self, columns: Sequence[Column]) -> list[str]:
        """Check that the table may be replaced, and drop staged tables. See `base.Destination`."""
        key_of(columns, self._target.key)
        self._database.create_database()
        tables = self._database.comments()
        comment = tables.get(self._target.table)
        self._exists = comment is not None
        if comment is not None and comment != self._target.comment:
            what = "" if not comment.startswith(MARKER) else f", but one of {comment.removeprefix(MARKER)}"
            here = self._database.here(self._target.table)
            raise ExportError(
                f"{here} exists and is not an export of {self._target.origin}{what}. "
                "Rename or drop it, or choose another name (meta.lakehouse.serve.table)."
            )
        left = [n for n, text in tables.items() if self._target.is_staged(n) and text == self._target.comment]
        for name in left:
            self._database.drop(name)
        return left

    def stage(self, columns: Sequence[Column], batches: Iterator[pa.RecordBatch]) -> None:
        """Create and load the staged table. See `base.Destination`."""
        key = key_of(columns, self._target.key)
        described = ", ".join(f"{quoted(column.name)} {type_of(column)}" for column in columns)
        order = ", ".join(map(quoted, key))
        self._database.run(
            f"create table {self._database.name(self._target.staged)} ({described}) engine = MergeTree "
            f"order by ({order}) comment {literal(self._target.comment)}"
        )
        names = [column.name for column in columns]
        for batch in batches:
            refuse_old_dates(columns, batch)
            self._database.insert(self._target.staged, table_of(batch, columns, names))

    def checksum(self, columns: Sequence[Column]) -> Checksum:
        """Return the checksum of the staged table."""
        texts = parts(
            columns,
            lambda _, column: f"ifNull(concat({_text(column)}, ';'), '{NULL}')",
            lambda _, column: (
                f"ifNull(concat(toString(length({quoted(column.name)})), ':', {quoted(column.name)}), '{NULL}')"
            ),
        )
        digest = f"reinterpretAsUInt64(reverse(substring(MD5(concat('', {', '.join(texts)})), 1, 8)))"
        row = f"toUInt128(bitShiftRight({digest}, {64 - 4 * DIGITS}))"
        [(rows, total)] = self._database.rows(
            f"select count(), toString(sum({row})) from {self._database.name(self._target.staged)}"  # noqa: S608
        )
        return Checksum(int(rows), int(total))

    def publish(self, columns: Sequence[Column], expected: Checksum) -> None:  # noqa: ARG002
        """Swap the names of the two tables, and drop the old one. See `base.Destination`."""
        table, staged = self._target.table, self._target.staged
        if not self._exists:
            self._database.run(f"rename table {self._database.name(staged)} to {self._database.name(table)}")
            return
        self._database.exchange(table, staged)
        # The new rows are published. If dropping the old ones fails, the next export does it.
        with suppress(ExportError):
            self._database.drop(staged)

    def discard(self) -> None:
        """Drop the staged table if it exists."""
        self._database.drop(self._target.staged)


#: Expressions of a value's text for the checksum, by kind.
_TEXTS = {
    Kind.INTEGER: "toString({})",
    Kind.DATE: "toString(toInt32({}))",
    Kind.TIMESTAMP: "toString(toUnixTimestamp64Micro({}))",
    Kind.INSTANT: "toString(toUnixTimestamp64Micro({}))",
    Kind.BINARY: "lower(hex({}))",
    # A comparison with null has no branch of its own in `if`.
    Kind.BOOLEAN: "multiIf(isNull({0}), null, {0}, 't', 'f')",
    Kind.DOUBLE: f"toString(if(isNaN({{0}}), toInt64({NAN_BITS}), reinterpretAsInt64({{0}})))",
}


def _text(column: Column) -> str:
    name = quoted(column.name)
    if column.kind is Kind.DECIMAL:
        return f"toDecimalString({name}, {column.scale})"
    return _TEXTS[column.kind].format(name)
