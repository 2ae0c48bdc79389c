"""Raw tables in Iceberg: which files a change reads and writes, and what a commit that fails leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, Change, Outcome
from lakehouse_analytics.arrivals.raw_tables.iceberg_change import IcebergChange
from lakehouse_analytics.arrivals.raw_tables.iceberg_pruning import candidates
from lakehouse_analytics.arrivals.raw_tables.new_rows import scratch
from pyiceberg.catalog.sql import SqlCatalog

from .conftest import SCHEMA, TABLE, Storage

THOUSAND = (
    "SELECT i AS id, 'file-{0}' AS _file, DATE '2026-01-01' + {0} AS day FROM range({0} * 1000, {0} * 1000 + 1000) t(i)"
)


@pytest.fixture
def lake(new_storage: Callable[[str], Storage]) -> Storage:
    return new_storage("iceberg")


@pytest.fixture
def three_files(lake: Storage) -> Storage:
    """A table with three data files of 1,000 rows."""
    for number in range(3):
        lake.change(THOUSAND.format(number), state={"number": number})
    return lake


def files(lake: Storage) -> list[str]:
    """The paths of the data files, by their first id."""
    tasks = lake.catalog.load_table((SCHEMA, TABLE)).scan().plan_files()
    return [
        task.file.file_path
        for task in sorted(tasks, key=lambda task: int.from_bytes(task.file.lower_bounds[1], "little"))
    ]


def on_disk(lake: Storage) -> list[Path]:
    return sorted(lake.data.rglob("*.parquet"))


def operations(lake: Storage) -> list[str]:
    return [s.summary.operation.value for s in lake.catalog.load_table((SCHEMA, TABLE)).snapshots() if s.summary]


def test_only_files_with_rows_to_remove_are_written_again(three_files: Storage) -> None:
    before = files(three_files)
    new = "SELECT 1500::BIGINT AS id, 'new' AS _file, DATE '2026-02-01' AS day"
    assert three_files.change(new, key=["id"]) == Outcome(3000, 1, 1)
    after = files(three_files)
    assert len(after) == 4
    assert {before[0], before[2]} < set(after)
    assert before[1] not in after
    assert operations(three_files) == ["append", "append", "append", "overwrite"]


def test_rows_are_appended_if_no_row_has_their_key(three_files: Storage) -> None:
    before = files(three_files)
    new = "SELECT unnest([-5, 9999])::BIGINT AS id, 'new' AS _file, DATE '2026-02-01' AS day"
    assert three_files.change(new, key=["id"]) == Outcome(3002, 2, 0)
    assert set(before) < set(files(three_files))
    assert operations(three_files)[-1] == "append"


def test_a_file_without_remaining_rows_is_not_replaced(three_files: Storage) -> None:
    before = files(three_files)
    assert three_files.change(delete_where="_file = 'file-1'") == Outcome(2000, 0, 1000)
    assert files(three_files) == [before[0], before[2]]
    assert len(on_disk(three_files)) == 3


@pytest.mark.parametrize(
    ("keys", "where", "expected"),
    [
        ("SELECT 1500 AS id", None, [1]),
        ("SELECT unnest([0, 2999]) AS id", None, [0, 2]),
        ("SELECT unnest([-1, 3000]) AS id", None, []),
        ("SELECT NULL::BIGINT AS id", None, []),
        (None, "_file = 'file-2'", [2]),
        (None, "'file-2' = \"_FILE\" AND id > 0", [2]),
        (None, "_file IN ('file-0', 'file-2')", [0, 2]),
        (None, "_file = 'it''s'", []),
        (None, "id = 1000", [1]),
        (None, "id IN (1, 2) AND _file = 'file-1'", []),
        (None, "_file = 'file-2' OR id = 5", [0, 1, 2]),
        (None, "id = 1000 + 5", [0, 1, 2]),
        (None, "id = 99999999999999999999999", [0, 1, 2]),
        (None, "lower(_file) = 'file-2'", [0, 1, 2]),
        ("SELECT 1500 AS id", "_file = 'file-2'", [1, 2]),
    ],
)
def test_files_are_chosen_by_their_bounds(
    three_files: Storage, keys: str | None, where: str | None, expected: list[int]
) -> None:
    table = three_files.catalog.load_table((SCHEMA, TABLE))
    with scratch() as db:
        if keys:
            db.execute(f"CREATE TABLE keys AS {keys}")
        found = candidates(db, table, keys="keys" if keys else None, key="id" if keys else None, where=where)
    by_path = files(three_files)
    assert sorted(by_path.index(task.file.file_path) for task in found) == expected


@pytest.mark.parametrize(
    ("kind", "low", "high", "inside"),
    [
        ("VARCHAR", "'a'", "'czzzzzzzzzzzzzzzzzzzzzzzzz'", "'czzzzzzzzzzzzzzzzzzzzzy'"),
        ("VARCHAR", "'ä'", "'ü\U0001f600'", "'ö'"),
        ("DATE", "'1969-12-30'", "'1970-01-05'", "'1970-01-01'"),
        ("TIMESTAMP", "'1969-12-30'", "'1970-01-05'", "'1969-12-31 23:59:59.999999'"),
        (
            "TIMESTAMP WITH TIME ZONE",
            "'2026-01-01 00:00:00+02'",
            "'2026-01-02 00:00:00+00'",
            "'2025-12-31 22:00:00+00'",
        ),
        ("DECIMAL(20,2)", "-5.50", "7", "-5.5"),
        ("INTEGER", "-5", "7", "-5"),
        ("DOUBLE", "-0.5", "0.5", "-0.0"),
        ("BLOB", "'\\x00'", "'\\xFF'", "'\\x01'"),
        ("BOOLEAN", "false", "true", "false"),
    ],
)
def test_keys_of_each_type_are_found(lake: Storage, kind: str, low: str, high: str, inside: str) -> None:
    values = f"SELECT k::{kind} AS k FROM (VALUES ({low}), ({high}), ({inside})) t(k)"
    lake.change(f"SELECT DISTINCT k FROM ({values})")
    before = len(lake.content())
    assert lake.change(f"SELECT ({inside})::{kind} AS k", key=["k"]) == Outcome(before, 1, 1)
    outside = {"BOOLEAN": "NULL", "DOUBLE": "9", "BLOB": "'zzz'", "VARCHAR": "'z'"}.get(kind)
    if outside:
        assert lake.change(f"SELECT ({outside})::{kind} AS k", key=["k"]).deleted == 0


def test_rows_of_a_file_without_the_column_have_null(three_files: Storage) -> None:
    assert three_files.change(columns={"tenant": "VARCHAR"}, delete_where="tenant = 'x'") == Outcome(3000, 0, 0)
    new = "SELECT 5::BIGINT AS id, NULL::VARCHAR AS tenant"
    assert three_files.change(new, key=["tenant", "id"]) == Outcome(3000, 1, 1)
    assert three_files.change("SELECT 'x' AS region, 6::BIGINT AS id", key=["region"]) == Outcome(3001, 1, 0)
    assert three_files.change("SELECT NULL::VARCHAR AS zone", key=["zone"]) == Outcome(1, 1, 3001)


EVERY_TYPE = """
    SELECT n, n::UTINYINT AS u1, n::USMALLINT AS u2, 4294967295::UINTEGER AS u4, 18446744073709551615::UBIGINT AS u8,
        n::TINYINT AS s1, n::SMALLINT AS s2, 0.1::FLOAT AS f, 1e300 AS d,
        123456789012345678901234567890.12345678::DECIMAL(38,8) AS dec, true AS ok, 'ä😀' AS text,
        '{"a": 1}'::JSON AS js,
        '\\x00\\xFF'::BLOB AS bytes, DATE '1899-12-31' AS day, TIME '23:59:59.999999' AS clock,
        TIMESTAMP '1969-12-31 23:59:59.999999' AS naive, TIMESTAMPTZ '2026-01-01 12:00:00.000001+05:30' AS zoned,
        '2026-01-01 00:00:01'::TIMESTAMP_S AS seconds, '2026-01-01 00:00:00.123456789'::TIMESTAMP_NS AS nanos,
        '6ccd780c-baba-1026-9564-5b8c656024db'::UUID AS uuid, [1, NULL]::INTEGER[] AS list,
        {'a': 1, 'b c': [{'d': 'x'}]} AS struct, MAP {'k': 1.5} AS map, 'x'::ENUM('x', 'y') AS word
    FROM (VALUES (1)) t(n)
