"""Syncs of tables: what they read, replace, merge and delete, on PostgreSQL and MariaDB."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
from lakehouse_analytics.arrivals.connections import connection
from lakehouse_analytics.arrivals.databases.base import Nullified
from lakehouse_analytics.arrivals.databases.sync import SCHEMES, opener, sync_table
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, Change
from lakehouse_analytics.contract.arrivals import TableArrival
from postgres_server import PostgresServer
from source_databases import SourceDatabase, Sync

INCREMENTAL: dict[str, Any] = {"mode": "incremental", "update_key": "updated_at", "primary_key": "id", "lag": "5m"}
RECONCILE = INCREMENTAL | {"deletes": "reconcile"}
SOFT = INCREMENTAL | {"deletes": "soft(deleted_at)"}
IDS = "id, name"


def minute(number: int) -> str:
    """A time in the past."""
    return f"2026-01-01 {number // 60:02}:{number % 60:02}:00"


@pytest.fixture
def table(source: SourceDatabase) -> SourceDatabase:
    """A database with the table `t`, whose row n was written in minute n."""
    source.ask(
        f"create table t (id int primary key, name varchar(40), updated_at {source.time}, deleted_at {source.time})"
    )
    rows = ", ".join(f"({number}, 'old', '{minute(number)}', null)" for number in range(1, 21))
    source.ask(f"insert into t values {rows}")
    return source


def put(source: Any, number: int, name: str, at: int | None, *, deleted: bool = False) -> None:
    """Insert or replace a row."""
    source.ask(f"delete from t where id = {number}")
    time = "null" if at is None else f"'{minute(at)}'"
    source.ask(f"insert into t values ({number}, '{name}', {time}, {time if deleted else 'null'})")


def source_rows(source: SourceDatabase) -> list[tuple[Any, ...]]:
    return [*source.ask(f"select {IDS} from t order by id")]


def test_full_replaces_all_rows(sync: Sync, table: SourceDatabase) -> None:
    began = datetime.now(UTC)
    report = sync()
    assert (report.mode, report.reason, report.start, report.highest) == ("full", None, None, None)
    assert (report.rows_read, report.inserted, report.deleted, report.rows) == (20, 20, 0, 20)
    assert report.table == f"{table.schema}.t"
    assert report.bytes > 400
    put(table, 1, "new", 1)
    table.ask("delete from t where id = 2")
    report = sync()
    assert (report.rows_read, report.inserted, report.deleted, report.rows) == (19, 19, 20, 19)
    assert sync.rows(IDS) == source_rows(table)
    [(first, last)] = sync.rows("min(_lakehouse_synced_at), max(_lakehouse_synced_at)")
    assert began < first == last <= datetime.now(UTC)
    assert sync.types["_lakehouse_synced_at"] == "TIMESTAMP WITH TIME ZONE"


def test_incremental_reads_what_changed(sync: Sync, table: SourceDatabase) -> None:
    report = sync(**INCREMENTAL)
    assert (report.mode, report.reason, report.rows_read) == ("full", "the raw table does not exist yet", 20)
    put(table, 3, "changed", 21)
    put(table, 21, "new", 22)
    report = sync(**INCREMENTAL)
    assert (report.mode, report.reason) == ("incremental", None)
    assert (report.start or "").startswith("2026-01-01 00:15:00")  # five minutes before the last row
    assert (report.rows_read, report.inserted, report.deleted, report.rows) == (8, 8, 7, 21)
    assert sync.rows(IDS) == source_rows(table)
    report = sync(**INCREMENTAL)
    assert (report.start or "").startswith("2026-01-01 00:17:00")
    version = sync.raw.read().version
    # The same rows again.
    report = sync(**INCREMENTAL)
    assert (report.mode, report.rows_read, report.inserted, report.deleted, report.rows) == ("incremental", 6, 0, 0, 21)
    assert sync.raw.read().version == version
    put(table, 20, "changed", 20)
    sync(**INCREMENTAL)
    assert sync.rows(IDS) == source_rows(table)


def test_rows_without_an_update_key_are_read_each_time(sync: Sync, table: SourceDatabase) -> None:
    put(table, 1, "old", None)
    sync(**INCREMENTAL)
    put(table, 1, "changed", None)
    put(table, 30, "new", None)
    sync(**INCREMENTAL)
    assert sync.rows(IDS) == source_rows(table)


def test_a_transaction_that_commits_late(sync: Sync, table: SourceDatabase) -> None:
    """It sets updated_at to a time before the highest one that a sync has seen."""
    sync(**INCREMENTAL)
    late = table.session()
    with late.cursor() as cursor:
        cursor.execute(f"update t set name = 'late', updated_at = '{minute(22)}' where id = 3")
        cursor.execute(f"insert into t values (22, 'late', '{minute(22)}', null)")
    put(table, 26, "new", 26)
    report = sync(**INCREMENTAL)
    assert (report.highest or "").startswith(minute(26))
    late.commit()
    late.close()
    sync(**INCREMENTAL)
    assert sync.rows(IDS) == source_rows(table)


def test_a_transaction_longer_than_lag_is_found_by_reconciliation(sync: Sync, table: SourceDatabase) -> None:
    sync(**RECONCILE)
    put(table, 60, "new", 60)
    sync(**RECONCILE)
    put(table, 22, "too late", 22)
    report = sync(**RECONCILE)
    assert (report.mode, report.reason) == ("full", "rows of the source were missing in the raw table")
    assert report.warnings[0].startswith(f"1 rows of {table.schema}.t were in the source, but neither in the raw table")
    assert sync.rows(IDS) == source_rows(table)
    # This shows what `lag` is for.
    put(table, 23, "too late", 23)
    assert sync(**INCREMENTAL).mode == "incremental"
    assert sync.rows(IDS) == [row for row in source_rows(table) if row[0] != 23]


def test_a_time_in_the_future_does_not_move_the_start(sync: Sync, table: SourceDatabase) -> None:
    table.ask("insert into t values (98, 'future', '2300-01-01', null)")
    assert (sync(**INCREMENTAL).highest or "").startswith(minute(20))
    put(table, 21, "new", 21)
    table.ask("update t set name = 'future again' where id = 98")
    sync(**INCREMENTAL)
    assert sync.rows(IDS) == source_rows(table)


def test_deletes_are_ignored_reconciled_or_marked(sync: Sync, table: SourceDatabase) -> None:
    for contract in (INCREMENTAL, RECONCILE, SOFT):
        sync(**contract, full_refresh=True)
        table.ask(f"delete from t where id in ({', '.join(map(str, range(1, 4)))})")
        put(table, 4, "marked", 21, deleted=True)
        report = sync(**contract)
        assert report.mode == "incremental"
        found = {row[0] for row in sync.rows(IDS)}
        expected = {"ignore": {*range(1, 21)}, "reconcile": {*range(4, 21)}}
        assert found == expected.get(contract.get("deletes", "ignore"), {1, 2, 3, *range(5, 21)})
        for number in range(1, 5):
            put(table, number, "old", number)


def test_marked_rows_are_removed_and_return(sync: Sync, table: SourceDatabase) -> None:
    put(table, 2, "marked before the first sync", 2, deleted=True)
    assert sync(**SOFT).rows == 19
    put(table, 2, "back", 21)
    put(table, 20, "marked", 22, deleted=True)
    put(table, 23, "inserted and marked", 23, deleted=True)
    report = sync(**SOFT)
    assert report.rows == 19
    assert sync.rows(IDS) == [row for row in source_rows(table) if row[0] not in (20, 23)]
    assert sync(deletes="soft(deleted_at)").rows == 19


@pytest.mark.parametrize(
    ("kind", "marked", "kept"),
    [
        ("boolean", "true", "false"),
        ("smallint", "2", "0"),
        ("numeric(5,1)", "-0.1", "0.0"),
        ("varchar(5)", "''", "null"),
        ("date", "'2026-01-01'", "null"),
    ],
)
def test_columns_that_mark_deleted_rows(sync: Sync, source: SourceDatabase, kind: str, marked: str, kept: str) -> None:
    source.ask(f"create table t (id int primary key, gone {kind})")
    source.ask(f"insert into t values (1, {marked}), (2, {kept}), (3, null)")
    sync(deletes="soft(gone)")
    assert sync.rows("id") == [(2,), (3,)]


def test_changed_settings_read_all_rows_again(sync: Sync, table: SourceDatabase) -> None:
    table.ask(f"alter table t add column changed_at {table.time}")
    sync()
    report = sync(**INCREMENTAL)
    assert report.reason == (
        "settings have changed: primary_key was not set and is id; update_key was not set and is updated_at"
    )
    report = sync(**INCREMENTAL | {"primary_key": ["id", "name"]})
    assert report.reason == "settings have changed: primary_key was id and is id, name"
    table.ask(f"update t set changed_at = '{minute(30)}' where id > 5")
    table.ask("delete from t where id = 1")
    report = sync(**INCREMENTAL | {"update_key": "changed_at", "primary_key": ["id", "name"]})
    assert report.reason == "settings have changed: update_key was updated_at and is changed_at"
    # `deletes: ignore` keeps the row.
    assert (report.mode, report.rows_read, report.rows) == ("full", 19, 20)
    report = sync(**INCREMENTAL | {"update_key": "changed_at", "primary_key": ["id", "name"], "lag": "1h"})
    assert (report.mode, report.rows_read) == ("incremental", 19)
    table.ask("create table other as select * from t")
    report = sync(**INCREMENTAL | {"table": "other"})
    assert f"table was {table.schema}.t and is {table.schema}.other" in (report.reason or "")
    assert report.rows == 19


def test_new_columns_are_added_with_their_values(sync: Sync, table: SourceDatabase) -> None:
    sync(**INCREMENTAL)
    table.ask("alter table t add column size int default 7")
    report = sync(**INCREMENTAL)
    assert (report.mode, report.reason) == ("full", "existing rows need the values of new columns: size")
    assert (report.new_columns, report.rows, report.warnings) == (("size",), 20, ())
    assert sync.rows("distinct size") == [(7,)]
    assert sync(**INCREMENTAL).mode == "incremental"


def test_new_columns_are_omitted_with_a_warning_or_fail(sync: Sync, table: SourceDatabase) -> None:
    sync(**INCREMENTAL)
    table.ask("alter table t add column size int default 7")
    for contract in (INCREMENTAL, {}):
        report = sync(**contract, schema_changes="warn")
        assert report.warnings == (f"{table.schema}.t has new columns, which are omitted: size",)
        assert report.new_columns == ("size",)
        assert "size" not in sync.types
    before = sync.rows()
    for contract in (INCREMENTAL, {}):
        with pytest.raises(
            ArrivalError, match=r"columns of .*\.t have changed \(new columns: size\), and schema_changes"
        ):
            sync(**contract, schema_changes="fail")
    assert sync.rows() == before


def test_a_column_that_no_longer_exists(sync: Sync, table: SourceDatabase) -> None:
    sync(**INCREMENTAL)
    table.ask("alter table t drop column name")
    with pytest.raises(ArrivalError, match="columns that no longer exist: name"):
        sync(**INCREMENTAL, schema_changes="fail")
    report = sync(**INCREMENTAL)
    assert report.warnings == (
        f"{table.schema}.t no longer has the column name, which in the raw table is NULL in rows read from now on",
    )
    assert sync.rows("name, count(*)", ["1", " by 1"][0]) if False else True
    assert sync.raw.query("select name, count(*) from {table} group by 1 order by 1 nulls last") == [
        ("old", 14),
        (None, 6),
    ]
    sync()
    assert "name" not in sync.types


def test_a_column_whose_type_changed(sync: Sync, table: SourceDatabase) -> None:
    sync(**RECONCILE)
    change = "alter column name type text" if table.is_postgres else "modify column name text"
    table.ask(f"alter table t {change}")
    assert sync(**RECONCILE).mode == "incremental"  # both are VARCHAR
    if table.is_postgres:
        table.ask("alter table t alter column name type int using id")
    else:
        table.ask("update t set name = id")
        table.ask("alter table t modify column name int")
    report = sync(**RECONCILE)
    assert (report.mode, report.reason) == ("full", "types have changed: name from VARCHAR to INTEGER")
    assert report.warnings == (f"types of {table.schema}.t have changed: name from VARCHAR to INTEGER",)
    assert sync.types["name"] == "INTEGER"
    assert sync.rows(IDS) == [(number, number) for number in range(1, 21)]


def test_a_changed_type_does_not_replace_rows_that_deletes_ignore_keeps(sync: Sync, table: SourceDatabase) -> None:
    sync(**INCREMENTAL)
    table.ask("delete from t where id = 1")
    table.ask(
        "alter table t alter column id type bigint" if table.is_postgres else "alter table t modify column id bigint"
    )
    with pytest.raises(ArrivalError, match=r"types of .* have changed: id from INTEGER to BIGINT"):
        sync(**INCREMENTAL)
    assert len(sync.rows()) == 20
    report = sync(**INCREMENTAL, full_refresh=True)
    assert (report.rows, report.reason) == (19, "reload: true")
    assert sync.types["id"] == "BIGINT"


def test_duplicates_of_the_primary_key(sync: Sync, table: SourceDatabase) -> None:
    sync(**INCREMENTAL | {"primary_key": "id"})
    before = sync.rows()
    for contract in (INCREMENTAL | {"primary_key": "name"}, {"primary_key": "name"}):
        with pytest.raises(ArrivalError, match=r"primary_key: several rows of .*\.t have the same name \(name = old\)"):
            sync(**contract)
    assert sync.rows() == before


def test_columns_that_do_not_exist(sync: Sync, table: SourceDatabase) -> None:
    for contract, message in (
        (
            {"update_key": "updatedat"},
            rf"update_key: table {table.schema}\.t has no column updatedat; did you mean upd",
        ),
        ({"primary_key": ["id", "nme"]}, r"primary_key: table .* has no column nme; did you mean name\?"),
        ({"deletes": "soft(deleted)"}, r"deletes: table .* has no column deleted; did you mean deleted_at\?"),
    ):
        with pytest.raises(ArrivalError, match=message):
            sync(**INCREMENTAL | contract)
    assert not sync.raw.read().exists


def test_an_update_key_without_an_order(sync: Sync, table: SourceDatabase) -> None:
    table.ask(f"alter table t add column flags {'json' if table.is_postgres else 'blob'}")
    with pytest.raises(
        ArrivalError, match=r"update_key: column flags of .*\.t has the type (json|blob); expected a time"
    ):
        sync(**INCREMENTAL | {"update_key": "flags"})


def test_a_table_that_something_else_has_filled(sync: Sync, table: SourceDatabase) -> None:
    with duckdb.connect(sync.folder / sync.file) as db:
        db.execute("create schema raw; create table raw.t as select 1 as id")
    with pytest.raises(ArrivalError, match="the raw table exists, but was not filled by a sync of a database"):
        sync()
    assert sync.rows("*") == [(1,)]
    assert sync(full_refresh=True).rows == 20


def test_a_restored_source_is_read_from_the_beginning(sync: Sync, table: SourceDatabase) -> None:
    put(table, 1, "lost", 60)
    sync(**RECONCILE)
    put(table, 1, "old", 1)
    report = sync(**RECONCILE)
    assert report.mode == "full"
    assert "the source may have been restored" in (report.reason or "")
    assert sync.rows(IDS) == source_rows(table)
    assert sync(**RECONCILE).mode == "incremental"


def test_a_numeric_update_key(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table t (id int primary key, version bigint)")
    source.ask("insert into t values (1, 10), (2, 20)")
    contract = INCREMENTAL | {"update_key": "version", "lag": "0m"}
    sync(**contract)
    source.ask("insert into t values (3, 30), (4, null)")
    report = sync(**contract)
    assert (report.mode, report.start, report.highest, report.rows_read) == ("incremental", "20", "30", 3)
    # Without a sync that is old enough, all rows are read.
    report = sync(**contract | {"lag": "1h"})
    assert (report.mode, report.reason) == ("full", "no update_key is known yet from which a sync could start")
    assert sync.rows("id, version") == [(1, 10), (2, 20), (3, 30), (4, None)]


def test_a_date_or_text_as_update_key(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table t (id int primary key, day date, code varchar(10))")
    source.ask("insert into t values (1, '2026-01-01', 'a'), (2, '2026-01-02', 'b')")
    contract = INCREMENTAL | {"update_key": "day", "lag": "5m"}
    sync(**contract)
    source.ask("insert into t values (3, '2026-01-02', 'c'), (4, '2026-01-03', 'd')")
    report = sync(**contract)
    assert (report.start, report.rows_read) == ("2026-01-01", 4)
    contract = INCREMENTAL | {"update_key": "code", "lag": "0m"}
    sync(**contract)
    source.ask("insert into t values (5, null, 'e''\\\\')")
    report = sync(**contract)
    assert (report.start, report.rows_read, report.highest) == ("d", 2, "e'\\\\" if source.is_postgres else "e'\\")
    assert sync(**contract).rows_read == 1


def test_an_empty_table(sync: Sync, source: SourceDatabase) -> None:
    source.ask(f"create table t (id int primary key, updated_at {source.time})")
    for contract in ({}, RECONCILE, RECONCILE):
        report = sync(**contract)
        assert (report.rows, report.rows_read, report.highest) == (0, 0, None)
    source.ask(f"insert into t values (1, '{minute(1)}')")
    assert sync(**RECONCILE).rows == 1
    source.ask("delete from t")
    assert sync(**RECONCILE).rows == 0
    assert [*sync.types] == ["id", "updated_at", "_lakehouse_synced_at"]


def test_keys_of_several_columns(sync: Sync, source: SourceDatabase) -> None:
    source.ask(f"create table t (region varchar(5), id int, name varchar(9), updated_at {source.time})")
    source.ask(f"insert into t values ('eu', 1, 'a', '{minute(1)}'), (null, 1, 'b', '{minute(1)}')")
    contract = RECONCILE | {"primary_key": ["region", "id"]}
    sync(**contract)
    source.ask(f"update t set name = 'c', updated_at = '{minute(2)}' where region is null")
    report = sync(**contract)
    assert (report.mode, report.rows) == ("incremental", 2)
    assert sync.rows("region, id, name") == [("eu", 1, "a"), (None, 1, "c")]
    source.ask("delete from t where region is null")
    assert sync(**contract).rows == 1


KEYS = {
    "PostgreSQL": [
        ("bigint", ["1", "9223372036854775807"]),
        ("numeric(20,2)", ["1.50", "-1"]),
        ("numeric", ["1e30", "0.1"]),
        ("text", ["'a'", "'A'"]),
        ("char(3)", ["'a'", "'abc'"]),
        ("uuid", ["'0195f3a4-7f7a-7c00-8000-000000000001'", "'0195f3a4-7f7a-7c00-8000-000000000002'"]),
        ("bytea", ["'\\x00'", "'\\x0001'"]),
        ("date", ["'2026-01-01'", "'2026-01-02'"]),
        ("timestamptz", ["'2026-01-01 00:00:00.000001'", "'2026-01-01'"]),
        ("boolean", ["true", "false"]),
        ("double precision", ["0.1", "1e300"]),
    ],
    "MariaDB": [
        ("bigint unsigned", ["1", "18446744073709551615"]),
        ("tinyint unsigned", ["1", "255"]),
        ("decimal(20,2)", ["1.50", "-1"]),
        ("varchar(9)", ["'a'", "'b '"]),
        ("char(3)", ["'a'", "'abc'"]),
        ("binary(2)", ["x'0000'", "x'0001'"]),
        ("datetime(6)", ["'2026-01-01 00:00:00.000001'", "'2026-01-01'"]),
        ("time", ["'00:00:01'", "'23:59:59'"]),
        ("enum('a','b')", ["'a'", "'b'"]),
    ],
}


@pytest.mark.parametrize("iceberg", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_keys_of_all_types(sync: Sync, source: SourceDatabase, iceberg: bool) -> None:
    for kind, (one, other) in KEYS["PostgreSQL" if source.is_postgres else "MariaDB"]:
        target = replace(sync, file=f"{uuid.uuid4().hex}.duckdb")
        target = target.in_iceberg() if iceberg else target
        source.ask("drop table if exists t")
        source.ask(f"create table t (k {kind} primary key, value int, updated_at {source.time})")
        source.ask(f"insert into t values ({one}, 1, '{minute(1)}'), ({other}, 1, '{minute(1)}')")
        contract = RECONCILE | {"primary_key": "k"}
        target(**contract)
        source.ask(f"update t set value = 2, updated_at = '{minute(2)}' where k = {one}")
        report = target(**contract)
        assert (kind, report.mode, report.reason, target.rows("value")) == (kind, "incremental", None, [(1,), (2,)])
        source.ask(f"delete from t where k = {one}")
        source.ask(f"update t set updated_at = '{minute(2)}'")
        report = target(**contract)
        assert (kind, report.mode, report.reason, target.rows("value")) == (kind, "incremental", None, [(1,)])


def test_a_key_whose_values_cannot_be_stored(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table t (day date primary key)")
    if source.is_postgres:
        source.ask("insert into t values ('infinity')")
    else:
        source.ask("set statement sql_mode = '' for insert into t values ('0000-00-00')")
    with pytest.raises(ArrivalError, match=r"primary_key: 1 values of day in .*\.t cannot be stored \(date as DATE\)"):
        sync(primary_key="day")


def test_infinite_and_zero_update_keys(sync: Sync, source: SourceDatabase) -> None:
    source.ask(f"create table t (id int primary key, name varchar(9), updated_at {source.time})")
    source.ask(f"insert into t values (1, 'a', '{minute(1)}')")
    values = ["infinity", "-infinity"] if source.is_postgres else ["0000-00-00", "9999-12-31"]
    prefix = "" if source.is_postgres else "set statement sql_mode = '' for "
    for number, value in enumerate(values, 2):
        source.ask(f"{prefix}insert into t values ({number}, 'a', '{value}')")
    assert (sync(**INCREMENTAL).highest or "").startswith(minute(1))
    source.ask("update t set name = 'b' where id > 1")
    assert sync(**INCREMENTAL).mode == "incremental"
    assert sync.rows(IDS) == [(1, "a"), (2, "b"), (3, "b")]


def test_a_source_that_changes_during_the_sync(sync: Sync, source: SourceDatabase) -> None:
    """Transfers between accounts, and accounts that move to another number, never change the sum of one snapshot."""
    source.ask(f"create table t (id int primary key, amount int, updated_at {source.time})")
    source.ask(
        "insert into t select g, 100, '2026-01-01' from "
        + ("generate_series(1, 2000) g" if source.is_postgres else "(select seq as g from seq_1_to_2000) s")
    )
    stop = threading.Event()
    transfers = 0
    now = "clock_timestamp()" if source.is_postgres else "utc_timestamp(6)"

    def transfer() -> None:
        nonlocal transfers
        session = source.session()
        with session.cursor() as cursor:
            while not stop.is_set():
                one, other = transfers % 2000 + 1, (transfers * 7 + 3) % 2000 + 1
                cursor.execute(f"update t set amount = amount - 1, updated_at = {now} where id = {one}")
                cursor.execute(f"update t set amount = amount + 1, updated_at = {now} where id = {other}")
                if transfers % 5 == 0:  # another number
                    cursor.execute(f"delete from t where id = {one}")
                    cursor.execute(f"insert into t values ({one}, 0, {now})")
                    cursor.execute(
                        f"update t set amount = amount + (select 200000 - s from (select sum(amount) as s from t) x) "
                        f"where id = {one}"
                    )
                session.commit()
                transfers += 1
        session.close()

    thread = threading.Thread(target=transfer)
    thread.start()
    try:
        modes = []
        for contract in ({}, RECONCILE, RECONCILE, RECONCILE, RECONCILE, RECONCILE):
            before = transfers
            while transfers < before + 20:
                stop.wait(0.01)
            modes.append(sync(**contract).mode)
            assert sync.rows("count(*), sum(amount)") == [(2000, 200000)]
    finally:
        stop.set()
        thread.join()
    assert modes[2:] == ["incremental"] * 4
    sync(**RECONCILE)
    assert sync.rows("id, amount") == [*source.ask("select id, amount from t order by id")]


def test_a_folder_that_cannot_be_written(sync: Sync, table: SourceDatabase) -> None:
    (sync.folder / "file").write_text("")
    arrival = TableArrival.model_validate({"database": "shop"})
    with pytest.raises(ArrivalError, match=r"the rows could not be stored in .*/file/staging: .*Not a directory"):
        sync_table(arrival, sync.raw, table.connection, sync.folder / "file" / "staging", table="t")
    assert not sync.raw.read().exists


def failure(sync: Sync, **contract: Any) -> ArrivalError:
    """The error of a sync."""
    with pytest.raises(ArrivalError) as caught:
        sync(**contract)
    return caught.value


def test_what_may_pass_is_transient_and_what_does_not_is_not(sync: Sync, table: SourceDatabase) -> None:
    assert not failure(replace(sync, table="missing")).transient
    assert not failure(sync, mode="incremental", update_key="missing", primary_key="id").transient
    assert not failure(replace(sync, source=replace(table, name="missing"))).transient
    table.server.stop()
    try:
        assert failure(sync).transient
    finally:
        table.server.start()
    sync()
    sync.source.ask("alter table t drop column name")
    assert not failure(sync, schema_changes="fail").transient


def test_a_session_that_ends_while_rows_are_read_is_transient(sync: Sync, source: SourceDatabase) -> None:
    source.ask("create table t (id int, content text)")
    series = "generate_series(1, 200000) as s(seq)" if source.is_postgres else "seq_1_to_200000"
    source.ask(f"insert into t select seq, repeat('x', 300) from {series}")

    def read() -> None:
        with opener(source.connection)(source.connection, "t", timedelta(seconds=60)) as table:
            for _ in table.batches([*table.columns.values()], "true", Nullified()):
                source.server.stop()

    try:
        with pytest.raises(ArrivalError) as caught:
            read()
    finally:
        source.server.start()
    assert caught.value.transient
    sync()


def test_a_wrong_password_is_not_transient(sync: Sync, table: SourceDatabase) -> None:
    server = table.server
    if isinstance(server, PostgresServer):
        rules = server.data / "pg_hba.conf"
        before = rules.read_text()
        table.ask("create role reader login password 'right'")
        rules.write_text("host all reader all scram-sha-256\n" + before)
        table.ask("select pg_reload_conf()")
        url = f"postgresql://reader:wrong@127.0.0.1:{server.port}/{table.name}"
    else:
        url = f"mariadb://etl:wrong@127.0.0.1:{server.port}/{table.name}"
    at = connection("shop", SCHEMES, {"LAKEHOUSE_CONNECTION_SHOP": url})
    with pytest.raises(ArrivalError, match=r"(?i)authentication failed|access denied") as caught:
        sync_table(TableArrival(database="shop"), sync.raw, at, sync.folder / "staging", table="t")
    assert not caught.value.transient
    assert "wrong" not in str(caught.value)


def test_a_change_by_another_program_is_transient(sync: Sync, table: SourceDatabase) -> None:
    sync()
    before = sync.raw.read()
    put(table, 1, "new", 1)
    sync()
    with pytest.raises(ArrivalError, match="changed by another program") as caught:
        sync.raw.apply(Change(before.columns, [], {}), before)
    assert caught.value.transient
