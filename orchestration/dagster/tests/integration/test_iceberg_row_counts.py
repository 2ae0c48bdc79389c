"""Counts from metadata equal Trino's `count(*)`, after any change to a table by any program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.checks.row_count_rules import CountRequest, Counts
from lakehouse_analytics.checks.runner import BatchedCounts, TotalCounts
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.iceberg.catalog import CatalogError, open_catalog
from lakehouse_analytics.iceberg.row_counts import MetadataCounts
from lakehouse_analytics.settings import Settings
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

from .equality_deletes import delete_equal
from .stack import stack_environment

pytestmark = [pytest.mark.integration, pytest.mark.trino]

SCHEMA = f"row_counts_{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}"


class Lake:
    """A schema of its own on the stack, and both ways to count its tables."""

    def __init__(self) -> None:
        self.settings = Settings.load()
        self.trino = TrinoResource.of(self.settings)
        self.database = self.settings.trino_catalog

    @property
    def name(self) -> str:
        """The catalog in pyiceberg's configuration."""
        assert self.settings.iceberg_catalog
        return self.settings.iceberg_catalog

    @property
    def catalog(self) -> Catalog:
        return open_catalog(self.name)

    def relation(self, table: str) -> Relation:
        return Relation(self.database, SCHEMA, table)

    def table(self, name: str) -> Table:
        return self.catalog.load_table((SCHEMA, name))

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self.trino.fetch_all(statement)

    def known(self, *tables: str) -> dict[str, int]:
        relations = [self.relation(table) for table in tables]
        found = MetadataCounts(self.name, database=self.database, fetch_all=self.trino.fetch_all).rows(relations)
        return {relation.name: rows for relation, rows in found.items()}

    def true(self, *tables: str) -> dict[str, int]:
        answers = BatchedCounts(self.trino.fetch_all, TotalCounts(), self.trino.max_stages).count(
            [CountRequest(str(self.relation(table))) for table in tables]
        )
        assert all(isinstance(answer, Counts) for answer in answers), answers
        return {table: answer.rows for table, answer in zip(tables, answers, strict=True)}  # type: ignore[union-attr]


@contextmanager
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    for name, value in stack_environment().items():
        monkeypatch.setenv(name, value)
    lake = Lake()
    lake.sql(f"drop schema if exists {lake.database}.{SCHEMA} cascade")
    lake.sql(f"create schema {lake.database}.{SCHEMA}")
    try:
        yield lake
    finally:
        lake.sql(f"drop schema {lake.database}.{SCHEMA} cascade")


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    with stack(monkeypatch) as made:
        yield made


def test_a_count_is_right_after_every_kind_of_commit_of_trino(lake: Lake) -> None:
    t = lake.relation("t")
    numbers = "select i, i % 3, cast(i as varchar) from unnest(sequence({}, {})) as s(i)"
    # What is done, the rows after it, and whether metadata can tell them.
    steps = [
        (f"create table {t} (id integer, part integer, s varchar) with (partitioning = array['part'])", 0, True),
        (f"insert into {t} {numbers.format(1, 90)}", 90, True),
        (f"delete from {t} where id = 10", 89, False),
        (f"delete from {t} where id = 11", 88, False),
        (f"insert into {t} {numbers.format(91, 100)}", 98, False),
        (f"alter table {t} execute optimize", 98, True),
        (f"delete from {t} where part = 0", 65, True),
        (f"alter table {t} add column more bigint", 65, True),
        (f"update {t} set s = 'x' where id < 20", 65, False),
        (
            f"merge into {t} using (values (1, 1), (2, 2), (1000, 1)) as n (id, part) on {t}.id = n.id "
            "when matched and n.id = 1 then delete when matched then update set s = 'y' "
            "when not matched then insert (id, part) values (n.id, n.part)",
            65,
            False,
        ),
        (f"alter table {t} execute optimize where part = 1", 65, False),
        (f"alter table {t} execute optimize", 65, True),
        (f"alter table {t} set properties partitioning = array['part', 'bucket(id, 2)']", 65, True),
        (f"insert into {t} (id, part) values (2000, 0), (null, null)", 67, True),
        (f"delete from {t} where id is null", 66, False),
        (f"truncate table {t}", 0, True),
        (f"insert into {t} (id, part) values (1, 1)", 1, True),
        (f"create or replace table {t} as select 1 as id, 2 as part union all select 2, 3", 2, True),
        (f"delete from {t}", 0, True),
    ]
    for statement, rows, is_known in steps:
        lake.sql(statement)
        assert lake.true("t") == {"t": rows}, statement
        assert lake.known("t") == ({"t": rows} if is_known else {}), statement


