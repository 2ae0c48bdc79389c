"""Tables of PostgreSQL: types, values that the lakehouse cannot store, and relations other than tables."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from postgres_server import PostgresServer
from source_databases import SourceDatabase, Sync

UUID = uuid.UUID("0195f3a4-7f7a-7c00-8000-000000000001")
#: Type, SQL of the value, DuckDB's type, the value in Python.
TYPES: list[tuple[str, str, str, object]] = [
    ("boolean", "true", "BOOLEAN", True),
    ("smallint", "-32768", "SMALLINT", -32768),
    ("integer", "2147483647", "INTEGER", 2147483647),
    ("bigint", "-9223372036854775808", "BIGINT", -9223372036854775808),
    ("real", "0.1", "FLOAT", 0.10000000149011612),
    ("double precision", "'-Infinity'", "DOUBLE", float("-inf")),
    ("numeric(12,2)", "-1234567890.10", "DECIMAL(12,2)", Decimal("-1234567890.10")),
    ("numeric(38,10)", "0.0000000001", "DECIMAL(38,10)", Decimal("1E-10")),
    ("numeric(5)", "12345", "DECIMAL(5,0)", Decimal(12345)),
    ("numeric", "1e40 + 0.000000000000000000000000000000000000001", "VARCHAR", "1" + "0" * 40 + "." + "0" * 38 + "1"),
    ("numeric", "'NaN'", "VARCHAR", "NaN"),
    ("numeric(50,20)", "1.5", "VARCHAR", "1.50000000000000000000"),
    ("numeric(3,-2)", "12345", "VARCHAR", "12300"),
    ("numeric(2,4)", "0.0012", "VARCHAR", "0.0012"),
    ("money", "12.34", "VARCHAR", "12.34"),
    ("text", "'Zoë 🦆 \"q\" '' \\'", "VARCHAR", 'Zoë 🦆 "q" \' \\'),
    ("text", "''", "VARCHAR", ""),
    ("varchar(3)", "'abc'", "VARCHAR", "abc"),
    ("char(3)", "'a'", "VARCHAR", "a  "),
    ("name", "'n'", "VARCHAR", "n"),
    ('"char"', "'c'", "VARCHAR", "c"),
    ("bytea", "'\\x00ff27'", "BLOB", b"\x00\xff'"),
    ("date", "'9999-12-31'", "DATE", date(9999, 12, 31)),
    ("timestamp", "'2026-01-31 23:59:59.123456'", "TIMESTAMP", datetime(2026, 1, 31, 23, 59, 59, 123456)),
    ("timestamp(0)", "'1969-12-31 23:59:59'", "TIMESTAMP", datetime(1969, 12, 31, 23, 59, 59)),
    (
        "timestamptz",
        "'2026-01-31 23:59:59.123456+05:30'",
        "TIMESTAMP WITH TIME ZONE",
        datetime(2026, 1, 31, 18, 29, 59, 123456, UTC),
    ),
    ("time", "'23:59:59.999999'", "TIME", time(23, 59, 59, 999999)),
    ("timetz", "'23:59:59+02'", "VARCHAR", "23:59:59+02"),
    ("interval", "'1 year 2 mons 3 days 04:05:06.7'", "VARCHAR", "1 year 2 mons 3 days 04:05:06.7"),
    ("uuid", f"'{UUID}'", "VARCHAR", str(UUID)),
    ("json", '\'{"b": 1,  "a": [null]}\'', "VARCHAR", '{"b": 1,  "a": [null]}'),
    ("jsonb", '\'{"b": 1e400, "a": [null]}\'', "VARCHAR", '{"a": [null], "b": 1' + "0" * 400 + "}"),
    ("integer[]", "'{{1,2},{3,null}}'", "VARCHAR", "[[1,2],[3,null]]"),
    ("text[]", "array['a,b', null, 'NULL', '\"']", "VARCHAR", '["a,b",null,"NULL","\\""]'),
    ("numeric(4,1)[]", "array[1.5]", "VARCHAR", "[1.5]"),
    ("mood", "'sad'", "VARCHAR", "sad"),
    ("mood[]", "array['sad']::mood[]", "VARCHAR", '["sad"]'),
    ("price", "10.5", "DECIMAL(10,2)", Decimal("10.50")),
    ("positive_price", "10.5", "DECIMAL(10,2)", Decimal("10.50")),
    ("email", "'a@b'", "VARCHAR", "a@b"),
    ("day", "'2026-01-31'", "DATE", date(2026, 1, 31)),
    ("place", "row('x', 1.5)::place", "VARCHAR", '{"street":"x","number":1.5}'),
    ("int4range", "'[1,5)'", "VARCHAR", "[1,5)"),
    ("tstzrange", "'[2026-01-01 00:00+01,)'", "VARCHAR", '["2025-12-31 23:00:00+00",)'),
    ("int4multirange", "'{[1,2),[5,6)}'", "VARCHAR", "{[1,2),[5,6)}"),
    ("inet", "'10.0.0.1/8'", "VARCHAR", "10.0.0.1/8"),
    ("macaddr", "'08:00:2b:01:02:03'", "VARCHAR", "08:00:2b:01:02:03"),
    ("bit(3)", "b'101'", "VARCHAR", "101"),
    ("xml", "null", "VARCHAR", None),  # the server may be built without libxml
    ("point", "'(1,2)'", "VARCHAR", "(1,2)"),
    ("tsvector", "'a b'", "VARCHAR", "'a' 'b'"),
    ("oid", "4294967295", "BIGINT", 4294967295),
    ("regtype", "'int4'", "VARCHAR", "integer"),
]
#: Type, SQL of a value that no type of the lakehouse has, DuckDB's type.
LOST = [
    ("date", "'infinity'", "DATE"),
    ("timestamp", "'-infinity'", "TIMESTAMP"),
    ("timestamp", "'294276-01-01'", "TIMESTAMP"),
    ("timestamptz", "'infinity'", "TIMESTAMP WITH TIME ZONE"),
    ("time", "'24:00'", "TIME"),
    ("numeric(12,2)", "'NaN'", "DECIMAL(12,2)"),
]


@pytest.fixture
def source(postgres: PostgresServer) -> SourceDatabase:
    """An empty database."""
    return SourceDatabase.on(postgres)


def test_every_type_and_null(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create type mood as enum ('sad', 'ok')")
    source.ask("create type place as (street text, number numeric(4,1))")
    source.ask("create domain price as numeric(10,2)")
    source.ask("create domain positive_price as price check (value > 0)")
    source.ask("create domain email as text")
    source.ask("create domain day as date")
    source.ask("set timezone = 'Asia/Kolkata'")
    columns = [f"c{place}" for place in range(len(TYPES))]
    declared = ", ".join(f"{column} {kind}" for column, (kind, *_) in zip(columns, TYPES, strict=True))
    source.ask(f"create table t (id int, {declared})")
    source.ask(f"insert into t values (1, {', '.join(value for _, value, *_ in TYPES)})")
    source.ask("insert into t values (2)")
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
    columns = [f"c{place}" for place in range(len(LOST))]
    declared = ", ".join(f"{column} {kind}" for column, (kind, *_) in zip(columns, LOST, strict=True))
    source.ask(f"create table t (id int, {declared})")
    source.ask(f"insert into t values (1, {', '.join(value for _, value, _ in LOST)})")
    source.ask("insert into t values (2)")
    report = sync()
    assert report.nullified == dict.fromkeys(columns, 1)
    assert report.warnings[0] == (
        "1 values of c0 (date) became NULL, because DATE does not have them, such as infinity, zero dates or NaN"
    )
    assert [sync.types[column] for column in columns] == [kind for *_, kind in LOST]
    assert [set(row[1:]) for row in sync.rows(order="id")] == [{None}, {None}]


def test_the_limits_of_dates_and_times(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table t (d date, ts timestamp, tz timestamptz)")
    source.ask("insert into t values ('4713-01-01 BC', '4713-01-01 BC', '4713-01-01 00:00+00 BC')")
    source.ask("insert into t values ('5874897-12-30', '294246-12-30', '294246-12-30 00:00+00')")
    assert sync().nullified == {}
    assert sync.rows("d::varchar, ts::varchar, timezone('UTC', tz)::varchar") == [
        ("4713-01-01 (BC)", "4713-01-01 (BC) 00:00:00", "4713-01-01 (BC) 00:00:00"),
        ("5874897-12-30", "294246-12-30 00:00:00", "294246-12-30 00:00:00"),
    ]


@pytest.mark.parametrize(
    "relation",
    [
        "create view t as select id from base",
        "create materialized view t as select id from base",
        "create table t (id int) partition by list (id); create table p partition of t for values in (1)"
        "; insert into t select id from base",
        "create table t (id int); create table child () inherits (t); insert into child select id from base",
    ],
)
def test_views_and_partitions(sync: Sync, source: SourceDatabase, relation: str) -> None:
    source.ask("create table base (id int); insert into base values (1)")
    source.ask(relation)
    assert sync().rows == 1


def test_names(sync: Sync, source: SourceDatabase, tmp_path: Path) -> None:
    source.ask('create schema "My Shop"')
    source.ask('create table "My Shop"."Or""ders" ("Order Id" int, "select" text, "naïve" text)')
    source.ask("""insert into "My Shop"."Or""ders" values (1, 'a', 'b')""")
    report = sync(table='"My Shop"."Or""ders"')
    assert (report.table, report.rows) == ('My Shop.Or"ders', 1)
    assert [*sync.types] == ["Order Id", "select", "naïve", "_lakehouse_synced_at"]
    source.ask('create table "My Shop".plain (id int)')
    assert Sync(source, tmp_path, file="2.duckdb")(table="My Shop.plain").rows == 0


def test_errors_name_the_table_and_no_password(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table customers (id int)")
    with pytest.raises(ArrivalError, match=r"has no table custmers, or it is not visible; did you mean customers\?"):
        sync(table="custmers")
    with pytest.raises(ArrivalError, match=r"did you mean public\.customers\?"):
        sync(table="public.custmers")
    source.ask("create table t (id int)")
    role = f"r{source.name}"
    source.ask(f"create role {role} login password 'Tr0ub4dor&3'")
    assert isinstance(source.server, PostgresServer)
    url = f"postgresql://{role}:Tr0ub4dor%263@127.0.0.1:{source.server.port}/{source.name}"
    limited = Sync(Limited(source.server, source.name, url), sync.folder)
    with pytest.raises(ArrivalError, match=r"permission denied for table t") as error:
        limited()
    assert "Tr0ub4dor" not in str(error.value)
    assert f"{role}:****@" in str(error.value)
    unreachable = Sync(Limited(source.server, source.name, "postgresql://u:Tr0ub4dor@127.0.0.1:1/x"), sync.folder)
    with pytest.raises(ArrivalError, match=r"^postgresql://u:\*\*\*\*@127.0.0.1:1/x: IO: Failed to connect") as error:
        unreachable()
    assert "Tr0ub4dor" not in str(error.value)


class Limited(SourceDatabase):
    """A database at another address."""

    def __init__(self, server: PostgresServer, name: str, address: str) -> None:
        super().__init__(server, name)
        self.address = address

    @property
    def url(self) -> str:
        """Its address."""
        return self.address


def test_an_error_in_the_middle_leaves_the_raw_table_as_it_was(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table base (id int); insert into base select generate_series(1, 500000)")
    source.ask("create view t as select id, 1 / (400000 - least(id, 500000)) as x from base where id < 10")
    assert sync().rows == 9
    source.ask("create or replace view t as select id, 1 / (400000 - least(id, 500000)) as x from base")
    with pytest.raises(ArrivalError, match="division by zero"):
        sync()
    assert len(sync.rows()) == 9
    assert not [*sync.folder.glob("staging*")]


def test_what_functions_have_changed_in_a_session_is_reset(sync: Sync, source: SourceDatabase) -> None:
    source.ask(
        "create view t as select pg_backend_pid() as session, pg_advisory_lock(1)::text as locked, "
        "set_config('work_mem', '64kB', false) as changed"
    )
    source.ask("create view u as select pg_backend_pid() as session, current_setting('work_mem') as found")
    sync(table="t")
    [(first, *_)] = sync.rows()
    assert source.ask("select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]
    second = Sync(source, sync.folder, file="2.duckdb")
    second(table="u")
    assert second.rows() == [(first, source.ask("show work_mem")[0][0])]
