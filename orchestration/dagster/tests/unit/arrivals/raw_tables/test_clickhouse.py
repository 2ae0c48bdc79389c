"""Raw tables in ClickHouse: types, keys, other programs, and what killed changes leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.arrivals.connections import connection
from lakehouse_analytics.arrivals.raw_tables.base import COUNT, ArrivalError, Change, Outcome
from lakehouse_analytics.arrivals.raw_tables.clickhouse import MARKER, ClickHouseTable
from lakehouse_analytics.arrivals.raw_tables.clickhouse_change import ClickHouseChange
from lakehouse_analytics.exports.base import ExportError
from lakehouse_analytics.exports.clickhouse_client import ClickHouseClient
from postgres_server import free_port
from raw_clickhouse import clickhouse_table

from .conftest import SCHEMA, TABLE, Storage

ORDERS = "SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS t(id, name)"
EVERY_TYPE = """
    SELECT n::BIGINT AS id, 18446744073709551615::UBIGINT AS "unsigned", n::UTINYINT AS tiny,
        [1, -0.01, NULL][n]::DECIMAL(38,8) AS price, [1e300, -0.5, NULL][n] AS x, 0.5::FLOAT AS f,
        [true, false, NULL][n] AS ok,
        ['ä"\U0001f600' || chr(10), '', NULL][n] AS t, ['{"a": 1}', '[]', NULL][n]::JSON AS js,
        ['\\x00\\xFF'::BLOB, ''::BLOB, NULL][n] AS bytes, [DATE '1900-01-01', '2024-02-29', NULL][n] AS day,
        [TIMESTAMP '1969-12-31 23:59:59.999999', '2024-02-29 10:00:00', NULL][n] AS naive,
        [TIMESTAMPTZ '1900-01-01 00:00:00.000001+00', '2024-02-29 12:00:00+02', NULL][n] AS zoned,
        [TIME '23:59:59.999999', '00:00:00', NULL][n] AS clock
    FROM (SELECT unnest([1, 2, 3]) AS n)