def test_a_count_is_right_after_going_back_and_after_maintenance(lake: Lake) -> None:
    t = lake.relation("t")
    lake.sql(f"create table {t} as select i from unnest(sequence(1, 10)) as s(i)")
    before = lake.table("t").metadata.current_snapshot_id
    lake.sql(f"delete from {t} where i < 4")
    assert lake.known("t") == {}
    lake.sql(f"alter table {t} execute rollback_to_snapshot({before})")
    assert lake.known("t") == lake.true("t") == {"t": 10}
    lake.sql(f"delete from {t} where i < 3")
    for procedure in ("optimize", "optimize_manifests", "expire_snapshots(retention_threshold => '0s')"):
        lake.sql(f"alter table {t} execute {procedure}")
        assert lake.known("t") == lake.true("t") == {"t": 8}, procedure


def test_tables_of_every_kind_are_counted_in_one_look(lake: Lake) -> None:
    here = f"{lake.database}.{SCHEMA}"
    lake.sql(f"create table {here}.one as select 1 as x")
    lake.sql(f"create table {here}.first_format with (format_version = 1) as select 1 as x")
    lake.sql(f"create table {here}.orc with (format = 'ORC') as select 1 as x union all select 2")
    lake.sql(f"create table {here}.never_filled (x integer)")
    lake.sql(f"create table {here}.with_no_data as select 1 as x with no data")
    lake.sql(f'create table {here}."Mixed Case" as select 1 as x union all select 2 union all select 3')
    lake.sql(f'create table {here}."quo""te" as select 1 as x')
    lake.sql(f"create view {here}.seen as select * from {here}.one")
    lake.catalog.create_table((SCHEMA, "no_snapshot"), pa.schema([("x", pa.int64())]))
    made = lake.catalog.create_table((SCHEMA, "by_pyiceberg"), pa.schema([("x", pa.int64())]))
    made.append(pa.table({"x": [1, 2, 3, 4]}))
    made.delete("x > 2")  # a rewrite, no delete file
    counted = {
        "one": 1,
        "first_format": 1,
        "orc": 2,
        "never_filled": 0,
        "with_no_data": 0,
        "Mixed Case": 3,
        'quo"te': 1,
        "no_snapshot": 0,
        "by_pyiceberg": 2,
    }
    assert lake.known("missing", "seen", *counted) == lake.true(*counted) == counted


LIES = [
    {},
    # Iceberg's own writers leave counts they do not trust as they were; older ones had no totals.
    {"total-equality-deletes": "0", "added-equality-deletes": None},
    {"total-delete-files": None, "total-equality-deletes": None, "total-position-deletes": None},
    {"total-delete-files": None},
]


@pytest.mark.parametrize("summary", LIES)
def test_a_table_with_equality_deletes_is_never_counted_from_metadata(
    lake: Lake, summary: dict[str, str | None]
) -> None:
    t = lake.relation("t")
    lake.sql(f"create table {t} as select i as id, i % 10 as tens from unnest(sequence(1, 100)) as s(i)")
    delete_equal(lake.table("t"), "id", [1, 2, 2, 1000], summary=summary)
    assert lake.table("t").current_snapshot().summary["total-records"] == "100"  # type: ignore[union-attr,index]
    assert lake.true("t") == {"t": 98}
    assert lake.known("t") == {}
    # What is written after an equality delete is not deleted by it; and so the next snapshots are wrong, too.
    lake.sql(f"insert into {t} values (1, 1)")
    lake.table("t").append(pa.table({"id": [2], "tens": [2]}, lake.table("t").schema().as_arrow()))
    delete_equal(lake.table("t"), "tens", [7])
    assert lake.true("t") == {"t": 90}
    assert lake.known("t") == {}
    lake.sql(f"alter table {t} execute optimize")
    assert lake.true("t") == {"t": 90}
    assert lake.known("t") in ({"t": 90}, {})  # as the totals came to be


