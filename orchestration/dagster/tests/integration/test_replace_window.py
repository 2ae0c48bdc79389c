"""`replace_window` against a delete and an insert written in Python, and on windows larger than a Trino worker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.engines.duckdb.database import connect

from .equality_deletes import delete_equal
from .stack import Stack, own_stack
from .test_atomic_writes import FILES as PROJECT
from .test_atomic_writes import FIRST, SCHEMA, Lake, Reader, Row, asking_trino, lake_on

trino = [pytest.mark.integration, pytest.mark.trino, pytest.mark.nightly]

DAY = "2026-01-02"
#: Rows of one day, about 1 kB each in memory.
MANY = 180_000
BUCKETS = 4096


def windowed(columns: str, partitioning: str | None = "day(happened_at)", **meta: object) -> str:
    properties = {"partitioning": f"ARRAY['{partitioning}']"} if partitioning else {"format": "'PARQUET'"}
    return f"""
        {{{{ config(
            materialized='incremental', incremental_strategy='replace_window', event_time='happened_at', meta={meta},
            properties={properties}, post_hook='{{{{ compact_window() }}}}',
        ) }}}}
        select {columns} from {{{{ target.database }}}}.{SCHEMA}.raw
        """


COLUMNS = 'id, happened_at, "Straße", nested'
FILES = {
    "dbt_project.yml": PROJECT["dbt_project.yml"],
    "models/odd.sql": windowed(COLUMNS),
    "models/odd_in_pieces.sql": windowed(COLUMNS, window_piece="5h"),
    # `optimize` of one day fails on a table of several partition specs, so this model does without it.
    "models/evolved.sql": windowed(COLUMNS).replace("{{ compact_window() }}", "select 1"),
    "models/unpartitioned.sql": windowed(COLUMNS, None),
    "models/wide.sql": windowed(f"{COLUMNS}, amount"),
    "models/wide_in_pieces.sql": windowed(f"{COLUMNS}, amount", window_piece="6h"),
    "models/by_date.sql": windowed("id, cast(happened_at as date) as happened_at", "happened_at", window_piece="6h"),
    "models/mistaken.sql": windowed("id, happened_at", window_piece="6 hours"),
    "models/buckets.sql": f"""
        {{{{ config(materialized='table') }}}}
        {{%- set stored = api.Relation.create(database=target.database, schema='{SCHEMA}', identifier='raw') %}}
        {{%- set columns = adapter.get_columns_in_relation(stored) %}}
        {{%- set time = columns | selectattr('name', 'equalto', 'happened_at') | first %}}
        select {{{{ row_bucket(columns, time, 'stored', {BUCKETS}) }}}}
            as bucket
        from {{{{ stored }}}} as stored
        """,
}


# --- The same rows as a delete and an insert

minutes = st.integers(0, 4 * 24 * 60 - 1)
texts = st.sampled_from([None, "", "it's", "ä", "数量"])
#: Few ids and texts, so that equal rows are common; a stored row may have no time.
stored_rows = st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), minutes), texts), max_size=15)
new_rows = st.lists(st.tuples(st.integers(0, 3), minutes, texts), max_size=15)
windows = st.tuples(st.integers(0, 95), st.integers(1, 48)).map(lambda drawn: (drawn[0], min(96, sum(drawn))))
models = st.sampled_from(["odd", "odd_in_pieces"])
Drawn = tuple[int, int | None, str | None]


def moment(minute: int | None) -> datetime | None:
    return None if minute is None else FIRST + timedelta(minutes=minute)


def fill(lake: Lake, table: str, rows: Sequence[Drawn]) -> None:
    """Make these the rows of the table; each has a nested value of its id and text."""
    nested = "row(a bigint, b varchar)" if lake.is_trino else "struct(a bigint, b varchar)"
    lake.ask(f"delete from {SCHEMA}.{table}")
    if not rows:
        return
    values = ", ".join(
        f"({number}, {literal(None if minute is None else str(moment(minute)))}, {literal(text)})"
        for number, minute, text in rows
    )
    lake.ask(f"""
        insert into {SCHEMA}.{table}
        select id, cast(moment as timestamp), text, cast(row(id, text) as {nested})
        from (values {values}) as drawn (id, moment, text)
    """)


def literal(text: str | None) -> str:
    return "cast(null as varchar)" if text is None else "'" + text.replace("'", "''") + "'"


def empty_raw(lake: Lake) -> None:
    nested = "row(a bigint, b varchar)" if lake.is_trino else "struct(a bigint, b varchar)"
    lake.ask(f'create table {SCHEMA}.raw (id bigint, happened_at timestamp, "Straße" varchar, nested {nested})')


def replaced(lake: Lake, model: str, window: tuple[int, int]) -> None:
    """Run the model on a window of hours."""
    start, end = (str(FIRST + timedelta(hours=hour)) for hour in window)
    lake.built(model, None, "--event-time-start", start, "--event-time-end", end)


def content(lake: Lake, model: str) -> Counter[Row]:
    found = lake.ask(f'select id, happened_at, "Straße", nested.a, nested.b from {SCHEMA}.{model}')
    return Counter((number, at and at.replace(tzinfo=None), text, a, b) for number, at, text, a, b in found)


def rows_of(drawn: Sequence[Drawn]) -> Counter[Row]:
    return Counter((number, moment(minute), text, number, text) for number, minute, text in drawn)


def check(lake: Lake, model: str, before: list[Drawn], rows: list[Drawn], window: tuple[int, int]) -> None:
    def inside(row: Drawn) -> bool:
        return row[1] is not None and window[0] * 60 <= row[1] < window[1] * 60

    new = [row for row in rows if inside(row)]
    fill(lake, model, before)
    fill(lake, "raw", new)
    replaced(lake, model, window)
    assert content(lake, model) == rows_of([row for row in before if not inside(row)] + new)


@pytest.fixture(scope="module")
def duckdb_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    path = tmp_path_factory.mktemp("duckdb") / "lakehouse.duckdb"

    def ask(statement: str) -> list[Row]:
        with connect(path, read_only=False, timeout=10) as connection:
            return connection.execute(statement).fetchall()

    ask(f"create schema {SCHEMA}")
    with lake_on("local", path.parent, {"LAKEHOUSE_DUCKDB_PATH": str(path)}, ask, FILES) as lake:
        empty_raw(lake)
        for model in ("odd", "odd_in_pieces"):
            lake.built(model)
        yield lake


@given(model=models, before=stored_rows, rows=new_rows, window=windows)
@settings(max_examples=6, deadline=None)
def test_duckdb_holds_what_a_delete_and_an_insert_leave(
    duckdb_lake: Lake, model: str, before: list[Drawn], rows: list[Drawn], window: tuple[int, int]
) -> None:
    check(duckdb_lake, model, before, rows, window)


# --- On two Trino workers


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with own_stack(tmp_path_factory.mktemp("stack") / "state", workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def two_workers(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    environment = {**stack.env, "REQUESTS_CA_BUNDLE": stack.env["LAKEHOUSE_TRINO_CA_BUNDLE"]}
    ask = asking_trino(environment)
    ask(f"create schema {SCHEMA}")
    with lake_on("trino", tmp_path_factory.mktemp("two_workers"), environment, ask, FILES) as lake:
        yield lake


@pytest.fixture
def lake(two_workers: Lake) -> Lake:
    """Two workers, and no tables but an empty `raw`."""
    two_workers.drop_all()
    empty_raw(two_workers)
    return two_workers


class TestTwoWorkers:
    pytestmark = trino

    def test_trino_holds_what_a_delete_and_an_insert_leave(self, lake: Lake) -> None:
        for name in ("odd", "odd_in_pieces"):
            lake.built(name)

        @given(model=models, before=stored_rows, rows=new_rows, window=windows)
        @settings(max_examples=10, deadline=None, database=None)
        def drawn(model: str, before: list[Drawn], rows: list[Drawn], window: tuple[int, int]) -> None:
            check(lake, model, before, rows, window)

        drawn()

    def test_rows_of_two_partition_specs_are_replaced(self, lake: Lake) -> None:
        before = [(1, 60 * hour, "ä") for hour in range(96)]
        lake.built("evolved")
        fill(lake, "evolved", before)
        partitioning = "array['day(happened_at)', 'bucket(id, 2)']"
        lake.ask(f"alter table {SCHEMA}.evolved set properties partitioning = {partitioning}")
        lake.ask(f"insert into {SCHEMA}.evolved select * from {SCHEMA}.evolved")
        fill(lake, "raw", [(2, 60 * 30, None)])
        replaced(lake, "evolved", (24, 48))
        kept = [row for row in before if not 24 * 60 <= row[1] < 48 * 60]
        assert content(lake, "evolved") == rows_of([*kept, *kept, (2, 60 * 30, None)])
        assert lake.ask(f'select count(distinct spec_id) from {SCHEMA}."evolved$files"') == [(2,)]

    def test_rows_that_an_equality_delete_removed_stay_removed(
        self, lake: Lake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pyiceberg.catalog import load_catalog
        from pyiceberg.utils.config import Config

        for name, value in lake.environment.items():
            monkeypatch.setenv(name, value)
        before = [(number, 60 * hour, "ä") for number in range(3) for hour in range(48)]
        lake.built("unpartitioned")
        fill(lake, "unpartitioned", before)
        config: dict[str, Any] = Config().get_catalog_config("lakehouse") or {}
        catalog = load_catalog("lakehouse", **config)
        delete_equal(catalog.load_table(f"{SCHEMA}.unpartitioned"), "id", [1])
        fill(lake, "raw", [(5, 60 * 30, "it's")])
        replaced(lake, "unpartitioned", (24, 48))
        kept = [row for row in before if row[0] != 1 and row[1] < 24 * 60]
        assert content(lake, "unpartitioned") == rows_of([*kept, (5, 60 * 30, "it's")])

    def test_rows_are_spread_over_the_buckets_whatever_is_null(self, lake: Lake) -> None:
        lake.ask(f"""
            insert into {SCHEMA}.raw
            select id, timestamp '{DAY} 00:00:00' + id * interval '1' second, null, null
            from unnest(sequence(1, 9000)) as numbers (id)
        """)
        lake.ask(f"insert into {SCHEMA}.raw select null, happened_at, null, null from {SCHEMA}.raw")
        lake.built("buckets")
        [(rows, without, lowest, highest)] = lake.ask(
            f"select count(*), count_if(bucket is null), min(bucket), max(bucket) from {SCHEMA}.buckets"
        )
        assert (rows, without) == (18_000, 0)
        assert 0 <= lowest < highest < BUCKETS
        # 18,000 balls in 4,096 bins: each bin has 4.4 on average, and 25 in none of 10^9 tries.
        fullest = f"select max(n) from (select count(*) as n from {SCHEMA}.buckets group by bucket)"
        assert lake.ask(fullest)[0][0] < 25

    @pytest.mark.parametrize(
        ("model", "words"),
        [("by_date", "window_piece is 6h, and event_time happened_at is a date"), ("mistaken", "such as 6h")],
    )
    def test_a_piece_that_cannot_be_cut_is_refused(self, lake: Lake, model: str, words: str) -> None:
        fill(lake, "raw", [(1, 60, None)])
        lake.built(model)  # the first build, without a window, is not cut
        assert words in lake.run(model, (0, 1))
        assert not [name for name in lake.relations() if "__dbt_tmp" in name]


class TestLargeWindows:
    pytestmark = trino

    @pytest.fixture(scope="class")
    @staticmethod
    def large(two_workers: Lake) -> Lake:
        two_workers.drop_all()
        make_large(two_workers, amount=1)
        for model in ("wide", "wide_in_pieces"):
            two_workers.built(model)
            two_workers.ask(f"insert into {SCHEMA}.{model} values (-1, null, 'no time', null, 7)")
        make_large(two_workers, amount=2)
        return two_workers

    def test_both_workers_hold_their_part_of_a_window_replaced_in_one_commit(self, large: Lake, tmp_path: Path) -> None:
        before = commits(large, "wide")
        with limited(large, tmp_path, "300MB") as lake, Reader(lake.ask, amounts("wide")) as reader:
            lake.built("wide", (1, 2))
        assert set(reader.seen) <= {(MANY, 1, 1), (MANY, 2, 2)}
        assert commits(large, "wide") == [*before, "overwrite", "replace"]
        assert_replaced(large, "wide")

        [(query,)] = large.ask("""
            select query_id from system.runtime.queries where query like '%merge into%"wide" as stored%'
            and query not like '%runtime%' and state = 'FINISHED' order by created desc limit 1
        """)
        tasks = large.ask(f"select stage_id, processed_input_rows from system.runtime.tasks where query_id = '{query}'")
        stages = {stage: [rows for each, rows in tasks if each == stage] for stage, _ in tasks}
        # The stage of the join reads all old rows, all new rows and the markers.
        [join] = [rows for rows in stages.values() if sum(rows) == 2 * MANY + BUCKETS]
        assert min(join) > 0.4 * sum(join)

    def test_a_window_larger_than_all_workers_is_replaced_in_pieces(self, large: Lake, tmp_path: Path) -> None:
        whole, before = large.ask(f"select count(*), checksum(id), checksum(amount) from {SCHEMA}.wide"), []
        with limited(large, tmp_path, "170MB") as lake:
            assert "EXCEEDED_LOCAL_MEMORY_LIMIT" in lake.run("wide", (1, 2))
            assert large.ask(f"select count(*), checksum(id), checksum(amount) from {SCHEMA}.wide") == whole
            before = commits(large, "wide_in_pieces")
            with Reader(lake.ask, amounts("wide_in_pieces")) as reader:
                lake.built("wide_in_pieces", (1, 2))
        # Between two commits the day has old and new rows, and never more or fewer.
        assert {row[0] for row in reader.seen} == {MANY}
        assert commits(large, "wide_in_pieces") == [*before, *["overwrite"] * 4, "replace"]
        assert_replaced(large, "wide_in_pieces")


def make_large(lake: Lake, amount: int) -> None:
    lake.ask(f"""
        create or replace table {SCHEMA}.raw as
        select
            id, timestamp '{DAY} 00:00:00.000000' + (id % 86400) * interval '1' second as happened_at,
            lpad(cast(id as varchar), 950, 'straße') as "Straße",
            cast(row(id, 'it''s') as row(a bigint, b varchar)) as nested, {amount} as amount
        from unnest(sequence(0, {MANY // 1000 - 1})) as t (thousands)
        cross join unnest(sequence(thousands * 1000, thousands * 1000 + 999)) as u (id)
    """)


def limited(lake: Lake, root: Path, memory: str) -> AbstractContextManager[Lake]:
    """The same lake in a session that may use so much memory on one worker.

    The rows are padded and compress well. By their size on disk, Trino would send the stored rows to every worker.
    """
    limits = {"query_max_memory_per_node": memory, "join_distribution_type": "PARTITIONED"}
    variables = {"LAKEHOUSE_TRINO_SESSION_PROPERTIES": json.dumps(limits)}
    return lake_on("trino", root, {**lake.environment, **variables}, lake.ask, FILES)


def amounts(model: str) -> str:
    where = f"date(happened_at) = date '{DAY}'"
    return f"select count(*), min(amount), max(amount) from {SCHEMA}.{model} where {where}"


def commits(lake: Lake, model: str) -> list[str]:
    return [
        str(name) for (name,) in lake.ask(f'select operation from {SCHEMA}."{model}$snapshots" order by committed_at')
    ]


def assert_replaced(lake: Lake, model: str) -> None:
    sums = 'count(*), checksum(id), checksum(happened_at), checksum("Straße"), checksum(nested.a), sum(amount)'
    assert lake.ask(f"select {sums} from {SCHEMA}.{model} where happened_at is not null") == lake.ask(
        f"select {sums} from {SCHEMA}.raw"
    )
    assert lake.ask(f"select id, amount from {SCHEMA}.{model} where happened_at is null") == [(-1, 7)]
    # `optimize` has applied the delete files of the MERGE.
    assert lake.ask(f'select count(*) from {SCHEMA}."{model}$files" where content > 0') == [(0,)]