"""
STORED = {"f": "DOUBLE", "js": "VARCHAR", "clock": "VARCHAR"}


@pytest.fixture
def storage(new_storage: Callable[[str], Storage]) -> Storage:
    return new_storage("clickhouse")


def tables(storage: Storage) -> dict[str, str]:
    with ClickHouseClient(table_of(storage).connection, SCHEMA) as session:
        return session.comments()


def table_of(storage: Storage, *key: str, origin: str = "shop/orders") -> ClickHouseTable:
    found = clickhouse_table(storage.data / "clickhouse", SCHEMA, TABLE, *key)
    return ClickHouseTable(found.connection, SCHEMA, TABLE, origin, key)


def load(table: ClickHouseTable, path: Path, columns: Mapping[str, str], **options: Any) -> Outcome:
    return table.apply(Change(columns, [path], {}, **options), table.read())


def test_every_type_is_kept_or_stored_as_documented(storage: Storage) -> None:
    import duckdb

    storage.change(EVERY_TYPE)
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        kinds = {name: STORED.get(name, kind) for name, kind, *_ in db.execute(f"DESCRIBE {EVERY_TYPE}").fetchall()}
        values = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in kinds.items())
        expected = db.execute(f"SELECT {values} FROM ({EVERY_TYPE}) ORDER BY id").fetchall()
    assert dict(storage.table().read().columns) == kinds
    assert storage.content("id") == expected
    assert storage.change(EVERY_TYPE, key=["bytes", "day", "naive", "zoned", "ok", "price"]) == Outcome(3, 3, 3)
    assert storage.content("id") == expected


def test_rows_are_sorted_by_the_key_which_cannot_be_null(storage: Storage) -> None:
    table, columns = table_of(storage, "ID"), {"id": "INTEGER", "name": "VARCHAR"}
    load(table, storage.parquet(ORDERS), columns)
    with ClickHouseClient(table.connection, SCHEMA) as session:
        found = session.rows("select sorting_key from system.tables where name = 'orders'")
        kinds = session.rows("select type from system.columns where table = 'orders' order by position")
    assert "id" in found[0][0]
    assert [row[0] for row in kinds] == ["Int32", "Nullable(String)"]
    with pytest.raises(ArrivalError, match=r"nothing was changed: column id of the primary key has a null"):
        load(table, storage.parquet("SELECT NULL::INTEGER AS id, 'x' AS name"), columns, key=["id"])
    # A null in the keys to delete is not the key 0.
    load(table, storage.parquet("SELECT 0 AS id, 'zero' AS name"), columns, key=["id"])
    keys = storage.parquet("SELECT NULL::INTEGER AS id")
    assert table.apply(Change(columns, [], {}, key=["id"], delete_keys=keys), table.read()) == Outcome(3, 0, 0)
    assert table.query(COUNT) == [(3,)]
    assert set(tables(storage)) == {TABLE}


KEYS = {
    "TIMESTAMP": "TIMESTAMP '2026-03-01 10:00:00'",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ '2026-03-01 10:00:00+00'",
    "DECIMAL(38,8)": "0.5::DECIMAL(38,8)",
    "DATE": "DATE '2026-03-01'",
    "VARCHAR": "'Nullable('",
    "BLOB": "'\\xFF'::BLOB",
}


@pytest.mark.parametrize("kind", KEYS)
def test_each_type_of_a_key_is_the_same_when_it_is_read(storage: Storage, kind: str) -> None:
    rows = f"SELECT {KEYS[kind]} AS at, 'a' AS name"
    columns = {"at": kind, "name": "VARCHAR"}
    table = table_of(storage, "at")
    assert load(table, storage.parquet(rows), columns) == Outcome(1, 1, 0)
    assert dict(table.read().columns) == columns
    # The second sync, and one that deletes the key.
    assert load(table, storage.parquet(rows.replace("'a'", "'b'")), columns, key=["at"]) == Outcome(1, 1, 1)
    table.keys_to(["at"], storage.root / "keys.parquet")
    deletes = Change(columns, [], {}, key=["at"], delete_keys=storage.root / "keys.parquet")
    assert table.apply(deletes, table.read()) == Outcome(0, 0, 1)


@pytest.mark.parametrize("lost", ["answer", "comparison"])
def test_a_change_that_fails_after_the_exchange_keeps_both_tables(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    storage.change(ORDERS, state={"n": 1})
    exchange = ClickHouseClient.exchange

    def failing(*_: object) -> None:
        raise ExportError("the server does not answer", transient=True)

    def exchanged(self: ClickHouseClient, table: str, other: str) -> None:
        exchange(self, table, other)
        if lost == "answer":
            failing()
        monkeypatch.setattr(ClickHouseClient, "rows", failing)

    with monkeypatch.context() as patched:
        monkeypatch = patched
        patched.setattr(ClickHouseClient, "exchange", exchanged)
        with pytest.raises(
            ArrivalError, match=r"the result is not known; the next sync finds out: the server"
        ) as caught:
            storage.change("SELECT 9 AS id, 'z' AS name", state={"n": 2}, replaces=True)
    assert "nothing was changed" not in str(caught.value)
    [old] = set(tables(storage)) - {TABLE}
    with ClickHouseClient(table_of(storage).connection, SCHEMA) as session:
        assert sorted(map(tuple, session.rows(f"select id, name from raw.{old}"))) == [(1, "a"), (2, "b")]
    assert storage.content("id") == [(9, "z")]
    assert storage.table().read().state == {"n": 2}
    assert storage.change("SELECT 9 AS id, 'y' AS name", key=["id"]) == Outcome(1, 1, 1)
    assert set(tables(storage)) == {TABLE}


def test_an_exchange_that_is_refused_changes_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.change(ORDERS)

    def refused(*_: object) -> None:
        raise ExportError("Code: 48. It cannot exchange two tables")

    with monkeypatch.context() as patched:
        patched.setattr(ClickHouseClient, "exchange", refused)
        with pytest.raises(ArrivalError, match="nothing was changed: Code: 48"):
            storage.change("SELECT 9 AS id, 'z' AS name", key=["id"])
    assert set(tables(storage)) == {TABLE}
    assert storage.content("id") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("value", ["DATE '1899-12-31'", "TIMESTAMP '2300-01-01'", "TIMESTAMPTZ '0001-01-01'"])
def test_a_date_that_clickhouse_does_not_have_is_an_error(storage: Storage, value: str) -> None:
    with pytest.raises(
        ArrivalError, match=r"raw\.orders in .*: nothing was changed: Column day has a date in the year"
    ):
        storage.change(f"SELECT {value} AS day")
    assert tables(storage) == {}


def test_what_a_killed_change_has_left_is_dropped_and_nothing_else(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.change(ORDERS)
    with monkeypatch.context() as patched:
        patched.setattr(ClickHouseChange, "discard", lambda _: None)
        patched.setattr(ClickHouseTable, "_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with suppress(KeyboardInterrupt):
            storage.change(ORDERS, key=["id"])
    left = set(tables(storage)) - {TABLE}
    assert len(left) == 2
    others = {
        "orders__lakehouse_0123abcd": "of a person",
        "orders__lakehouse_0123abce": f"{MARKER}shop/others. Do not change this comment. {{}}",
        "others__lakehouse_0123abcd": tables(storage)[TABLE],
    }
    for name, comment in others.items():
        storage.clickhouse(f"create table raw.{name} (n Int8) engine = Memory comment '{comment}'")
    assert storage.change(ORDERS, key=["id"]) == Outcome(2, 2, 2)
    assert set(tables(storage)) == {TABLE, *others}


def test_a_change_of_another_program_is_kept(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between the last comparison and the exchange."""
    storage.change(ORDERS, state={"n": 1})
    exchange = ClickHouseClient.exchange
    calls: list[str] = []

    def late(self: ClickHouseClient, table: str, other: str) -> None:
        if not calls:
            self.run("insert into raw.orders values (3, 'c')")
        calls.append(table)
        exchange(self, table, other)

    monkeypatch.setattr(ClickHouseClient, "exchange", late)
    with pytest.raises(ArrivalError, match="was changed by another program while new rows were read"):
        storage.change("SELECT 9 AS id, 'z' AS name", state={"n": 2})
    assert len(calls) == 2
    assert storage.content("id") == [(1, "a"), (2, "b"), (3, "c")]
    assert storage.table().read().state == {"n": 1}
    assert set(tables(storage)) == {TABLE}


