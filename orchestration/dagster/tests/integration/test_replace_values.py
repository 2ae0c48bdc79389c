"""`replace_window` by the values of a column, against a full rebuild: exactly the rows of the run's values change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.engines.duckdb.database import connect
from postgres_server import postgres_server

from .databases import Postgres
from .stack import stack_environment
from .test_atomic_writes import FILES as PROJECT
from .test_atomic_writes import SCHEMA, Lake, Row, asking_trino, lake_on

#: Values that need quotes in SQL, JSON or Jinja, and one that is a prefix of another.
VALUES = ["IT", "ITA", "it's", 'say "ja"', "Köln 数量", "{{ x }} %s \\", "null"]
Drawn = tuple[str, int]


def by_region(columns: str, where: str, more: str = "") -> str:
    return f"""
        {{{{ config(materialized='incremental', incremental_strategy='replace_window', {more}) }}}}
        select {columns} from {{{{ target.database }}}}.{SCHEMA}.raw where {where}
        """


FILES = {
    "dbt_project.yml": PROJECT["dbt_project.yml"],
    "models/regions.sql": by_region("id, region", "{{ in_partition('region') }}"),
    "models/numbers.sql": by_region("id, region", "{{ in_partition('id', 'bigint') }}"),
    # It returns every row, whatever the run's values are.
    "models/leaky.sql": by_region("id, region", "true"),
    # They return every row, whatever the run's window is.
    **{
        f"models/late_{column}.sql": f"""
            {{{{ config(materialized='incremental', incremental_strategy='replace_window', event_time='{column}') }}}}
            select {column} from {{{{ target.database }}}}.{SCHEMA}.raw_times
            """
        for column in ("day", "moment")
    },
    "models/renamed.sql": by_region("id, region as land", "{{ in_partition('region') }}"),
}


def set_values(by: str, values: Sequence[str] = ()) -> str:
    return json.dumps({"by": by, "values": [*values]}) if values else ""


def run(lake: Lake, model: str, *values: str, by: str = "region", options: Sequence[str] = ()) -> str:
    """Run a model for some values; the error, or nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_PARTITION_VALUES", json.dumps({"by": by, "values": values}) if values else "")
        return lake.run(model, None, *options)


def fill(lake: Lake, rows: Sequence[Drawn]) -> None:
    """Make these the raw rows."""
    lake.ask(f"delete from {SCHEMA}.raw")
    if rows:
        drawn = ", ".join("({}, '{}')".format(number, region.replace("'", "''")) for region, number in rows)
        lake.ask(f"insert into {SCHEMA}.raw values {drawn}")


def stored(lake: Lake, model: str = "regions") -> Counter[Row]:
    return Counter(lake.ask(f"select region, id from {SCHEMA}.{model}"))


@pytest.fixture(scope="module")
def duckdb_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    path = tmp_path_factory.mktemp("duckdb") / "lakehouse.duckdb"

    def ask(statement: str) -> list[Row]:
        with connect(path, read_only=False, timeout=10) as connection:
            return connection.execute(statement).fetchall()

    ask(f"create schema {SCHEMA}")
    with lake_on("local", path.parent, {"LAKEHOUSE_DUCKDB_PATH": str(path)}, ask, FILES) as lake:
        yield lake


@pytest.fixture(scope="module")
def postgres_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with postgres_server() as server:
        database = Postgres("lakehouse", server.url("postgres"))
        database.ask(f"create schema {SCHEMA}")
        path = tmp_path_factory.mktemp("postgres")
        with lake_on("postgres", path, database.environment, database.ask, FILES) as lake:
            yield lake


@pytest.fixture(scope="module")
def trino_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    environment = stack_environment()
    environment["REQUESTS_CA_BUNDLE"] = environment["LAKEHOUSE_TRINO_CA_BUNDLE"]
    ask = asking_trino(environment)
    ask(f"drop schema if exists {SCHEMA} cascade")
    ask(f"create schema {SCHEMA}")
    with lake_on("trino", tmp_path_factory.mktemp("trino"), environment, ask, FILES) as lake:
        yield lake
    ask(f"drop schema {SCHEMA} cascade")


@pytest.fixture(
    params=["duckdb", "postgres", pytest.param("trino", marks=[pytest.mark.integration, pytest.mark.trino])]
)
def lake(request: pytest.FixtureRequest) -> Lake:
    """A lake with an empty table `raw`, and no other."""
    found: Lake = request.getfixturevalue(f"{request.param}_lake")
    found.drop_all()
    found.ask(f"create table {SCHEMA}.raw (id bigint, region varchar)")
    return found


def test_a_run_replaces_exactly_the_rows_of_its_value(lake: Lake) -> None:
    fill(lake, [("IT", 1), ("IT", 2), ("DE", 1)])
    assert not run(lake, "regions", "IT")
    assert stored(lake) == Counter([("IT", 1), ("IT", 2)])
    assert not run(lake, "regions", "DE")
    fill(lake, [("IT", 2), ("IT", 2), ("IT", 3), ("DE", 9)])
    assert not run(lake, "regions", "IT")
    assert stored(lake) == Counter([("IT", 2), ("IT", 2), ("IT", 3), ("DE", 1)])
    fill(lake, [])
    assert not run(lake, "regions", "IT")
    assert stored(lake) == Counter([("DE", 1)])


