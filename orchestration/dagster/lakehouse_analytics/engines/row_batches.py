"""Arrow batches of rows that a client returns as Python tuples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.engines.base import BATCH_ROWS

if TYPE_CHECKING:
    import pyarrow as pa


def batches_of(schema: pa.Schema, fetch: Callable[[int], Sequence[Sequence[Any]]]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a cursor as batches.

    Args:
        schema: The columns. The values of a row must be convertible to their types.
        fetch: Returns the next rows, at most the given number; none at the end.
    """
    import pyarrow as pa

    while rows := fetch(BATCH_ROWS):
        columns = zip(*rows, strict=True)
        arrays = [pa.array(values, field.type) for field, values in zip(schema, columns, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
