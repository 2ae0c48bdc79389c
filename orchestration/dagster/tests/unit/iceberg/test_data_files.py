"""Reading the rows of a table whose columns have changed since its files were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lakehouse_analytics.iceberg import data_files
from lakehouse_analytics.iceberg.data_files import batch_rows, batches, find, remove, write
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table
from pyiceberg.types import LongType, StringType

ROWS = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int32()),
        "a": [{"b": 1, "c": "x"}, {"b": 2, "c": None}, None],
        "a.z": ["p", "q", None],
        "list": [[1], [], None],
    }
)


@pytest.fixture
def catalog(tmp_path: Path) -> SqlCatalog:
    catalog = SqlCatalog("lake", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    catalog.create_namespace("raw")
    return catalog


@pytest.fixture
def table(catalog: SqlCatalog) -> Table:
    table = catalog.create_table(("raw", "t"), ROWS.schema)
    table.append(ROWS)
    return table


def rows(table: Table, columns: list[str] | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = batches(table, columns=columns).read_all().to_pylist()
    return found


def test_rows_are_read_as_they_were_written(catalog: SqlCatalog, table: Table) -> None:
    assert rows(table) == ROWS.to_pylist()
    assert rows(table, ["a.z", "id"]) == ROWS.select(["id", "a.z"]).to_pylist()
    assert rows(table, ["a"]) == ROWS.select(["a"]).to_pylist()
    assert find(catalog, ("raw", "nothing")) is None


def test_columns_are_found_by_their_ids(table: Table) -> None:
    with table.update_schema(allow_incompatible_changes=True) as change:
        change.update_column("id", LongType())
        change.delete_column(("a.z",))
    with table.update_schema() as change:
        change.rename_column("id", "number")
    with table.update_schema() as change:
        change.add_column("id", StringType())
    expected = [
        {"number": n, "a": row["a"], "list": row["list"], "id": None} for n, row in enumerate(ROWS.to_pylist(), 1)
    ]
    assert rows(table) == expected
    assert rows(table, ["id"]) == [{"id": None}] * 3  # the file has none of the columns
    table.append(pa.table({"number": [4], "a": [None], "list": [[4]], "id": ["x"]}, schema=table.schema().as_arrow()))
    assert sorted(row["number"] for row in rows(table)) == [1, 2, 3, 4]


def test_a_change_inside_a_struct_is_left_to_pyiceberg(table: Table) -> None:
    with table.update_schema() as change:
        change.rename_column(("a", "b"), "renamed")
        change.add_column(("a", "d"), LongType())
    assert [row["a"] for row in rows(table)] == [
        {"renamed": 1, "c": "x", "d": None},
        {"renamed": 2, "c": None, "d": None},
        None,
    ]


def test_files_without_ids_are_read_by_their_names(catalog: SqlCatalog, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = catalog.create_table(("raw", "imported"), ROWS.schema)
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    table.add_files([f"file://{tmp_path}/rows.parquet"])
    assert rows(table) == ROWS.to_pylist()


def test_row_groups_have_a_maximum_size(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    small = pa.table({"id": pa.array(range(100), pa.int32())})
    size = next(data_files.aligned(small.to_batches(max_chunksize=10), table.schema().as_arrow())).nbytes
    for groups, maximum in {10: 1, 5: 2 * size, 4: 3 * size + 1, 1: 1 << 20}.items():
        monkeypatch.setattr(data_files, "_GROUP_BYTES", maximum)
        paths: list[str] = []
        assert write(table.io, table.metadata, small.to_batches(max_chunksize=10), paths) == 100
        [path] = paths
        metadata = pq.read_metadata(path.removeprefix("file://"))
        assert (metadata.num_row_groups, metadata.num_rows) == (groups, 100)


def test_a_file_is_read_and_written_in_parts(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(data_files, "_FILE", 200_000)
    many = pa.table({"id": pa.array(range(200_000), pa.int32())})
    paths: list[str] = []
    assert write(table.io, table.metadata, many.to_batches(50_000), paths) == 200_000
    assert len(paths) > 1
    metadata = [pq.read_metadata(path.removeprefix("file://")) for path in paths]
    # As many batches as fit into the maximum number of rows.
    assert [m.row_group(0).num_rows for m in metadata] == [100_000] * len(paths)
    assert all(1024 <= batch_rows(m) <= data_files.BATCH for m in metadata)
    table.add_files(paths[:1])
    assert max(len(batch) for batch in batches(table)) <= data_files.BATCH // 2
    remove(table.io, paths[1:])
    assert [Path(path.removeprefix("file://")).exists() for path in paths] == [True] + [False] * (len(paths) - 1)
