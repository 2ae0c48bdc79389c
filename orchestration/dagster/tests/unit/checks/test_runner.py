from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC
from math import ceil, log2
from typing import Any

import dagster as dg
import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.checks.history import PastCount
from lakehouse_analytics.checks.row_count_rules import Counts
from lakehouse_analytics.checks.runner import MAX_FAILURES, Counter
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import PERMANENT, DatabaseError, Distributed, Reason
from lakehouse_analytics.engines.duckdb.resource import DuckDBResource
from manifests import Manifest


class Lake:
    """Tables t0, t1, … with as many rows as their number, where they exist; DuckDB in memory."""

    def __init__(self, tables: int, missing: Collection[int] = ()) -> None:
        self.connection = duckdb.connect(":memory:")
        self.connection.execute("attach ':memory:' as lake; use lake")
        for n in set(range(tables)) - {*missing}:
            self.connection.execute(f"create table lake.main.t{n} as select range as id from range({n})")
        self.table_counts: list[int] = []  # tables in each statement
        self.broken: Exception | None = None

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        self.table_counts.append(sql.count("select "))
        if self.broken:
            raise self.broken
        return self.connection.execute(sql).fetchall()

    def wait_until_free(self, say: Callable[[str], None]) -> None:
        pass

    def classify_error(self, message: str) -> Reason:
        return PERMANENT

    def query_url(self, query_id: str) -> str | None:
        return None


class BigLake(Lake):
    """With limits, and a catalog that knows some counts."""

    max_stages = 8

    def __init__(self, tables: int, missing: Collection[int] = (), known: Mapping[str, int] | None = None) -> None:
        super().__init__(tables, missing)
        self.known = known or {}
        self.looked_up: list[str] = []
        self.unreadable: Exception | None = None

    def known_counts(self, relations: Collection[Relation], *, of: int) -> Mapping[Relation, int]:
        self.looked_up += [str(relation) for relation in relations]
        if self.unreadable:
            raise self.unreadable
        return {relation: self.known[relation.name] for relation in relations if relation.name in self.known}


class NoHistory:
    """Checks that have never run."""

    def last(self, key: dg.AssetCheckKey, partition: str | None = None) -> None:
        return None

    def counts(self, key: dg.AssetCheckKey, partition: str | None = None) -> Sequence[PastCount]:
        return ()


def counter(engine: Any) -> Counter:
    return Counter(engine, engine.fetch_all, NoHistory(), accepted=(), zone=UTC)


def tables(number: int, **wanted: Any) -> list[Table]:
    manifest = Manifest()
    ids = [manifest.model(f"t{n}", folder="gold", lakehouse=wanted.get(f"t{n}")) for n in range(number)]
    graph = manifest.graph()
    return [graph.tables[unique_id] for unique_id in ids]


def answers(found: Mapping[str, Any]) -> list[Any]:
    """By the tables' numbers: rows, or why there are none."""
    ordered = [found[f"model.shop.t{n}"] for n in range(len(found))]
    return [answer.rows if isinstance(answer, Counts) else answer for answer in ordered]


def test_an_engine_without_limits_is_asked_once() -> None:
    lake = Lake(200)
    assert answers(counter(lake).count(tables(200))) == [*range(200)]
    assert lake.table_counts == [200]


def test_no_table_is_no_question() -> None:
    lake = BigLake(0)
    assert counter(lake).count([]) == {}
    assert lake.table_counts == []
    assert lake.looked_up == []


def test_an_engine_with_limits_is_asked_in_chunks_by_weight() -> None:
    lake = BigLake(20)
    wanted = {"t3": {"distinct": ["id"]}, "t4": {"distinct": ["id"]}}
    found = counter(lake).count(tables(20, **wanted))
    assert answers(found) == [*range(20)]
    assert lake.table_counts == [6, 8, 6]
    assert found["model.shop.t4"] == Counts(4, {"id": 4})


@settings(max_examples=25)  # each makes its tables
@given(st.integers(1, 60), st.data())
def test_only_missing_tables_go_uncounted_and_few_statements_find_them(number: int, data: st.DataObject) -> None:
    missing = data.draw(st.sets(st.integers(0, number - 1), max_size=3))
    lake = Lake(number, missing)
    found = answers(counter(lake).count(tables(number)))
    assert [n for n, answer in enumerate(found) if answer != n] == sorted(missing)
    assert all(f"t{n} does not exist" in found[n] for n in missing)
    assert len(lake.table_counts) <= 1 + 2 * len(missing) * max(1, ceil(log2(number)))


def test_when_every_statement_fails_not_every_table_is_asked_alone() -> None:
    lake = BigLake(300, missing=range(300))
    found = answers(counter(lake).count(tables(300)))
    assert len(lake.table_counts) == MAX_FAILURES
    assert "t0 does not exist" in found[0]
    assert found[-1].startswith("not counted: 64 statements that count rows have failed, the last: Catalog Error")


def test_an_engine_that_cannot_be_asked_is_asked_once() -> None:
    lake = BigLake(30)
    lake.broken = DatabaseError("the lake is shut")
    assert answers(counter(lake).count(tables(30))) == ["the lake is shut"] * 30
    assert len(lake.table_counts) == 1


def test_what_the_catalog_knows_is_not_asked() -> None:
    # Numbers that no query would give.
    lake = BigLake(5, known={"t1": 100, "t2": 0, "t4": 400})
    assert answers(counter(lake).count(tables(5))) == [0, 100, 0, 3, 400]
    assert lake.table_counts == [2]


def test_tables_of_which_more_than_rows_is_wanted_are_asked() -> None:
    lake = BigLake(3, known={"t0": 100, "t1": 100, "t2": 100})
    wanted = {"t0": {"distinct": ["id"]}, "t1": {"freshness": {"within": "1h", "column": "id"}}}
    found = counter(lake).count(tables(3, **wanted))
    assert lake.looked_up == ['"lake"."main"."t2"']
    assert lake.table_counts == [2]
    assert answers(found) == [0, 1, 100]


def test_a_catalog_that_cannot_be_read_is_a_warning_and_the_tables_are_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lake = BigLake(5, known={"t1": 100})
    lake.unreadable = RuntimeError("LAKEHOUSE_ICEBERG_CATALOG is wrong")
    assert answers(counter(lake).count(tables(5))) == [0, 1, 2, 3, 4]
    assert "metadata could not be read. LAKEHOUSE_ICEBERG_CATALOG is wrong" in caplog.text


def test_duckdb_has_no_limits_and_no_catalog() -> None:
    assert not isinstance(DuckDBResource(path="x"), Distributed)
    assert isinstance(BigLake(0), Distributed)
