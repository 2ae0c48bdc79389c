"""Tables of MariaDB: types, values that the lakehouse cannot store, and options of the address."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from lakehouse_analytics.arrivals.connections import Connection, connection
from lakehouse_analytics.arrivals.databases.mysql import open_table
from lakehouse_analytics.arrivals.databases.sync import SCHEMES
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from mariadb_server import PASSWORD, MariaDBServer
from source_databases import SourceDatabase, Sync

#: Type, SQL of the value, DuckDB's type, the value in Python.
TYPES: list[tuple[str, str, str, object]] = [
    ("boolean", "2", "TINYINT", 2),
    ("tinyint(1)", "true", "TINYINT", 1),
    ("tinyint", "-128", "TINYINT", -128),
    ("tinyint unsigned", "255", "UTINYINT", 255),
    ("smallint", "-32768", "SMALLINT", -32768),
    ("smallint unsigned", "65535", "USMALLINT", 65535),
    ("mediumint", "-8388608", "INTEGER", -8388608),
    ("mediumint unsigned", "16777215", "UINTEGER", 16777215),
    ("int", "-2147483648", "INTEGER", -2147483648),
    ("int unsigned", "4294967295", "UINTEGER", 4294967295),
    ("int(6) zerofill", "42", "UINTEGER", 42),
    ("bigint", "-9223372036854775808", "BIGINT", -9223372036854775808),
    ("bigint unsigned", "18446744073709551615", "UBIGINT", 18446744073709551615),
    ("decimal(12,2)", "-1234567890.10", "DECIMAL(12,2)", Decimal("-1234567890.10")),
    ("decimal(10) unsigned", "1234567890", "DECIMAL(10,0)", Decimal(1234567890)),
    ("decimal(38,38)", "0.1", "DECIMAL(38,38)", Decimal("0.1")),
    ("decimal(65,30)", "-1.5", "VARCHAR", "-1." + "5" + "0" * 29),
    ("float", "16777215", "FLOAT", 16777215.0),
    ("float", "0.1", "FLOAT", 0.10000000149011612),
    ("double", "0.1", "DOUBLE", 0.1),
    ("double", "1.7976931348623157e308", "DOUBLE", 1.7976931348623157e308),
    ("bit(1)", "b'1'", "BOOLEAN", True),
    ("bit(10)", "b'1000000001'", "UBIGINT", 513),
    ("bit(64)", "18446744073709551615", "UBIGINT", 18446744073709551615),
    ("date", "'2026-01-31'", "DATE", date(2026, 1, 31)),
    ("datetime", "'2026-01-31 23:59:59'", "TIMESTAMP", datetime(2026, 1, 31, 23, 59, 59)),
    ("datetime(6)", "'2026-01-31 23:59:59.123456'", "TIMESTAMP", datetime(2026, 1, 31, 23, 59, 59, 123456)),
    ("datetime(3)", "'1000-01-01 00:00:00.001'", "TIMESTAMP", datetime(1000, 1, 1, 0, 0, 0, 1000)),
    # The session that inserts it is at +05:30.
    ("timestamp", "'2026-01-31 23:59:59'", "TIMESTAMP WITH TIME ZONE", datetime(2026, 1, 31, 18, 29, 59, tzinfo=UTC)),
    (
        "timestamp(6)",
        "'2026-06-30 00:00:00.000001'",
        "TIMESTAMP WITH TIME ZONE",
        datetime(2026, 6, 29, 18, 30, 0, 1, tzinfo=UTC),
    ),
    ("time", "'23:59:59'", "TIME", time(23, 59, 59)),
    ("time(6)", "'00:00:00.000001'", "TIME", time(0, 0, 0, 1)),
    ("year", "2026", "SMALLINT", 2026),
    ("char(3)", "'a'", "VARCHAR", "a"),
    ("varchar(20)", "'Zoë 🦆 \\\\ '''", "VARCHAR", "Zoë 🦆 \\ '"),
    ("varchar(20)", "''", "VARCHAR", ""),
    ("varchar(20) character set latin1", "'Zoë'", "VARCHAR", "Zoë"),
    ("varchar(20) character set ucs2", "'Zoë'", "VARCHAR", "Zoë"),
    ("longtext", "repeat('é', 100000)", "VARCHAR", "é" * 100000),
    ("enum('sad','ok')", "'ok'", "VARCHAR", "ok"),
    ("set('a','b','c')", "'c,a'", "VARCHAR", "a,c"),
    ("json", '\'{"b": 1, "é": [null]}\'', "VARCHAR", '{"b": 1, "é": [null]}'),
    ("binary(4)", "x'00ff27'", "BLOB", b"\x00\xff'\x00"),
    ("varbinary(4)", "x'00ff27'", "BLOB", b"\x00\xff'"),
    ("longblob", "repeat(x'00', 100000)", "BLOB", b"\x00" * 100000),
    ("varchar(4) character set binary", "x'ff'", "BLOB", b"\xff"),
    ("point", "point(1, 2.5)", "VARCHAR", "POINT(1 2.5)"),
    ("uuid", "'0195f3a4-7f7a-7c00-8000-000000000001'", "VARCHAR", "0195f3a4-7f7a-7c00-8000-000000000001"),
    ("inet6", "'2001:db8::ff00:42:8329'", "VARCHAR", "2001:db8::ff00:42:8329"),
]
#: Type, SQL of a value that no type of the lakehouse has, DuckDB's type.
LOST = [
    ("date", "'0000-00-00'", "DATE"),
    ("date", "'2026-00-15'", "DATE"),
    ("date", "'2026-01-00'", "DATE"),
    ("date", "'2026-02-31'", "DATE"),
    ("datetime", "'0000-00-00 00:00:00'", "TIMESTAMP"),
    ("datetime(6)", "'2026-02-31 01:02:03.000004'", "TIMESTAMP"),
    ("timestamp null", "'0000-00-00 00:00:00'", "TIMESTAMP WITH TIME ZONE"),
    ("time", "'-00:00:01'", "TIME"),
    ("time", "'24:00:00'", "TIME"),
    ("time(3)", "'838:59:59.999'", "TIME"),
]


@pytest.fixture
def source(mariadb: MariaDBServer) -> SourceDatabase:
    """An empty database."""
    return SourceDatabase.on(mariadb)


def create(source: SourceDatabase, types: list[Any]) -> list[str]:
    """Create `t` with a row of values, and a row without; return its columns."""
    columns = [f"c{place}" for place in range(len(types))]
    nullable = [kind if kind.endswith(" null") else f"{kind} null" for kind, *_ in types]
    declared = ", ".join(f"{column} {kind}" for column, kind in zip(columns, nullable, strict=True))
    source.ask(f"create table t (id int, {declared})")
    session = source.session()
    with session.cursor() as cursor:
        cursor.execute("set sql_mode = 'ALLOW_INVALID_DATES'")
        cursor.execute(f"insert into t values (1, {', '.join(value for _, value, *_ in types)})")
        cursor.execute("insert into t (id) values (2)")
    session.commit()
    session.close()
    return columns


def test_every_type_and_null(sync: Sync, source: SourceDatabase) -> None:
    columns = create(source, TYPES)
    report = sync()
    assert (report.rows_read, report.rows, report.nullified, report.warnings) == (2, 2, {}, ())
    assert [sync.types[column] for column in columns] == [kind for _, _, kind, _ in TYPES]
    filled, empty = sync.rows(order="id")
    assert list(filled[1:]) == [value for *_, value in TYPES]
    assert set(empty[1:]) == {None}
    in_iceberg = sync.in_iceberg()
    contract: dict[str, Any] = {
        "mode": "incremental",
        "primary_key": "id",
        "update_key": "id",
        "lag": "0m",
        "deletes": "reconcile",
    }
    for mode in ("full", "incremental"):
        assert in_iceberg(**contract).mode == mode
        assert in_iceberg.rows(order="id") == [filled, empty]


def test_values_that_no_type_has_are_null_and_counted(sync: Sync, source: SourceDatabase) -> None:
    columns = create(source, LOST)
    report = sync()
    assert report.nullified == dict.fromkeys(columns, 1)
    assert [sync.types[column] for column in columns] == [kind for *_, kind in LOST]
    assert [set(row[1:]) for row in sync.rows(order="id")] == [{None}, {None}]


def test_valid_dates_beside_invalid_ones(sync: Sync, source: SourceDatabase) -> None:
    create(source, [("datetime(6)", "'2026-02-31 01:02:03'", "")])
    source.ask("insert into t values (3, '2026-02-28 01:02:03.000004')")
    assert sync().nullified == {"c0": 1}
    assert sync.rows(order="id")[2] == (3, datetime(2026, 2, 28, 1, 2, 3, 4))


def test_rows_of_very_different_sizes(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table t (id int, content longblob)")
    source.ask("insert into t select seq, repeat(x'61', 10) from seq_1_to_5000")
    source.ask("insert into t select seq, repeat(x'62', 8000000) from seq_5001_to_5003")
    source.ask("insert into t select seq, null from seq_5004_to_30000")
    sync()
    assert sync.rows("count(*), count(distinct id), sum(octet_length(content))") == [(30000, 30000, 24_050_000)]


def test_names(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table `Or``ders` (`Order Id` int, `select` text, `naïve` text)")
    source.ask("insert into `Or``ders` values (1, 'a', 'b')")
    assert sync(table="Or`ders").table == f"{source.name}.Or`ders"
    assert [*sync.types] == ["Order Id", "select", "naïve", "_lakehouse_synced_at"]
    source.ask("create view v as select 1 as id")
    assert Sync(source, sync.folder, file="2.duckdb")(table=f"{source.name}.v").rows == 1


def test_a_table_without_transactions_is_reported(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table t (id int) engine=Aria")
    [warning] = sync().warnings
    assert warning.startswith(f"the engine of {source.name}.t is Aria, which has no snapshots")


def at(url: str) -> Connection:
    """A connection to an address."""
    return connection("shop", SCHEMES, {"LAKEHOUSE_CONNECTION_SHOP": url})


def problem(url: str, table: str = "t") -> str:
    """The error of opening a table."""
    with pytest.raises(ArrivalError) as error, open_table(at(url), table, timedelta(seconds=60)):
        pass
    assert "p@ss" not in str(error.value)
    return str(error.value)


def test_errors_name_the_table_and_no_password(source: SourceDatabase) -> None:
    source.ask("create table customers (id int)")
    assert "has no table custmers, or it is not visible; did you mean customers?" in problem(source.url, "custmers")
    assert f"did you mean {source.name}.customers?" in problem(source.url, f"{source.name}.custmers")
    wrong = source.url.replace("%64", "%65")
    assert PASSWORD not in problem(wrong)
    assert "Access denied for user" in problem(wrong)
    assert "Can't connect to MySQL server on '127.0.0.1'" in problem("mysql://u:p%40ss@127.0.0.1:1/x")


def test_options_of_the_address(source: SourceDatabase) -> None:
    source.ask("create table t (id int)")
    for option in ("sslmode=preferred", "ssl-mode=DISABLED", "connect_timeout=5", "ssl_disabled=true"):
        with open_table(at(f"{source.url}?{option}"), "t", timedelta(seconds=60)) as table:
            assert [*table.columns] == ["id"]
    # The server has no certificate.
    for mode in ("required", "verify-ca", "verify_identity"):
        assert "SSL" in problem(f"{source.url}?sslmode={mode}")
    assert "sslmode is require; did you mean 'required'?" in problem(f"{source.url}?sslmode=require")
    assert "has the option sslca, which is not known; did you mean 'ssl_ca'?" in problem(f"{source.url}?sslca=x")


def test_a_statement_has_a_maximum_duration(source: SourceDatabase) -> None:
    source.ask("create view t as select sleep(60) as id")
    with (
        pytest.raises(ArrivalError, match="max_statement_time exceeded"),
        open_table(at(source.url), "t", timedelta(seconds=1)) as table,
    ):
        table.exists("id > 0")