PARTS = st.integers(0, 2)
OPERATIONS = st.one_of(
    st.tuples(st.just("insert"), PARTS, st.integers(0, 30)),
    st.tuples(st.just("append"), PARTS, st.integers(1, 30)),
    st.tuples(st.just("delete"), st.integers(2, 7)),
    st.tuples(st.just("delete part"), PARTS),
    st.tuples(st.just("delete equal"), st.lists(st.integers(0, 30), min_size=1, max_size=4)),
    st.tuples(st.just("merge"), st.integers(0, 30), st.integers(1, 30)),
    st.tuples(st.just("replace"), st.integers(0, 30)),
    st.tuples(st.just("optimize")),
    st.tuples(st.just("truncate")),
)


def test_any_sequence_of_writes_leaves_a_right_count_or_none(lake: Lake) -> None:
    is_known: list[bool] = []

    # A fixture for each example would create the schema again each time.
    @settings(max_examples=6, suppress_health_check=[*HealthCheck])
    @given(st.lists(OPERATIONS, min_size=5, max_size=8))
    def run(operations: Sequence[tuple[Any, ...]]) -> None:
        replace(lake, 5)
        for operation in operations:
            apply(lake, *operation)
            known = lake.known("t")
            assert known in ({}, lake.true("t")), operation
            is_known.append(bool(known))

    run()
    assert True in is_known
    assert False in is_known


def replace(lake: Lake, rows: int) -> None:
    lake.sql(
        f"create or replace table {lake.relation('t')} as "
        f"select cast(i as bigint) as id, cast(0 as bigint) as part from unnest(sequence(1, {rows + 1})) as s(i) "
        f"where i <= {rows}"
    )


def apply(lake: Lake, operation: str, *numbers: Any) -> None:
    t = lake.relation("t")
    if operation == "insert":
        part, rows = numbers
        lake.sql(f"insert into {t} select i, {part} from unnest(sequence(1, {rows + 1})) as s(i) where i <= {rows}")
    elif operation == "append":
        part, rows = numbers
        schema = lake.table("t").schema().as_arrow()
        lake.table("t").append(pa.table({"id": [*range(rows)], "part": [part] * rows}, schema))
    elif operation == "delete":
        lake.sql(f"delete from {t} where id % {numbers[0]} = 1")
    elif operation == "delete part":
        lake.sql(f"delete from {t} where part = {numbers[0]}")
    elif operation == "delete equal":
        delete_equal(lake.table("t"), "id", *numbers)
    elif operation == "merge":
        first, rows = numbers
        lake.sql(
            f"merge into {t} using (select i from unnest(sequence({first}, {first + rows})) as s(i)) as n "
            f"on {t}.id = n.i and {t}.part = 1 when matched and n.i % 2 = 0 then delete "
            "when matched then update set part = 2 when not matched then insert (id, part) values (n.i, 1)"
        )
    elif operation == "replace":
        replace(lake, *numbers)
    elif operation == "optimize":
        lake.sql(f"alter table {t} execute optimize")
    else:
        lake.sql(f"truncate table {t}")


