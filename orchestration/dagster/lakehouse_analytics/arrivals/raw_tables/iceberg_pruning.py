"""Finds the data files of an Iceberg table that may contain rows to remove, without reading them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.manifest import DataFile
    from pyiceberg.schema import Schema
    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.types import NestedField

#: SQL that converts a column to the values by which Iceberg stores the bounds of a type.
_BOUNDS = {
    "IntegerType": "{}",
    "LongType": "{}",
    "StringType": "{}",
    "DecimalType": "{}",
    "DateType": "({} - DATE '1970-01-01')",
    "TimestampType": "epoch_us({})",
    "TimestamptzType": "epoch_us({})",
}


def candidates(
    db: duckdb.DuckDBPyConnection, table: Table, *, keys: str | None, key: str | None, where: str | None
) -> list[FileScanTask]:
    """Return the files that may contain a row with one of the keys, or one that meets the condition.

    Args:
        db: A connection that has the relation `keys`.
        table: The table.
        keys: The quoted relation with the keys; None if no rows are removed by their key.
        key: The first column of the key; None if it is a new one, so all rows have null in it.
        where: The condition; None if there is none.
    """
    tasks = list(table.scan().plan_files())
    schema = table.schema()
    by_condition = _planned(table, where) if where else set()
    field = schema.find_field(key, case_sensitive=False) if keys and key else None
    return [
        task
        for task in tasks
        if task.file.file_path in by_condition
        or (keys and (field is None or _may_have_key(db, task.file, keys, field)))
    ]


def _may_have_key(db: duckdb.DuckDBPyConnection, file: DataFile, keys: str, field: NestedField) -> bool:
    from lakehouse_analytics.common.sql import identifier

    column = identifier(field.name)
    bounds = _bounds(file, field)
    if bounds is None:
        return True
    value = _BOUNDS[type(field.field_type).__name__].format(column)
    nulls = (file.null_value_counts or {}).get(field.field_id)
    missing = "" if nulls == 0 else f" OR {column} IS NULL"
    query = f"SELECT 1 FROM {keys} WHERE {value} BETWEEN ? AND ?{missing} LIMIT 1"  # noqa: S608  # names are quoted
    return bool(db.execute(query, list(bounds)).fetchall())


def _bounds(file: DataFile, field: NestedField) -> tuple[Any, Any] | None:
    """Return the lowest and highest value of a column in a file; None if they are not known."""
    from pyiceberg.conversions import from_bytes
    from pyiceberg.types import PrimitiveType

    lower = (file.lower_bounds or {}).get(field.field_id)
    upper = (file.upper_bounds or {}).get(field.field_id)
    kind = field.field_type
    if lower is None or upper is None or not isinstance(kind, PrimitiveType) or type(kind).__name__ not in _BOUNDS:
        return None
    try:
        return from_bytes(kind, lower), from_bytes(kind, upper)
    except Exception:  # bounds of another type, from before the type was changed
        return None


def _planned(table: Table, where: str) -> set[str]:
    """Return the paths of the files that may contain a row that meets a condition."""
    from pyiceberg.expressions import AlwaysTrue, And

    terms: BooleanExpression = AlwaysTrue()
    for term in _equalities(where, table.schema()):
        terms = And(terms, term)
    return {task.file.file_path for task in table.scan(row_filter=terms).plan_files()}


def _equalities(where: str, schema: Schema) -> Iterator[BooleanExpression]:
    """Yield the terms of a condition that compare a column with constants: `a = 'x' AND b IN (1, 2) AND …`."""
    import duckdb

    with duckdb.connect() as db:
        row = db.execute("SELECT json_serialize_sql(?)", [f"SELECT 1 FROM t WHERE {where}"]).fetchone()  # noqa: S608
    parsed = json.loads(row[0]) if row else {}
    if parsed.get("error") or len(parsed["statements"]) != 1:
        return
    condition = parsed["statements"][0]["node"]["where_clause"]
    terms = condition["children"] if condition["type"] == "CONJUNCTION_AND" else [condition]
    for term in terms:
        if (found := _equality(term, schema)) is not None:
            yield found


def _equality(term: dict[str, Any], schema: Schema) -> BooleanExpression | None:
    from pyiceberg.expressions import In

    if term["type"] == "COMPARE_EQUAL":
        column, values = term["left"], [term["right"]]
        if column["class"] == "CONSTANT":
            column, values = term["right"], [term["left"]]
    elif term["type"] == "COMPARE_IN":
        column, *values = term["children"]
    else:
        return None
    if column["class"] != "COLUMN_REF" or len(column["column_names"]) != 1:
        return None
    try:
        field = schema.find_field(column["column_names"][0], case_sensitive=False)
    except ValueError:
        return None
    constants = [_constant(value, type(field.field_type).__name__) for value in values]
    return None if None in constants else In(term=field.name, literals=constants)


def _constant(node: dict[str, Any], kind: str) -> str | int | None:
    """Return a constant of the type of its column; None for expressions, which are not evaluated here."""
    if node["class"] != "CONSTANT":
        return None
    literal = node.get("literal") or {}
    if literal.get("kind") == "STRING" and kind == "StringType":
        return str(literal["text"])
    if literal.get("kind") == "INTEGER" and kind in ("IntegerType", "LongType"):
        number = int(literal["text"])
        return number if number < 2**31 else None
    return None


def named_columns(table: Table, sql: str) -> list[str]:
    """Return the columns that an expression may use: those whose names it contains, or all if it has a `*`."""
    names = [column.name for column in table.schema().fields]
    text = sql.lower().replace("count(*)", "")
    if "*" in text or "columns" in text:
        return names
    return [name for name in names if name.lower().replace('"', '""') in text]
