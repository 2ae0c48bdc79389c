"""The columns by which rows are matched: those of `--key`, or what the dbt project says identifies a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakehouse_analytics.common.text import brief, suggestion
from lakehouse_analytics.contract.arrivals import TableArrival
from lakehouse_analytics.dbt.graph import Source, Table
from lakehouse_analytics.diff.errors import DiffError

#: The column that dbt adds to a snapshot, and that identifies its rows.
_SNAPSHOT_KEY = "dbt_scd_id"


@dataclass(frozen=True)
class Key:
    """Columns that identify a row.

    Attributes:
        columns: Their names; empty if rows are not matched but counted.
        origin: Where the key comes from, as a part of a sentence.
    """

    columns: tuple[str, ...]
    origin: str


def candidates(table: Table | Source, manifest: Mapping[str, Any]) -> Iterator[Key]:
    """Yield the keys of a table that the dbt project declares, the most reliable first.

    Args:
        table: The table.
        manifest: dbt's `manifest.json`.
    """
    if isinstance(table, Source):
        if isinstance(table.contract.arrives, TableArrival):
            yield from _key(table.contract.arrives.primary_key, "meta.lakehouse.arrives.primary_key")
    elif table.node.resource_type == "snapshot":
        yield Key((_SNAPSHOT_KEY,), "the dbt snapshot")
    else:
        yield from _key(table.node.config.unique_key, "the config unique_key")
    entry = (manifest.get("nodes") or {}).get(table.unique_id) or {}
    yield from _primary_keys(entry)
    yield from _tests(table.unique_id, manifest)


def choose_key(wanted: Sequence[str], declared: Iterable[Key], common: Mapping[str, str]) -> Key:
    """Return the key of a comparison.

    Args:
        wanted: The columns of `--key`.
        declared: The keys that the dbt project declares.
        common: The columns that both sides have: their names by the name in lower case, or by the exact name on an
            engine that distinguishes them.

    Raises:
        DiffError: A side does not have a column of `--key`.
    """

    def spelled(name: str) -> str | None:
        return common.get(name) or common.get(name.lower())

    for name in wanted:
        if spelled(name) is None:
            hint = suggestion(name, common.values(), quoted=str, others="Columns of both sides")
            raise DiffError(f"--key {brief(name)}: not a column of both sides; {hint}")
    if wanted:
        return Key(tuple(dict.fromkeys(str(spelled(name)) for name in wanted)), "--key")
    for key in declared:
        names = tuple(spelled(name) for name in key.columns)
        if None not in names:
            return Key(tuple(dict.fromkeys(str(name) for name in names)), key.origin)
    return Key((), "")


def _key(value: Any, origin: str) -> Iterator[Key]:
    columns = [value] if isinstance(value, str) else value
    if isinstance(columns, list | tuple) and columns and all(isinstance(column, str) for column in columns):
        yield Key(tuple(column.strip('"') for column in columns), origin)


def _primary_keys(entry: Mapping[str, Any]) -> Iterator[Key]:
    """Yield the constraints of a dbt contract, of the model and of its columns."""
    for constraint in entry.get("constraints") or ():
        if constraint.get("type") == "primary_key":
            yield from _key(constraint.get("columns"), "the constraint primary_key")
    columns = [
        column["name"]
        for column in (entry.get("columns") or {}).values()
        if any(constraint.get("type") == "primary_key" for constraint in column.get("constraints") or ())
    ]
    yield from _key(columns, "the constraint primary_key")


def _tests(unique_id: str, manifest: Mapping[str, Any]) -> Iterator[Key]:
    """Yield the columns of `unique` tests, those that are never null first, then the combinations of columns."""
    unique: list[str] = []
    not_null: set[str] = set()
    combinations: list[Any] = []
    for node in (manifest.get("nodes") or {}).values():
        test = node.get("test_metadata") or {}
        # A test of some rows says nothing about the others.
        if node.get("attached_node") != unique_id or not test or (node.get("config") or {}).get("where"):
            continue
        arguments = test.get("kwargs") or {}
        column = node.get("column_name") or arguments.get("column_name")
        if test.get("name") == "unique" and isinstance(column, str):
            unique.append(column.strip('"'))
        elif test.get("name") == "not_null" and isinstance(column, str):
            not_null.add(column.strip('"'))
        elif test.get("name") == "unique_combination_of_columns":
            combinations.append(arguments.get("combination_of_columns"))
    for column in sorted(unique, key=lambda name: (name not in not_null, unique.index(name))):
        yield Key((column,), "dbt's test unique")
    for columns in combinations:
        yield from _key(columns, "dbt's test unique_combination_of_columns")
