"""The same raw rows through every engine: the tables that they build are equal, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from .daemon import Lake, full_refresh, new_lake
from .databases import Row

pytestmark = pytest.mark.trino

#: Each against DuckDB.
ENGINES = ("trino", "postgres")
#: A hash of the row as text, and engines write times as text in their own ways.
NOT_COMPARED = {"silver/dim_customer_history": {"dbt_scd_id"}}


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[Row]]]:
    """Every table of every layer, by engine: its column names, then its rows."""
    return {engine: _built(engine, tmp_path_factory.mktemp(engine)) for engine in ("duckdb", *ENGINES)}


def _built(engine: str, root: Path) -> dict[str, list[Row]]:
    lake = new_lake(root, engine)
    # Of a season: 200 orders over two decades leave few for a week.
    lake.command(*full_refresh(days=150))
    return _comparable(lake)


def _comparable(lake: Lake) -> dict[str, list[Row]]:
    found = {}
    for table, (heading, *rows) in lake.contents().items():
        names = [column.split()[0] for column in heading]
        kept = [i for i, name in enumerate(names) if name not in NOT_COMPARED.get(table, ())]
        found[table] = [tuple(names[i] for i in kept), *(tuple(row[i] for i in kept) for row in rows)]
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_builds_the_same_tables(contents: dict[str, dict[str, list[Row]]], engine: str) -> None:
    assert contents[engine].keys() == contents["duckdb"].keys()
    assert len(contents[engine]) == 13
    assert [table for table, rows in contents["duckdb"].items() if len(rows) < 2] == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layer", ["bronze", "silver", "gold", "metrics"])
def test_every_row_is_equal(contents: dict[str, dict[str, list[Row]]], layer: str, engine: str) -> None:
    tables = [table for table in contents["duckdb"] if table.startswith(f"{layer}/")]
    assert tables
    for table in tables:
        assert contents[engine][table] == contents["duckdb"][table], table
