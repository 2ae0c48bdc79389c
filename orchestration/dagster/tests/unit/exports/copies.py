"""What the tests of exports share: a table of the lakehouse in DuckDB, and copies of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import psycopg2
from lakehouse_analytics.arrivals.connections import Connection, connection
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import TableReader
from lakehouse_analytics.engines.duckdb.resource import DuckDBResource
from lakehouse_analytics.exports.base import Destination, Target
from lakehouse_analytics.exports.clickhouse_client import connect
from lakehouse_analytics.exports.registry import SCHEMES, destination
from lakehouse_analytics.exports.run import Published, export
from postgres_server import PostgresServer

#: A column of every type, with values at its borders.
EVERY_TYPE = r"""
    select * from (values
        (1, true, (-128)::tinyint, 65535::usmallint, 18446744073709551615::ubigint, 9223372036854775807::bigint,
         (-99999999999999999999999999999999999.999)::decimal(38, 3), 0.05::decimal(4, 2), 1e308::double, 1.5::float,
         date '1900-01-01', timestamp '2299-12-31 23:59:59.999999', timestamptz '1969-12-31 23:59:59.000001+02',
         E'a\tb\\N\nc\r"ü😀;', ''::varchar, '\x00\xFF\x5C'::blob, [1, null, 3], {'a': 'x;"', 'b': [1.50]},
         map {'k': 2}, '{"a": 1}'::json, 'b'::enum('a', 'b'), time '01:02:03.000004', interval '1 day 2 seconds',
         uuid '00000000-0000-0000-0000-0000000000ff', 170141183460469231731687303715::hugeint),
        (2, false, 127, 0, 0, -9223372036854775808, 0, -99.99, 'nan', '-inf', date '2299-12-31',
         timestamp '1900-01-01', timestamptz '1970-01-01', 'N;', 'N', ''::blob, [], {'a': null, 'b': null}, map {},
         'null'::json, 'a', time '00:00', interval '0 days', uuid 'ffffffff-ffff-ffff-ffff-ffffffffffff', -1),
        (3, null, null, null, null, null, null, null, '-0.0', null, null, null, null, null, null, null, null, null,
         null, null, null, null, null, null, null)
    ) as t (id, b, i8, u16, u64, i64, big, small, d, f, day, ts, tz, txt, empty, bin, list, struct, map, js, enum, t,
            iv, u, h)
"""


class Lake:
    """A lakehouse in a DuckDB file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sql("create schema gold")

    def sql(self, statement: str) -> None:
        with duckdb.connect(str(self.path)) as session:
            session.execute("set TimeZone = 'UTC'")
            session.execute(statement)

    @contextmanager
    def reader(self, table: str = "gold.t") -> Iterator[TableReader]:
        with DuckDBResource(path=str(self.path)).read_table(Relation("lake", "gold", "t"), table) as reader:
            yield reader

    def export(
        self,
        to: Connection,
        table: str = "reporting.t",
        key: Sequence[str] = (),
        *,
        origin: str = "gold/t",
        run_id: str | None = None,
        wrap: Callable[[Destination], Destination] = lambda made: made,
    ) -> Published:
        schema, dot, name = table.rpartition(".")
        target = Target(schema if dot else None, name, key, origin, run_id or uuid.uuid4().hex)
        with self.reader() as reader, wrap(destination(to, target)) as made:
            return export(reader, made, key, lambda line: None)


def connection_to(url: str) -> Connection:
    return connection("there", tuple(SCHEMES), {"LAKEHOUSE_CONNECTION_THERE": url})


class Chdb:
    """ClickHouse in this process."""

    def __init__(self, folder: Path) -> None:
        self.connection = connection_to(f"chdb://{folder}")

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        client = connect(self.connection)
        try:
            return [tuple(row) for row in client.query(sql).result_rows]
        finally:
            client.close()

    def run(self, sql: str) -> None:
        client = connect(self.connection)
        try:
            client.command(sql)
        finally:
            client.close()

    def tables(self) -> set[str]:
        return {str(name) for (name,) in self.rows("select name from system.tables where database = 'reporting'")}


class PostgresCopies:
    """A database of a PostgreSQL server."""

    def __init__(self, server: PostgresServer) -> None:
        self.server, self.database = server, server.new_database()
        self.connection = connection_to(server.url(self.database))

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        return self.server.ask(sql, database=self.database)

    def run(self, sql: str) -> None:
        self.rows(sql)

    def tables(self) -> set[str]:
        found = self.rows(
            "select relname from pg_class where relkind = 'r' and relnamespace::regnamespace::text = 'reporting'"
        )
        return {str(name) for (name,) in found}

    def session(self) -> psycopg2.extensions.connection:
        return psycopg2.connect(self.server.url(self.database))
