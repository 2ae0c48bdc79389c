"""Types of columns in ClickHouse, and the rows that it stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lakehouse_analytics.exports.base import ExportError
from lakehouse_analytics.exports.columns import Column, Kind

if TYPE_CHECKING:
    import pyarrow as pa

#: ClickHouse has no dates outside these years, and no times either.
_YEARS = (1900, 2299)


def type_of(column: Column) -> str:
    """Return the type of a column. Those of the key cannot be null."""
    match column.kind:
        case Kind.BOOLEAN:
            name = "Bool"
        case Kind.INTEGER:
            name = f"{'' if column.signed else 'U'}Int{column.bits}"
        case Kind.DECIMAL:
            name = f"Decimal({column.precision}, {column.scale})"
        case Kind.DOUBLE:
            name = "Float64"
        case Kind.DATE:
            name = "Date32"
        case Kind.TIMESTAMP | Kind.INSTANT:
            name = "DateTime64(6, 'UTC')"
        case Kind.TEXT | Kind.JSON | Kind.BINARY:
            name = "String"
    return name if column.in_key else f"Nullable({name})"


def table_of(batch: pa.RecordBatch, columns: Sequence[Column], names: Sequence[str]) -> pa.Table:
    """Return the rows with the names of the table, and times in UTC."""
    import pyarrow as pa

    arrays = []
    for column, values in zip(columns, batch.columns, strict=True):
        utc = column.kind in (Kind.TIMESTAMP, Kind.INSTANT)
        arrays.append(values.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")) if utc else values)
    return pa.Table.from_arrays(arrays, names=[*names])


def refuse_old_dates(columns: Sequence[Column], batch: pa.RecordBatch) -> None:
    """Refuse dates and times that ClickHouse would change to the nearest that it has.

    Raises:
        ExportError: There is one.
    """
    import pyarrow.compute as pc

    first, last = _YEARS
    for column, values in zip(columns, batch.columns, strict=True):
        if column.kind not in (Kind.DATE, Kind.TIMESTAMP, Kind.INSTANT):
            continue
        years = pc.min_max(pc.year(values)).as_py()
        for year in years.values():
            if year is not None and not first <= year <= last:
                raise ExportError(
                    f"Column {column.name} has a date in the year {year}. ClickHouse has only those from {first} to "
                    f"{last}: set it to null in the model, or export the column as text."
                )
