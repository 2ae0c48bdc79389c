"""On pyiceberg's own SQL catalog, in a file; integration/test_iceberg_row_counts.py is the same against Trino."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.trino.resource import METADATA_THRESHOLD, TrinoResource
from lakehouse_analytics.iceberg.catalog import CatalogError, open_catalog
from lakehouse_analytics.iceberg.row_counts import MetadataCounts, exact_rows
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

ROWS = pa.table({"id": pa.array([1, 2, 3], pa.int64())})
CLEAN = {
    "total-records": "7",
    "total-delete-files": "0",
    "total-position-deletes": "0",
    "total-equality-deletes": "0",
}


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Catalog]:
    address = f"sqlite:///{tmp_path}/catalog.db"
    SqlCatalog("unit", uri=address).close()  # makes its tables
    monkeypatch.setenv("PYICEBERG_CATALOG__UNIT__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__UNIT__URI", address)
    monkeypatch.setenv("PYICEBERG_CATALOG__UNIT__WAREHOUSE", f"file://{tmp_path}")
    opened = open_catalog("unit")
    opened.create_namespace("s")
    yield opened
    opened.close()


def table(name: str, *, schema: str = "s", catalog: str = "lake") -> Relation:
    return Relation(catalog, schema, name)


class Trino:
    """Answers what the current snapshot is, from the catalog itself."""

    def __init__(self, catalog: Catalog, behind: int = 0) -> None:
        self.catalog, self.behind = catalog, behind
        self.statements: list[str] = []

    def __call__(self, sql: str) -> list[tuple[Any, ...]]:
        self.statements.append(sql)
        name = sql.split('"')[5].removesuffix("$refs").lower()
        current = self.catalog.load_table(("s", name)).metadata.current_snapshot_id
        assert current
        return [(current - self.behind,)]


def count(catalog: Catalog, *relations: Relation, trino: Trino | None = None) -> dict[str, int]:
    found = MetadataCounts("unit", database="lake", fetch_all=trino or Trino(catalog)).rows(relations)
    return {relation.name: rows for relation, rows in found.items()}


def test_appends_overwrites_and_deletes_of_whole_files_are_counted(catalog: Catalog) -> None:
    made = catalog.create_table("s.t", ROWS.schema)
    made.append(ROWS)
    made.append(ROWS)
    assert count(catalog, table("t")) == {"t": 6}
    made.delete("id = 2")  # pyiceberg rewrites the files
    assert count(catalog, table("t")) == {"t": 4}
    made.overwrite(ROWS.slice(0, 1))
    assert count(catalog, table("t")) == {"t": 1}
    made.delete()
    assert count(catalog, table("t")) == {"t": 0}


def test_a_table_without_snapshot_is_empty(catalog: Catalog) -> None:
    catalog.create_table("s.t", ROWS.schema).append(ROWS)
    catalog.create_table("s.new", ROWS.schema)
    assert count(catalog, table("new"), table("t")) == {"new": 0, "t": 3}


def test_nothing_is_told_where_no_snapshot_can_be_compared(catalog: Catalog) -> None:
    catalog.create_table("s.new", ROWS.schema)
    trino = Trino(catalog)
    assert count(catalog, table("new"), trino=trino) == {}
    assert trino.statements == []


def test_what_the_catalog_does_not_know_is_left_out(catalog: Catalog) -> None:
    catalog.create_table("s.t", ROWS.schema).append(ROWS)
    unknown = [table("u"), table("t", schema="elsewhere"), table("t.x"), table("s.t", schema="s")]
    assert count(catalog, *unknown, table("t", catalog="other"), table("t")) == {"t": 3}


def test_names_are_asked_in_lower_case_and_with_their_dots(catalog: Catalog) -> None:
    catalog.create_table(("s", "orders.daily"), ROWS.schema).append(ROWS)
    trino = Trino(catalog)
    assert count(catalog, table("Orders.Daily", schema="S", catalog="LAKE"), trino=trino) == {"Orders.Daily": 3}
    assert '"LAKE"."S"."Orders.Daily$refs"' in trino.statements[0]


def test_of_a_run_with_few_tables_none_is_looked_up() -> None:
    server: dict[str, Any] = {"host": "trino.invalid", "port": 1, "user": "ann", "catalog": "lake"}
    trino = TrinoResource(iceberg_catalog="not_configured", **server)
    assert trino.known_counts([table("t")], of=METADATA_THRESHOLD - 1) == {}
    with pytest.raises(CatalogError, match="not_configured"):
        trino.known_counts([table("t")], of=METADATA_THRESHOLD)


def test_trino_is_asked_once_whether_it_is_the_same_catalog(catalog: Catalog) -> None:
    trino = Trino(catalog)
    counts = MetadataCounts("unit", database="lake", fetch_all=trino)
    catalog.create_table("s.new", ROWS.schema)
    assert counts.rows([table("new")]) == {}  # nothing to compare yet
    for name in ("a", "b", "c"):
        catalog.create_table(f"s.{name}", ROWS.schema).append(ROWS)
        assert counts.rows([table(name), table("new")]) == {table(name): 3, table("new"): 0}
    assert trino.statements == ["""select snapshot_id from "lake"."s"."a$refs" where name = 'main'"""]


def test_another_catalog_under_the_same_names_is_refused(catalog: Catalog) -> None:
    catalog.create_table("s.t", ROWS.schema).append(ROWS)
    with pytest.raises(CatalogError, match="is not the catalog that Trino calls lake: the current snapshot of"):
        count(catalog, table("t"), trino=Trino(catalog, behind=1))


def test_one_table_that_cannot_be_read_is_left_out_and_all_of_them_are_an_error(catalog: Catalog) -> None:
    made = catalog.create_table("s.broken", ROWS.schema)
    made.append(ROWS)
    Path(made.metadata_location.removeprefix("file://")).unlink()
    catalog.create_table("s.t", ROWS.schema).append(ROWS)
    assert count(catalog, table("broken"), table("t")) == {"t": 3}
    with pytest.raises(CatalogError, match=r"none of 1 tables could be read .* FileNotFoundError"):
        count(catalog, table("broken"))


@pytest.mark.parametrize(
    ("summary", "rows"),
    [
        (CLEAN, 7),
        (CLEAN | {"total-records": "0"}, 0),
        # Trino 476 after an INSERT, and after a DELETE of some rows.
        (CLEAN | {"total-data-files": "1", "engine-version": "476", "added-records": "3"}, 7),
        (CLEAN | {"total-delete-files": "1", "total-position-deletes": "1"}, None),
        # An equality delete file; and one whose counts the writer does not trust.
        (CLEAN | {"total-delete-files": "1", "total-equality-deletes": "5"}, None),
        (CLEAN | {"total-delete-files": "1"}, None),
        # After such a one went, Iceberg leaves totals out rather than go below zero.
        ({key: value for key, value in CLEAN.items() if key != "total-delete-files"}, None),
        (CLEAN | {"total-records": "-1"}, None),
        (CLEAN | {"total-records": "²"}, None),
        (CLEAN | {"total-records": ""}, None),
        (CLEAN | {"total-position-deletes": "00"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_rows_are_exact_or_unknown(summary: dict[str, str] | None, rows: int | None) -> None:
    assert exact_rows(summary) == rows


VALUES = st.none() | st.sampled_from(["0", "1", "-1", ""]) | st.text(max_size=3)


@given(st.fixed_dictionaries(dict.fromkeys(CLEAN, VALUES)))
def test_a_count_is_known_only_if_every_total_is_there_and_there_are_no_deletes(values: dict[str, str | None]) -> None:
    rows = exact_rows({key: value for key, value in values.items() if value is not None})
    is_known = rows is not None
    assert is_known == (
        all(values[key] == "0" for key in CLEAN if key != "total-records")
        and bool(values["total-records"])
        and set(values["total-records"] or "") <= set("0123456789")
    )


def versions(catalog: Catalog, *relations: Relation) -> dict[str, str]:
    found = MetadataCounts("unit", database="lake", fetch_all=Trino(catalog)).versions(relations)
    return {relation.name: version for relation, version in found.items()}


def test_a_version_changes_with_the_rows_and_the_columns(catalog: Catalog) -> None:
    from pyiceberg.types import LongType

    made = catalog.create_table("s.t", ROWS.schema)
    made.append(ROWS)
    seen = [versions(catalog, table("t"))["t"]]
    assert versions(catalog, table("t"))["t"] == seen[0]
    made.append(ROWS)
    seen.append(versions(catalog, table("t"))["t"])
    with made.update_schema() as change:
        change.add_column("more", LongType())
    seen.append(versions(catalog, table("t"))["t"])
    made.delete("id = 1")
    seen.append(versions(catalog, table("t"))["t"])
    catalog.drop_table("s.t")
    catalog.create_table("s.t", ROWS.schema).append(ROWS)
    seen.append(versions(catalog, table("t"))["t"])
    assert len({*seen}) == len(seen)
    assert versions(catalog, table("other")) == {}


def test_a_view_is_no_table_also_if_nothing_else_is_read(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "view.json").write_text('{"view-uuid": "x", "format-version": 1, "location": "y", "versions": []}')
    assert isinstance(catalog, SqlCatalog)
    with catalog.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into iceberg_tables (catalog_name, table_namespace, table_name, metadata_location) "
            f"values ('unit', 's', 'v', 'file://{tmp_path}/view.json')"
        )
    assert versions(catalog, table("v")) == {}
    assert count(catalog, table("v")) == {}
