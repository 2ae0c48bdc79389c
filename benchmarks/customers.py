"""The table that the benchmarks copy, in each database, and the checksum of its contents.

The checksum is the number of rows, and the sum of the first 60 bits of the MD5 of each row as a text, which all
databases write the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sides import CLICKHOUSE_MD5, UNIT_TESTS

if TYPE_CHECKING:
    from lakehouse_analytics.arrivals.connections import Connection

sys.path.insert(0, str(UNIT_TESTS))  # the servers of the tests

# ruff: noqa: PLC0415  # a driver is imported where its server is used


@dataclass(frozen=True)
class Source:
    """A database with the table `customers`.

    Attributes:
        title: The product.
        create: The statements that create the table, for `{rows}` rows.
        change: The statements that change one percent of the rows and delete as many, differently for each `{number}`
            from 1 to 9.
        checksum: The query for the checksum.
    """

    title: str
    create: Sequence[str]
    change: Sequence[str]
    checksum: str

    def server(self) -> AbstractContextManager[Any]:
        """Return a server of this benchmark's own."""
        if self.title == "PostgreSQL":
            from postgres_server import postgres_server

            return postgres_server()
        from mariadb_server import mariadb_server

        return mariadb_server()


_POSTGRES_TEXT = (
    "id::text || '|' || coalesce(region::text, '') || '|' || name || '|' || email || '|' || balance::text || '|' || "
    "(score * 4)::bigint::text || '|' || active::int::text || '|' || born::text || '|' || {time}::bigint::text || '|' "
    "|| payload::text"
)
POSTGRESQL = Source(
    title="PostgreSQL",
    create=[
        """create table customers (
          id bigint primary key, region int, name text, email varchar(80), balance numeric(12,2),
          score double precision, active boolean, born date, updated_at timestamptz, payload jsonb)""",
        """insert into customers
        select id, case when id % 10 > 0 then id % 1000 end, 'Zoë ' || id, 'c' || id || '@example.com',
          (id % 100000) / 7.0, id / 4.0, id % 2 = 0, date '1950-01-01' + (id % 20000)::int,
          timestamptz '2026-01-01' + id * interval '1 second', jsonb_build_object('id', id, 'tags', array['x', 'y'])
        from generate_series(1, {rows}) id""",
        "vacuum analyze customers",
    ],
    change=[
        "update customers set balance = -1, updated_at = '2026-06-0{number}' where id % 100 = 10 + {number}",
        "delete from customers where id % 100 = {number}",
    ],
    checksum="select count(*), sum(('x' || substr(md5("
    + _POSTGRES_TEXT.format(time="extract(epoch from updated_at)")
    + "), 1, 15))::bit(60)::bigint)::text from customers",
)
MARIADB = Source(
    title="MariaDB",
    create=[
        """create table customers (
          id bigint primary key, region int, name text, email varchar(80), balance decimal(12,2), score double,
          active boolean, born date, updated_at datetime(6), payload json) character set utf8mb4""",
        """insert into customers
        select seq, if(seq % 10 > 0, seq % 1000, null), concat('Zoë ', seq), concat('c', seq, '@example.com'),
          (seq % 100000) / 7.0, seq / 4.0, seq % 2 = 0, date '1950-01-01' + interval seq % 20000 day,
          timestamp('2026-01-01') + interval seq second, json_object('id', seq, 'tags', json_array('x', 'y'))
        from seq_1_to_{rows}""",
        "analyze table customers",
    ],
    change=POSTGRESQL.change,
    checksum="select count(*), cast(sum(cast(conv(substr(md5(concat_ws('|', id, coalesce(region, ''), name, email, "
    "balance, cast(score * 4 as signed), active, born, timestampdiff(second, '1970-01-01', updated_at), payload)), "
    "1, 15), 16, 10) as unsigned)) as char) from customers",
)
DUCKDB_CHECKSUM = (
    "select count(*), sum(('0x' || substr(md5("
    + _POSTGRES_TEXT.format(time="epoch(updated_at)")
    + "), 1, 15))::bigint)::varchar from {table}"
)
CLICKHOUSE_CHECKSUM = "select count(), toString(sum({row})) from {{table}}".format(
    row=CLICKHOUSE_MD5.format(
        text="concat(toString(id), '|', ifNull(toString(region), ''), '|', assumeNotNull(name), '|', "
        "assumeNotNull(email), '|', toDecimalString(assumeNotNull(balance), 2), '|', "
        "toString(toInt64(assumeNotNull(score) * 4)), '|', toString(toInt8(assumeNotNull(active))), '|', "
        "toString(assumeNotNull(born)), '|', toString(toUnixTimestamp(assumeNotNull(updated_at))), '|', "
        "assumeNotNull(payload))"
    )
)
#: The types of the columns in DuckDB, for files without types, and in ClickHouse.
DUCKDB_TYPES = {
    "id": "BIGINT",
    "region": "INTEGER",
    "name": "VARCHAR",
    "email": "VARCHAR",
    "balance": "DECIMAL(12,2)",
    "score": "DOUBLE",
    "active": "BOOLEAN",
    "born": "DATE",
    "updated_at": "TIMESTAMPTZ",
    "payload": "VARCHAR",
}
CLICKHOUSE_TABLE = (
    "create table {table} (id Int64, region Nullable(Int32), name Nullable(String), email Nullable(String), "
    "balance Nullable(Decimal(12, 2)), score Nullable(Float64), active Nullable(Bool), born Nullable(Date32), "
    "updated_at Nullable(DateTime64(6, 'UTC')), payload Nullable(String)) engine = MergeTree order by id"
)


def clickhouse(address: str) -> Connection:
    """Return the connection of an address, such as `chdb:///folder`."""
    from lakehouse_analytics.arrivals.connections import connection
    from lakehouse_analytics.arrivals.raw_tables.registry import CLICKHOUSE

    return connection("reports", CLICKHOUSE, {"LAKEHOUSE_CONNECTION_REPORTS": address})


def checksum_in_clickhouse(address: str, table: str) -> list[str]:
    """Return the checksum of a table in ClickHouse."""
    from lakehouse_analytics.exports.clickhouse_client import ClickHouseClient

    with ClickHouseClient(clickhouse(address), None) as client:
        [checksum] = client.rows(CLICKHOUSE_CHECKSUM.format(table=table))
    return [str(value) for value in checksum]
