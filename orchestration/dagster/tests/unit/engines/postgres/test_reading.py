"""Whole tables of a real PostgreSQL in Arrow batches."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal

import psycopg2
import pyarrow as pa
import pytest
from lakehouse_analytics.engines.base import BATCH_ROWS, DatabaseError
from lakehouse_analytics.engines.postgres.reading import read_table
from postgres_server import PostgresServer, postgres_server


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as found:
        yield found


def whole(server: PostgresServer, database: str) -> pa.Table:
    connection = psycopg2.connect(server.url(database))
    try:
        with read_table(connection, '"public"."t"') as reader:
            table = pa.Table.from_batches(reader.batches, reader.schema)
            assert table.num_rows == reader.rows
            return table
    finally:
        connection.close()


def test_types_are_kept(server: PostgresServer) -> None:
    database = server.new_database()
    server.ask(
        """create table t as select true as b, 1::smallint as i, 9223372036854775807 as big, 1.5::real as r,
        'NaN'::float8 as d, 12.30::numeric(10, 2) as n, 0.00000001::numeric as x_any, date '2026-01-31' as day,
        timestamp '2026-01-31 01:02:03.000004' as ts, timestamptz '2026-01-31 01:00:00+02' as tz, 'ä'::text as s,
        'c'::varchar(3) as v, '\\x00ff'::bytea as x, array[1, null] as list, '{"a": 1}'::jsonb as j,
        interval '1 day' as iv, null::integer as nothing;
        insert into t (x_any) values (123)""",
        database=database,
    )
    table = whole(server, database)
    assert table.slice(0, 1).to_pylist()[0] | {"d": 0} == {
        "b": True,
        "i": 1,
        "big": 2**63 - 1,
        "r": 1.5,
        "d": 0,
        "n": Decimal("12.30"),
        "x_any": Decimal("0.00000001"),
        "day": dt.date(2026, 1, 31),
        "ts": dt.datetime(2026, 1, 31, 1, 2, 3, 4),
        "tz": dt.datetime(2026, 1, 30, 23, tzinfo=dt.UTC),
        "s": "ä",
        "v": "c",
        "x": b"\x00\xff",
        "list": "[1,null]",
        "j": '{"a": 1}',
        "iv": "1 day",
        "nothing": None,
    }
    assert table.schema.field("n").type == pa.decimal128(10, 2)
    assert table.schema.field("x_any").type == pa.decimal128(38, 8)
    assert {name for name, value in table.slice(1).to_pylist()[0].items() if value is not None} == {"x_any"}


def test_batches_are_of_one_snapshot(server: PostgresServer) -> None:
    database = server.new_database()
    server.ask(f"create table t as select generate_series(1, {BATCH_ROWS + 1}) as n", database=database)
    connection = psycopg2.connect(server.url(database))
    with read_table(connection, "t") as reader:
        first = next(reader.batches)
        server.ask("delete from t", database=database)
        rest = list(reader.batches)
    connection.close()
    assert [batch.num_rows for batch in [first, *rest]] == [BATCH_ROWS, 1]
    assert reader.rows == BATCH_ROWS + 1


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("select 'NaN'::numeric as n", 'column "n" has NaN'),
        ("select 1e30::numeric as n union select 1e-30", 'column "n" has values of 61 digits'),
    ],
)
def test_numbers_that_a_decimal_cannot_have_are_refused(server: PostgresServer, table: str, reason: str) -> None:
    database = server.new_database()
    server.ask(f"create table t as {table}", database=database)
    with pytest.raises(DatabaseError, match=reason):
        whole(server, database)


def test_a_missing_table_is_named(server: PostgresServer) -> None:
    with pytest.raises(DatabaseError, match=r'"public"\."t" cannot be read: relation "public\.t" does not exist'):
        whole(server, server.new_database())