def test_a_catalog_that_lags_behind_trino_is_refused(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As after a migration from one catalog to another, if a variable was forgotten."""
    lake.sql(f"create table {lake.relation('t')} as select 1 as x")
    address = f"sqlite:///{tmp_path}/old.db"
    old = SqlCatalog("old", uri=address, **{k: v for k, v in lake.catalog.properties.items() if k.startswith("s3.")})
    old.create_namespace(SCHEMA)
    old.register_table((SCHEMA, "t"), lake.table("t").metadata_location)
    for name, value in stack_environment().items():
        if name.startswith("PYICEBERG_CATALOG__LAKEHOUSE__S3__"):
            monkeypatch.setenv(name.replace("__LAKEHOUSE__", "__OLD__"), value)
    monkeypatch.setenv("PYICEBERG_CATALOG__OLD__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__OLD__URI", address)
    monkeypatch.setenv("LAKEHOUSE_ICEBERG_CATALOG", "old")
    elsewhere = Lake()
    assert elsewhere.known("t") == {"t": 1}
    lake.sql(f"insert into {lake.relation('t')} values 2")
    with pytest.raises(CatalogError, match="old, but that is not the catalog that Trino calls lakehouse"):
        elsewhere.known("t")


def test_a_wrong_password_of_the_catalog_is_told_without_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "PYICEBERG_CATALOG__LAKEHOUSE__URI"
    right = os.environ[variable].split("://")[1].split("@")[0].split(":")[1]
    monkeypatch.setenv(variable, os.environ[variable].replace(right, "wrong-password"))
    with pytest.raises(CatalogError, match="password authentication failed") as caught:
        lake.known("t")
    assert "wrong-password" not in str(caught.value)
    assert right not in str(caught.value)


class Limited:
    """Trino with fewer stages, on which each distinct column costs one."""

    max_stages = 30

    def __init__(self, trino: TrinoResource) -> None:
        limits = {"query_max_stage_count": str(self.max_stages + 1), "distinct_aggregations_strategy": "mark_distinct"}
        self.trino = trino.model_copy(update={"session_properties": limits})
        self.failed = 0
        self.queries = 0

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        self.queries += 1
        try:
            return self.trino.fetch_all(sql)
        except Exception:
            self.failed += 1
            raise

    def known_counts(self, relations: object, *, of: int) -> dict[Relation, int]:
        return {}

    def wait_until_free(self, say: Callable[[str], None]) -> None:
        self.trino.wait_until_free(say)

    def classify_error(self, message: str) -> Any:
        return self.trino.classify_error(message)

    def query_url(self, query_id: str) -> str:
        return self.trino.query_url(query_id)


def test_statements_stay_within_the_stages_of_trino_and_find_the_table_at_fault(lake: Lake) -> None:
    t = lake.relation("t")
    lake.sql(f"create table {t} as select i as a, i % 7 as b, i % 3 as c from unnest(sequence(1, 50)) as s(i)")
    wide, plain = CountRequest(str(t), ("a", "b", "c")), CountRequest(str(t), (), "a")
    trino = Limited(lake.trino)
    answers = BatchedCounts(trino.fetch_all, TotalCounts(), trino.max_stages).count([*[wide] * 10, *[plain] * 60])
    assert {answer.rows for answer in answers if isinstance(answer, Counts)} == {50}
    assert [answer.distinct for answer in answers[:10] if isinstance(answer, Counts)] == [
        {"a": 50, "b": 7, "c": 3}
    ] * 10
    assert (trino.queries, trino.failed) == (4, 0)

    # The same limit refuses one table more.
    too_many = Limited(lake.trino)
    too_many.max_stages = 31
    assert {
        answer.rows
        for answer in BatchedCounts(too_many.fetch_all, TotalCounts(), too_many.max_stages).count([plain] * 31)
        if isinstance(answer, Counts)
    } == {50}
    assert too_many.failed == 1

    missing = CountRequest(str(lake.relation("missing")))
    found = BatchedCounts(trino.fetch_all, TotalCounts(), trino.max_stages).count(
        [*[plain] * 20, missing, *[plain] * 9]
    )
    assert [place for place, answer in enumerate(found) if not isinstance(answer, Counts)] == [20]
    assert "missing" in str(found[20])
    assert trino.failed <= 6