"""


def test_every_type_is_stored_without_a_loss(lake: Storage) -> None:
    lake.change(EVERY_TYPE)
    found = {field.name: str(field.field_type) for field in lake.catalog.load_table((SCHEMA, TABLE)).schema().fields}
    assert {name: kind for name, kind in found.items() if name not in ("list", "struct", "map")} == {
        "n": "int", "u1": "int", "u2": "int", "u4": "long", "u8": "decimal(20, 0)", "s1": "int", "s2": "int",
        "f": "float", "d": "double", "dec": "decimal(38, 8)", "ok": "boolean",
        "text": "string", "js": "string", "bytes": "binary", "day": "date", "clock": "time", "naive": "timestamp",
        "zoned": "timestamptz", "seconds": "timestamp", "nanos": "timestamp", "uuid": "string", "word": "string",
    }  # fmt: skip
    columns = dict(lake.table().read().columns)
    assert columns["list"] == "INTEGER[]"
    assert columns["struct"] == 'STRUCT(a INTEGER, "b c" STRUCT(d VARCHAR)[])'
    assert columns["map"] == "MAP(VARCHAR, DECIMAL(2,1))"
    import duckdb

    casts = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in columns.items())
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        expected = db.execute(f"SELECT {casts} FROM ({EVERY_TYPE})").fetchall()
    assert lake.content("n") == expected
    # The second change is checked against the types in which the first one was stored, and reads all of them.
    assert lake.change(EVERY_TYPE, key=["u8"]) == Outcome(1, 1, 1)
    assert lake.content("n") == expected


def test_values_that_iceberg_does_not_have_are_an_error(lake: Storage) -> None:
    for kind in ("TIMESTAMP", "DATE", "TIMESTAMPTZ"):
        with pytest.raises(ArrivalError, match=r"nothing was changed: .*column until contains an infinite value"):
            lake.change(f"SELECT '-infinity'::{kind} AS until")
    lake.change("SELECT NULL::TIMESTAMP AS until")
    with pytest.raises(ArrivalError, match="no Iceberg type for UNION"):
        lake.change("SELECT 1 AS x", columns={"x": "UNION(a INTEGER)"})
    assert lake.content() == [(None,)]


def disturbed(lake: Storage, monkeypatch: pytest.MonkeyPatch, disturb: Callable[[], Any]) -> None:
    """Something happens after the files of the next change are written, and before its commit."""
    write = IcebergChange.write

    def then(change: IcebergChange) -> None:
        write(change)
        monkeypatch.setattr(IcebergChange, "write", write)
        disturb()

    monkeypatch.setattr(IcebergChange, "write", then)


@pytest.mark.parametrize("state_only", [False, True])
@pytest.mark.parametrize("foreign", [False, True])
def test_a_commit_after_another_one_changes_nothing(
    lake: Storage, monkeypatch: pytest.MonkeyPatch, state_only: bool, foreign: bool
) -> None:
    if foreign:
        lake.catalog.create_namespace(SCHEMA)
        lake.create(THOUSAND.format(0))  # pyiceberg would repeat an append
    else:
        lake.change(THOUSAND.format(0))
    other = None if state_only else THOUSAND.format(1)
    disturbed(lake, monkeypatch, lambda: lake.change(other, state={"by": "other"}))
    with pytest.raises(ArrivalError, match=r"was changed by another program .*; nothing was changed\. Run it again"):
        lake.change(THOUSAND.format(2), state={"by": "first"})
    assert lake.table().read().state == {"by": "other"}
    assert len(lake.content()) == (1000 if state_only else 2000)
    assert len(on_disk(lake)) == (1 if state_only else 2)
    lake.change(THOUSAND.format(2), state={"by": "first"})
    assert len(lake.content()) == (2000 if state_only else 3000)


def test_a_table_that_another_process_creates_meanwhile_is_not_replaced(
    lake: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed(lake, monkeypatch, lambda: lake.change(THOUSAND.format(1), state={"by": "other"}))
    with pytest.raises(ArrivalError, match="was changed by another program"):
        lake.change(THOUSAND.format(0))
    assert lake.table().read().state == {"by": "other"}
    assert len(lake.content()) == 1000


def test_a_commit_whose_answer_is_lost_counts(three_files: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = SqlCatalog.commit_table

    def lost(*arguments: Any) -> Any:
        commit(*arguments)
        raise OSError(104, "Connection reset by peer")

    monkeypatch.setattr(SqlCatalog, "commit_table", lost)
    assert three_files.change(THOUSAND.format(2), key=["id"], state={"n": 9}) == Outcome(3000, 1000, 1000)
    assert three_files.table().read().state == {"n": 9}
    assert len(three_files.content()) == 3000


def test_a_commit_that_fails_changes_nothing(three_files: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    state = three_files.table().read()

    def fail(*_: Any) -> Any:
        raise OSError(104, "Connection reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", fail)
        with pytest.raises(ArrivalError, match=r"nothing was changed: ConnectionResetError: .*reset by peer"):
            three_files.change(THOUSAND.format(1), key=["id"])
    assert three_files.table().read() == state
    assert len(three_files.content()) == 3000


def test_a_change_that_cannot_be_written_leaves_no_file_behind(
    three_files: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, state = on_disk(three_files), three_files.table().read()

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(IcebergChange, "_stage", full)
        with pytest.raises(ArrivalError, match=r"nothing was changed: OSError: .*No space left on device"):
            three_files.change(THOUSAND.format(1), key=["id"])
    assert on_disk(three_files) == before
    assert three_files.table().read() == state


def test_an_unknown_outcome_is_not_called_a_failure(three_files: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = SqlCatalog.commit_table

    def gone(*_: Any) -> Any:
        raise OSError(104, "Connection reset by peer")

    def lost(*arguments: Any) -> Any:
        commit(*arguments)
        patch.setattr(SqlCatalog, "load_table", gone)
        gone()

    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", lost)
        with pytest.raises(ArrivalError, match="not known whether the change was committed"):
            three_files.change(THOUSAND.format(3), state={"n": 3})
    assert three_files.table().read().state == {"n": 3}
    assert len(three_files.content()) == 4000  # its files were not removed


def test_a_partitioned_table_is_refused(lake: Storage) -> None:
    from pyiceberg.transforms import IdentityTransform

    lake.change(THOUSAND.format(0))
    with lake.catalog.load_table((SCHEMA, TABLE)).update_spec() as update:
        update.add_field("_file", IdentityTransform())
    with pytest.raises(ArrivalError, match=r"raw\.orders in Iceberg catalog lake is partitioned"):
        lake.table().read()


def test_a_catalog_that_cannot_be_used_is_one_line_without_secrets(
    lake: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", "postgresql+psycopg2://lakehouse:s3cr3t-pw@127.0.0.1:1/none")
    with pytest.raises(ArrivalError) as raised:
        lake.table().read()
    assert "LAKEHOUSE_ICEBERG_CATALOG is lake" in str(raised.value)
    assert "s3cr3t-pw" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_properties_of_a_table_keep_few_old_versions(lake: Storage) -> None:
    lake.change(THOUSAND.format(0), state={"cursor": "x"})
    properties = lake.catalog.load_table((SCHEMA, TABLE)).properties
    assert properties["lakehouse.arrival-state"] == '{"cursor": "x"}'
    assert properties["commit.retry.num-retries"] == "0"
    assert properties["write.metadata.previous-versions-max"] == "20"


def test_a_query_reads_only_the_columns_it_names(three_files: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakehouse_analytics.arrivals.raw_tables import iceberg

    read: list[list[str]] = []
    copy = iceberg._copy

    def recorded(db: Any, table: Any, columns: Any, *rest: Any) -> None:
        read.append(list(columns))
        copy(db, table, columns, *rest)

    monkeypatch.setattr(iceberg, "_copy", recorded)
    table = three_files.table()
    assert list(table.query("SELECT DISTINCT _FILE FROM {table} ORDER BY 1")) == [(f"file-{n}",) for n in range(3)]
    assert list(table.query("SELECT count(*) FROM {table}")) == [(3000,)]
    assert len(table.query("SELECT * FROM {table}")) == 3000
    assert read == [["_file"], ["id"], ["id", "_file", "day"]]


def test_rows_are_read_by_the_condition_with_the_right_meaning(three_files: Storage) -> None:
    before = three_files.table().read()
    with pytest.raises(ArrivalError, match="nothing was changed"):
        three_files.change(delete_where="day = 'no date'")
    assert three_files.table().read() == before
    assert three_files.change(delete_where="day = '2026-01-02' AND id = 1001") == Outcome(2999, 0, 1)
    change = Change({}, [], {}, delete_where="day::VARCHAR LIKE '%-03' AND id % 2 = 0")
    assert three_files.table().apply(change, three_files.table().read()) == Outcome(2499, 0, 500)