def test_a_column_that_another_program_has_changed_is_read_as_it_is(storage: Storage) -> None:
    storage.change(ORDERS, state={"n": 1})
    before = storage.table().read()
    storage.clickhouse("alter table raw.orders modify column id Nullable(Int64), add column more Nullable(Float64)")
    now = storage.table().read()
    assert dict(now.columns) == {"id": "BIGINT", "name": "VARCHAR", "more": "DOUBLE"}
    assert now.version != before.version
    assert storage.change(ORDERS, key=["id"]) == Outcome(2, 2, 2)


def test_tables_of_others_are_not_replaced(storage: Storage) -> None:
    storage.change(ORDERS)
    other = table_of(storage, origin="shop/other")
    with pytest.raises(
        ArrivalError, match=r"not filled by shop/other, but is the sync of shop/orders\. Rename or drop"
    ):
        other.read()
    storage.drop()
    storage.clickhouse(
        "create table raw.orders (n Int8) engine = Memory comment 'lakehouse-analytics export of gold/x'"
    )
    with pytest.raises(ArrivalError, match=r"but is the export of gold/x"):
        storage.table().read()
    storage.drop()
    storage.clickhouse("create view raw.orders as select 1 as n")
    with pytest.raises(ArrivalError, match="is a view"):
        storage.table().read()


def test_a_server_without_clones_copies_the_rows(storage: Storage) -> None:
    storage.change(ORDERS)
    run = ClickHouseClient.run

    def old(self: ClickHouseClient, sql: str, settings: dict[str, Any] | None = None) -> None:
        run(self, sql.replace(" clone as ", " klone as "), settings)  # a syntax error, as on servers before 24.10

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ClickHouseClient, "run", old)
        assert storage.change("SELECT 2 AS id, 'c' AS name", key=["id"]) == Outcome(2, 1, 1)
    assert storage.content("id") == [(1, "a"), (2, "c")]


def test_errors_name_the_address_without_the_password(tmp_path: Path) -> None:
    from lakehouse_analytics.arrivals.connections import connection

    url = "clickhouse://loader:s3cret-Wort@127.0.0.1:1/reports"
    there = connection("reports", ["clickhouse"], {"LAKEHOUSE_CONNECTION_REPORTS": url})
    with pytest.raises(ArrivalError, match=r"orders in clickhouse://loader:\*+@127.0.0.1:1/reports: Error") as caught:
        ClickHouseTable(there, None, "orders", "shop/orders").read()
    assert "s3cret" not in str(caught.value)


def test_a_server_that_does_not_answer_may_do_so_later() -> None:
    url = f"clickhouse://loader:secret@127.0.0.1:{free_port()}/reporting"
    there = connection("reports", ["clickhouse"], {"LAKEHOUSE_CONNECTION_REPORTS": url})
    with pytest.raises(ArrivalError) as caught:
        ClickHouseTable(there, None, "orders", "shop/orders").read()
    assert caught.value.transient
    assert "secret" not in str(caught.value)


def test_a_table_of_another_program_stays_one(storage: Storage) -> None:
    storage.clickhouse(f"create database if not exists {SCHEMA}")
    storage.create("")
    with pytest.raises(ArrivalError, match="another program has created it") as caught:
        storage.change(ORDERS)
    assert not caught.value.transient
