"""Versions of tables in DuckDB."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.duckdb.versions import table_versions


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("attach ':memory:' as lake; use lake; create schema gold")
        connection.execute('create table gold."Odd ""name" as select 1 as t, [1, 2] as list, {a: 1.5} as struct')
        yield connection


TABLE = Relation("lake", "gold", 'Odd "name')


def version(connection: duckdb.DuckDBPyConnection, relation: Relation = TABLE) -> str | None:
    return table_versions(lambda sql: connection.execute(sql).fetchall(), [relation]).get(relation)


def test_the_order_of_rows_does_not_count_and_their_number_does(connection: duckdb.DuckDBPyConnection) -> None:
    one = version(connection)
    connection.execute('insert into gold."Odd ""name" values (2, [], null)')
    two = version(connection)
    connection.execute('create or replace table gold."Odd ""name" as from gold."Odd ""name" order by t desc')
    assert version(connection) == two != one
    connection.execute('insert into gold."Odd ""name" from gold."Odd ""name"')
    assert version(connection) != two


def test_names_and_types_of_columns_count(connection: duckdb.DuckDBPyConnection) -> None:
    seen = [version(connection)]
    connection.execute('alter table gold."Odd ""name" rename t to u')
    seen.append(version(connection))
    connection.execute('alter table gold."Odd ""name" alter u type bigint')
    seen.append(version(connection))
    assert len({*seen}) == 3


def test_a_view_has_the_version_of_its_definition(connection: duckdb.DuckDBPyConnection) -> None:
    view = Relation("lake", "gold", "v")
    assert version(connection, view) is None
    connection.execute('create view gold.v as select t from gold."Odd ""name"')
    before = version(connection, view)
    connection.execute('insert into gold."Odd ""name" values (2, [], null)')
    assert version(connection, view) == before
    connection.execute('create or replace view gold.v as select t + 1 as t from gold."Odd ""name"')
    assert version(connection, view) != before


def test_an_empty_table(connection: duckdb.DuckDBPyConnection) -> None:
    empty = Relation("LAKE", "GOLD", "EMPTY")
    connection.execute("create table gold.empty (id integer)")
    assert version(connection, empty)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("integer[]", "null", "[]"),
        ("struct(x integer)", "null", "{'x': null}"),
        ("map(integer, integer)", "null", "map {}"),
        ("interval", "interval 1 month", "interval 30 day"),
        ("integer[][]", "[null]", "[[]]"),
        ("double", "0.0", "cast('-0.0' as double)"),
    ],
)
def test_values_that_duckdb_hashes_alike(
    connection: duckdb.DuckDBPyConnection, kind: str, one: str, other: str
) -> None:
    relation = Relation("lake", "gold", "t")
    connection.execute(f"create table gold.t (x {kind})")
    connection.execute(f"insert into gold.t values ({one})")
    before = version(connection, relation)
    # DuckDB does not write a value that equals the one that is there.
    connection.execute(f"delete from gold.t; insert into gold.t values ({other})")
    assert version(connection, relation) != before