rows = st.lists(st.tuples(st.sampled_from(VALUES), st.integers(0, 3)), max_size=12)
chosen = st.lists(st.sampled_from(VALUES), min_size=1, max_size=3, unique=True)


def test_it_equals_a_rebuild_of_the_values_whatever_they_are(lake: Lake) -> None:
    assert not run(lake, "regions", *VALUES)

    @given(before=rows, after=rows, values=chosen)
    @settings(max_examples=4, deadline=None, database=None)
    def drawn(before: list[Drawn], after: list[Drawn], values: list[str]) -> None:
        fill(lake, before)
        assert not run(lake, "regions", *VALUES)
        assert stored(lake) == Counter(before)
        fill(lake, after)
        assert not run(lake, "regions", *values)
        kept = [row for row in before if row[0] not in values]
        assert stored(lake) == Counter(kept + [row for row in after if row[0] in values])

    drawn()


def test_the_values_of_a_number_are_compared_as_numbers(lake: Lake) -> None:
    fill(lake, [("a", 7), ("b", 70)])
    assert not run(lake, "numbers", "7", "70", by="id")
    fill(lake, [("c", 7), ("d", 70)])
    assert not run(lake, "numbers", "7", by="id")
    assert stored(lake, "numbers") == Counter([("c", 7), ("b", 70)])


def test_rows_of_other_values_and_of_none_fail_the_run_and_change_nothing(lake: Lake) -> None:
    fill(lake, [("IT", 1)])
    assert not run(lake, "leaky", "IT")
    fill(lake, [("IT", 2), ("DE", 2)])
    assert "region of a row is DE, which is not a value of this run" in run(lake, "leaky", "IT")
    fill(lake, [("IT", 2)])
    lake.ask(f"insert into {SCHEMA}.raw values (3, null)")
    assert "region of a row is null" in run(lake, "leaky", "IT")
    assert stored(lake, "leaky") == Counter([("IT", 1)])


def test_rows_of_other_numbers_fail_the_run(lake: Lake) -> None:
    fill(lake, [("IT", 1)])
    assert not run(lake, "leaky", "1", by="id")
    fill(lake, [("IT", 1), ("IT", 2)])
    assert "id of a row is 2, which is not a value of this run" in run(lake, "leaky", "1", by="id")
    assert stored(lake, "leaky") == Counter([("IT", 1)])


@pytest.mark.parametrize("column", ["day", "moment"])
def test_rows_outside_of_the_window_fail_the_run(lake: Lake, column: str) -> None:
    window = ("--event-time-start", "2026-03-01", "--event-time-end", "2026-03-02")
    lake.ask(f"create table {SCHEMA}.raw_times (day date, moment timestamp)")
    lake.ask(f"insert into {SCHEMA}.raw_times values (date '2026-03-01', timestamp '2026-03-01 10:00:00')")
    for _ in range(2):
        lake.built(f"late_{column}", None, *window)
    lake.ask(f"insert into {SCHEMA}.raw_times values (date '2026-03-02', timestamp '2026-03-02 10:00:00')")
    error = lake.run(f"late_{column}", None, *window)
    assert f"{column} of a row is 2026-03-02" in error
    assert "outside the window 2026-03-01" in error
    assert len(lake.ask(f"select * from {SCHEMA}.late_{column}")) == 1


def test_a_run_without_values_or_of_a_part_is_refused(lake: Lake) -> None:
    fill(lake, [("IT", 1), ("DE", 1)])
    assert "in_partition('region') has no values" in run(lake, "regions")
    assert "regions" not in lake.relations()
    # Commands that only read need none.
    assert lake.dbt("compile", "--select", "regions").exit_code == 0
    assert not run(lake, "regions", "IT")
    assert "in_partition('region') has no values" in run(lake, "regions")
    assert "--full-refresh with some values" in run(lake, "regions", "IT", options=["--full-refresh"])
    assert stored(lake) == Counter([("IT", 1)])
    assert not run(lake, "renamed", "IT")
    assert "partitioned by 'region', which is not one of its columns: id, land" in run(lake, "renamed", "IT")


@pytest.mark.integration
@pytest.mark.trino
def test_readers_on_trino_see_one_commit(trino_lake: Lake) -> None:
    trino_lake.drop_all()
    trino_lake.ask(f"create table {SCHEMA}.raw (id bigint, region varchar)")
    fill(trino_lake, [("IT", 1), ("DE", 1)])
    assert not run(trino_lake, "regions", "IT", "DE")
    commits = f'select count(*) from {SCHEMA}."regions$snapshots"'
    before = trino_lake.ask(commits)[0][0]
    fill(trino_lake, [("IT", 2)])
    assert not run(trino_lake, "regions", "IT")
    assert trino_lake.ask(commits) == [(before + 1,)]
