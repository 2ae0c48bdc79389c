"""One export: stage, verify, publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse_analytics.common.names import counted
from lakehouse_analytics.engines.base import TableReader
from lakehouse_analytics.exports.base import Checksum, Destination, ExportError, NotEqualError
from lakehouse_analytics.exports.checksum import checksum_of
from lakehouse_analytics.exports.columns import Column, Converter, columns_of

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Published:
    """The result of an export.

    Attributes:
        checksum: The checksum of the rows, which both sides have computed.
        bytes: Size of the rows in Arrow's format.
        seconds: Duration.
        columns: The columns of the copy.
    """

    checksum: Checksum
    bytes: int
    seconds: float
    columns: Sequence[Column]


@dataclass
class _Measured:
    """Batches, and what has been measured of those that were read."""

    converter: Converter
    columns: Sequence[Column]
    source: Iterator[pa.RecordBatch]
    checksum: Checksum = field(default_factory=Checksum)
    bytes: int = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for table in self.converter.convert(self.source):
            self.checksum += checksum_of(self.converter.connection, self.columns, table)
            self.bytes += table.nbytes
            yield from table.combine_chunks().to_batches()


def export(reader: TableReader, destination: Destination, key: Sequence[str], log: Callable[[str], None]) -> Published:
    """Replace the rows of a copy by those of the lakehouse's table.

    Args:
        reader: The lakehouse's table.
        destination: The copy, connected.
        key: The columns of the key.
        log: Called with a line per step.

    Raises:
        ExportError: The export failed. Readers see the old rows, and the staged table is dropped if that is possible;
            otherwise the next export drops it.
    """
    began = time.monotonic()
    columns = columns_of(reader.schema, key)
    if left := destination.prepare(columns):
        log(f"Dropped {', '.join(left)}, which {counted(len(left), 'run')} that did not end has left.")
    try:
        with Converter(reader.schema, columns) as converter:
            measured = _Measured(converter, columns, reader.batches)
            destination.stage(columns, iter(measured))
        expected = measured.checksum
        log(f"Loaded {counted(expected.rows, 'row')} into the staged table.")
        _verify(reader.rows, expected, destination.checksum(columns))
        destination.publish(columns, expected)
    except BaseException:
        # Also when a person stops the run. The error of the export is the one to report.
        with suppress(ExportError):
            destination.discard()
        raise
    return Published(expected, measured.bytes, time.monotonic() - began, columns)


def _verify(rows: int, read: Checksum, stored: Checksum) -> None:
    if read.rows != rows:
        raise NotEqualError(
            f"{counted(read.rows, 'row')} were read from the lakehouse's table, which has {rows}: it was rebuilt in "
            "the meantime. Nothing was published.",
            transient=True,
        )
    if stored.rows != read.rows:
        raise NotEqualError(
            f"The staged table has {counted(stored.rows, 'row')}, but {read.rows} were sent. Nothing was published.",
            transient=True,
        )
    if stored != read:
        raise NotEqualError(
            "The values in the staged table differ from those of the lakehouse (the checksums are not equal). "
            "Nothing was published.",
            transient=True,
        )
