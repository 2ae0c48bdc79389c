"""What every storage does with a change, in one suite for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, Change, Outcome, TableState

from .conftest import KINDS_WITH_CONDITIONS, Storage

ORDERS = "SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (3, NULL)) AS t(id, name)"


def test_a_table_that_does_not_exist_is_empty(storage: Storage, tmp_path: Path) -> None:
    table = storage.table()
    assert table.read() == TableState({}, {}, None)
    assert not table.read().exists
    assert list(table.query("SELECT count(*) FROM {table}")) == []
    with pytest.raises(ArrivalError, match=r"raw\.orders .*does not exist"):
        table.keys_to(["id"], tmp_path / "keys.parquet")


def test_a_change_creates_the_table_with_its_state(storage: Storage) -> None:
    assert storage.change(ORDERS, state={"cursor": [1, "x"]}) == Outcome(3, 3, 0)
    state = storage.table().read()
    assert state.exists
    assert dict(state.columns) == {"id": "INTEGER", "name": "VARCHAR"}
    assert state.state == {"cursor": [1, "x"]}
    assert storage.content() == [(1, "a"), (2, "b"), (3, None)]


def test_a_table_can_be_created_without_rows(storage: Storage) -> None:
    assert storage.change(columns={"id": "BIGINT"}, state={"n": 1}) == Outcome(0, 0, 0)
    assert dict(storage.table().read().columns) == {"id": "BIGINT"}
    assert storage.content() == []
    assert storage.change("SELECT 1::BIGINT AS id") == Outcome(1, 1, 0)


def test_each_change_has_another_version_even_without_rows(storage: Storage) -> None:
    versions = set()
    for number in range(3):
        storage.change(ORDERS if number == 0 else None, state={"number": number})
        state = storage.table().read()
        assert state.state == {"number": number}
        versions.add(state.version)
    assert len(versions) == 3
    assert len(storage.content()) == 3


def test_rows_are_appended_and_columns_added(storage: Storage) -> None:
    storage.change(ORDERS)
    assert storage.change("SELECT 1.5::DECIMAL(10,2) AS price, 4 AS ID") == Outcome(4, 1, 0)
    assert dict(storage.table().read().columns) == {"id": "INTEGER", "name": "VARCHAR", "price": "DECIMAL(10,2)"}
    assert [tuple(map(str, row)) for row in storage.content()] == [
        ("1", "a", "None"),
        ("2", "b", "None"),
        ("3", "None", "None"),
        ("4", "None", "1.50"),
    ]


def test_replacing_removes_rows_and_columns(storage: Storage) -> None:
    storage.change(ORDERS, state={"old": 1})
    outcome = storage.change("SELECT 7::BIGINT AS id, true AS ok", replaces=True, state={"new": 1})
    assert outcome == Outcome(1, 1, 3)
    state = storage.table().read()
    assert dict(state.columns) == {"id": "BIGINT", "ok": "BOOLEAN"}
    assert state.state == {"new": 1}
    assert storage.content() == [(7, True)]
    assert storage.change(columns={"id": "BIGINT"}, replaces=True) == Outcome(0, 0, 1)
    assert storage.content() == []


def test_rows_with_the_same_key_are_replaced_and_null_equals_null(storage: Storage) -> None:
    storage.change("SELECT * FROM (VALUES (1, 'x', 10), (NULL, 'x', 11), (NULL, 'y', 12), (2, 'x', 13)) t(id, k, n)")
    new = "SELECT * FROM (VALUES (1, 'x', 20), (NULL, 'x', 21), (3, NULL, 22)) t(id, k, n)"
    assert storage.change(new, key=["ID", "k"]) == Outcome(5, 3, 2)
    assert storage.content("n", "n") == [(12,), (13,), (20,), (21,), (22,)]
    assert storage.change("SELECT 3 AS id, NULL::VARCHAR AS k, 30 AS n", key=["id", "k"]) == Outcome(5, 1, 1)


def test_rows_are_deleted_by_a_condition(storage_with_conditions: Storage) -> None:
    storage_with_conditions.change("SELECT i AS id, 'file-' || i % 3 AS _file FROM range(9) t(i)")
    assert storage_with_conditions.change(delete_where="_file IN ('file-0', 'it''s')") == Outcome(6, 0, 3)
    assert storage_with_conditions.change(
        "SELECT 100::BIGINT AS id, 'file-1' AS _file", delete_where="_FILE = 'file-1'"
    ) == Outcome(4, 1, 3)
    assert storage_with_conditions.content("id") == [(2, "file-2"), (5, "file-2"), (8, "file-2"), (100, "file-1")]
    assert storage_with_conditions.change(delete_where="id > 5 OR _file IS NULL") == Outcome(2, 0, 2)
    assert storage_with_conditions.change(delete_where="NULL") == Outcome(2, 0, 0)


def test_rows_are_deleted_by_their_keys(storage: Storage) -> None:
    storage.change("SELECT i AS id, i % 2 AS part FROM range(6) t(i)")
    keys = storage.parquet("SELECT * FROM (VALUES (0::BIGINT, 0::BIGINT), (0, 0), (1, 0), (3, 1)) t(id, part)")
    outcome = storage.change("SELECT 5::BIGINT AS id, 1::BIGINT AS part", key=["id", "part"], delete_keys=keys)
    assert outcome == Outcome(4, 1, 3)
    assert storage.content("id", "id") == [(1,), (2,), (4,), (5,)]
    keys = storage.parquet("SELECT unnest([1, 1, 4, 9])::SMALLINT AS id, unnest([1, 1, 0, 0])::SMALLINT AS part")
    assert storage.change(key=["id", "part"], delete_keys=keys) == Outcome(2, 0, 2)


def test_several_files_may_have_different_columns(storage: Storage) -> None:
    files = [storage.parquet("SELECT 1 AS id, 'a' AS name"), storage.parquet("SELECT 2 AS id, 3 AS unknown")]
    change = Change({"id": "INTEGER", "name": "VARCHAR"}, files, {})
    assert storage.table().apply(change, storage.table().read()) == Outcome(2, 2, 0)
    assert storage.content() == [(1, "a"), (2, None)]


def test_values_have_the_type_of_their_column(storage: Storage) -> None:
    storage.change(columns={"id": "BIGINT", "price": "DECIMAL(12,4)"})
    storage.change("SELECT 1::SMALLINT AS id, 1.5::DECIMAL(4,1) AS price")
    assert [(row[0], str(row[1])) for row in storage.content()] == [(1, "1.5000")]


def unchanged(storage: Storage, error: str, query: str | None = None, **options: Any) -> None:
    before, rows = storage.table().read(), storage.content()
    with pytest.raises(ArrivalError, match=error) as raised:
        storage.change(query, **options)
    assert "raw.orders" in str(raised.value)
    assert storage.table().read() == before
    assert storage.content() == rows


def test_duplicate_keys_are_an_error(storage: Storage) -> None:
    storage.change(ORDERS, state={"n": 1})
    error = r"rows-\d+\.parquet: 2 of the new rows have the key id = None; expected one row for each key"
    unchanged(storage, error, "SELECT unnest([1, NULL, NULL]) AS id, 'x' AS name", key=["id"])
    unchanged(storage, error, "SELECT unnest([1, NULL, NULL]) AS id, 'x' AS name", key=["id"], replaces=True)


def test_a_wrong_type_is_an_error(storage: Storage) -> None:
    storage.change(ORDERS)
    columns = {"id": "INTEGER", "name": "VARCHAR"}
    error = r"rows-\d+\.parquet: column ID has the type {}; expected INTEGER, the type of the table"
    unchanged(storage, error.format("VARCHAR"), "SELECT '5' AS ID", columns=columns)
    unchanged(storage, error.format("BIGINT"), "SELECT 5::BIGINT AS ID", columns={})
    error = "column id has the type INTEGER, but the new rows have VARCHAR"
    unchanged(storage, error, "SELECT '5' AS id")


def test_a_change_that_does_not_fit_its_files_is_an_error(storage: Storage) -> None:
    storage.change(ORDERS)
    unchanged(storage, "column id of the key is missing", "SELECT 'x' AS name", key=["id"])
    unchanged(storage, "no column nothing, which is part of the key", ORDERS, key=["nothing"])
    keys = storage.parquet("SELECT 'x' AS name")
    unchanged(storage, "column id of the key is missing", key=["id"], delete_keys=keys)
    unchanged(storage, "the key of the table is not known", delete_keys=keys)
    unchanged(storage, "none of the columns id, name is in the file", "SELECT 1 AS other", columns={})
    unchanged(storage, "'intreger' is not a type of DuckDB", columns={"n": "intreger"})
    unchanged(storage, "differ only in case", columns={"n": "INTEGER", "N": "INTEGER"})
    unchanged(storage, "a new table needs at least one column", replaces=True)
    unchanged(storage, "nothing" if storage.kind != "clickhouse" else "conditions", delete_where="nothing = 1")
    (broken := storage.root / "broken.parquet").write_text("no Parquet file")
    table = storage.table()
    with pytest.raises(ArrivalError, match=r"broken\.parquet"):
        table.apply(Change({}, [broken], {}), table.read())


def test_a_value_that_cannot_be_converted_is_an_error(storage_with_conditions: Storage) -> None:
    storage_with_conditions.change(ORDERS, state={"n": 1})
    unchanged(storage_with_conditions, "invalid type", delete_where="error('invalid type')", state={"n": 2})


def test_a_concurrent_change_is_refused(storage: Storage) -> None:
    table = storage.table()
    rows = Change({"id": "INTEGER", "name": "VARCHAR"}, [storage.parquet(ORDERS)], {"by": "first"})
    missing = table.read()
    table.apply(rows, missing)
    error = r"raw\.orders in .* was changed by another program while new rows were read; nothing was changed"
    with pytest.raises(ArrivalError, match=error):
        table.apply(rows, missing)
    before = table.read()
    for other in (Change({}, [], {"by": "second"}), rows):
        table.apply(other, table.read())
        with pytest.raises(ArrivalError, match=error):
            table.apply(Change({}, rows.rows, {"by": "third"}, replaces=False), before)
        before = table.read()
        assert before.state == other.state
    assert len(storage.content()) == 6


def test_another_table_of_that_name_has_no_state(storage: Storage) -> None:
    storage.change(ORDERS, state={"n": 1})
    before = storage.table().read()
    for recreate in (False, True):
        storage.drop()
        if recreate:
            storage.create(ORDERS)
        now = storage.table().read()
        assert now.exists == recreate
        assert now.state == {}
        assert now.version != before.version
        with pytest.raises(ArrivalError, match="was changed by another program"):
            storage.table().apply(Change({}, [storage.parquet(ORDERS)], {}), before)
        if recreate and storage.kind == "clickhouse":
            # It may have grants and readers, so it is only replaced as a whole.
            unchanged(storage, "another program has created it", ORDERS, state={"n": 2})
            assert storage.change(ORDERS, state={"n": 2}, replaces=True) == Outcome(3, 3, 0)
        elif recreate:
            assert storage.change(ORDERS, state={"n": 2}) == Outcome(6, 3, 0)
        else:
            assert storage.change(ORDERS, state={"n": 2}) == Outcome(3, 3, 0)
        assert storage.table().read().state == {"n": 2}


def test_queries_may_use_the_table_twice(storage: Storage) -> None:
    storage.change(ORDERS)
    query = (
        "WITH t AS (SELECT id FROM {table}) SELECT count(*) FROM t a JOIN t b USING (id) JOIN {table} c ON c.id = a.id"
    )
    assert list(storage.table().query(query)) == [(3,)]
    assert list(storage.table().query("SELECT count(*) FROM {table}")) == [(3,)]
    assert list(storage.table().query("SELECT DISTINCT name FROM {table} WHERE ID < 2")) == [("a",)]
    with pytest.raises(ArrivalError, match="nothing"):
        storage.table().query("SELECT nothing FROM {table}")


def test_distinct_keys_are_written_to_a_file(storage: Storage, tmp_path: Path) -> None:
    storage.change("SELECT i % 5 AS id, NULLIF(i % 2, 0) AS part, i AS n FROM range(100) t(i)")
    path = tmp_path / "keys.parquet"
    storage.table().keys_to(["id", "part"], path)
    with duckdb.connect() as db:
        found = db.execute(f"SELECT id, part FROM '{path}' ORDER BY ALL").fetchall()
        columns = [name for name, *_ in db.execute(f"DESCRIBE FROM '{path}'").fetchall()]
    assert found == [(i, part) for i in range(5) for part in (1, None)]
    assert columns == ["id", "part"]


def test_names_are_quoted(storage: Storage) -> None:
    storage.change("""SELECT 1 AS "a ""b"" c", 2 AS "select" """)
    assert storage.change("""SELECT 1 AS "a ""b"" c", 3 AS "select" """, key=['a "b" c']) == Outcome(1, 1, 1)
    assert storage.content() == [(1, 3)]
    if storage.kind in KINDS_WITH_CONDITIONS:
        assert storage.change(delete_where='"a ""b"" c" = 1') == Outcome(0, 0, 1)
