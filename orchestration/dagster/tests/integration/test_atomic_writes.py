"""What readers of Trino see while dbt replaces windows, tables and seeds: never a gap, a double or half of it.

A small dbt project of its own that takes over the macros of the real one, in a schema of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from lakehouse_analytics.dbt.nodes import manifest_of
from lakehouse_analytics.dbt.run_results import DbtResult
from lakehouse_analytics.dbt.runner import DbtRunner, DbtSession
from lakehouse_analytics.engines.duckdb.database import connect
from lakehouse_analytics.engines.trino.atomic_write_lint import lint
from lakehouse_analytics.engines.trino.temp_relations import stale_temp_relations
from lakehouse_analytics.settings import repository_root

from .stack import stack_environment

pytestmark = [pytest.mark.integration, pytest.mark.trino]

Row = tuple[Any, ...]
Ask = Callable[[str], list[Row]]

SCHEMA = f"atomic_writes_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
DAYS, A_DAY = 40, 24
FIRST = datetime(2026, 1, 1)

#: `leaks` rows are what a model returns without regard to the window.
WINDOWED = """
    {{{{ config(
        materialized='incremental', incremental_strategy='{strategy}', event_time='{time}', meta={meta},
        properties={{'partitioning': "ARRAY['{partition}']"}}, post_hook='{{{{ compact_window() }}}}',
    ) }}}}
    select id, {time}, amount from {{{{ target.database }}}}.{schema}.raw where leaks or {{{{ in_window('{time}') }}}}
    """


def windowed(time: str, partition: str, *, strategy: str = "replace_window", **meta: int) -> str:
    return WINDOWED.format(strategy=strategy, time=time, partition=partition, meta=meta, schema=SCHEMA)


FILES = {
    # The name of the real project: its macros find each other by it.
    "dbt_project.yml": f"""
        name: lakehouse
        version: "1.0"
        profile: lakehouse
        macro-paths: [macros, {json.dumps(str(repository_root() / "dbt" / "macros"))}]
        models: {{+schema: {SCHEMA}, +on_table_exists: replace}}
        seeds: {{+schema: {SCHEMA}}}
        """,
    # replace_window, but standing still between its temporary view and its MERGE while table `gate` has a row.
    "macros/paused.sql": f"""
        {{% macro get_incremental_paused_sql(arg_dict) %}}
            {{% if env_var('ATOMIC_TEST_PAUSE', '') %}}
                {{% do run_query('create table {SCHEMA}.standing_still (x integer)') %}}
                {{% set opened = [] %}}
                {{% for _ in range(2000) if not opened %}}
                    {{% if run_query('select count(*) from {SCHEMA}.gate').columns[0].values()[0] == 0 %}}
                        {{% do opened.append(true) %}}
                    {{% endif %}}
                {{% endfor %}}
            {{% endif %}}
            {{{{ return(get_incremental_replace_window_sql(arg_dict)) }}}}
        {{% endmacro %}}
        """,
    "models/windowed.sql": windowed("happened_at", "day(happened_at)"),
    "models/pieces.sql": windowed("happened_at", "day(happened_at)", window_piece=5),
    "models/by_date.sql": windowed("on_day", "on_day"),
    "models/by_zone.sql": windowed("at_zone", "day(at_zone)"),
    "models/paused.sql": windowed("happened_at", "day(happened_at)", strategy="paused"),
    "models/stock.sql": f"""
        {{{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='id') }}}}
        select id, happened_at, amount from {{{{ target.database }}}}.{SCHEMA}.raw
        where {{{{ in_window('happened_at') }}}}
        """,
    "models/contracted.sql": f"""
        {{{{ config(materialized='table', properties={{'partitioning': "ARRAY['month(happened_at)']"}}) }}}}
        select cast(amount as decimal(12, 2)) as amount, happened_at, 'it' as word, id
        from {{{{ target.database }}}}.{SCHEMA}.raw
        """,
    "models/contracted_increment.sql": f"""
        {{{{ config(
            materialized='incremental', incremental_strategy='merge', unique_key='happened_at', on_schema_change='fail'
        ) }}}}
        select cast(amount as decimal(12, 2)) as amount, happened_at, 'it' as word, id
        from {{{{ target.database }}}}.{SCHEMA}.raw
        """,
    "models/models.yml": """
        models:
          - &contracted
            name: contracted
            description: It's what was promised.
            config: {contract: {enforced: true}, persist_docs: {relation: true, columns: true}}
            columns:
              - {name: id, data_type: bigint, description: Key., constraints: [{type: not_null}]}
              - {name: happened_at, data_type: timestamp}
              - {name: amount, data_type: "decimal(12, 2)"}
              - {name: word, data_type: varchar(1)}
          - <<: *contracted
            name: contracted_increment
        """,
    "seeds/numbers.csv": "id,word\n" + "".join(f"{i},it's {i}\n" for i in range(1500)),
    "seeds/seeds.yml": "seeds: [{name: numbers, config: {column_types: {id: bigint, word: varchar}}}]\n",
}


@dataclass
class Lake:
    """The project on one engine."""

    project: Path
    ask: Ask
    session: DbtSession
    environment: Mapping[str, str]

    def dbt(self, *args: str) -> DbtResult:
        result = self.session.run(args, lambda _level, _message: None, target_path=self.project / "target")
        assert not result.crashed, result.reason
        return result

    def run(self, model: str, window: Sequence[int] | None = None, *options: str) -> str:
        """Run a model, on a window given as numbers of days; the error, or nothing."""
        result = self.dbt("run", "--select", model, *(between(*window) if window else ()), *options)
        [node] = result.nodes.values()
        return "" if node.status == "success" else node.message

    def built(self, model: str, window: Sequence[int] | None = None, *options: str) -> None:
        said = self.run(model, window, *options)
        assert not said, said

    def rows(self, model: str) -> list[Row]:
        return self.ask(f"select * from {SCHEMA}.{model} order by 1, 2")

    def relations(self) -> list[str]:
        found = self.ask(f"select table_name from information_schema.tables where table_schema = '{SCHEMA}'")
        return [str(name) for (name,) in found]

    def drop_all(self) -> None:
        """Drop every table, and the temporary views that failed models left."""
        for name, kind in self.ask(
            f"select table_name, table_type from information_schema.tables where table_schema = '{SCHEMA}'"
        ):
            self.ask(f"drop {'view' if kind == 'VIEW' else 'table'} {SCHEMA}.{name}")

    def fill(self) -> None:
        """The raw rows: as many each day, all of amount 1."""
        hours = 24 // A_DAY
        if self.is_trino:
            ids = f"unnest(sequence(0, {DAYS * A_DAY - 1}))"
            moment, zone = (
                f"timestamp '{FIRST}.000000' + id * interval '{hours}' hour",
                "with_timezone(happened_at, 'UTC')",
            )
        else:
            ids = f"range({DAYS * A_DAY})"
            moment, zone = f"timestamp '{FIRST}' + to_hours(id * {hours})", "happened_at at time zone 'UTC'"
        self.ask(f"""
            create or replace table {SCHEMA}.raw as
            select id, happened_at, cast(happened_at as date) as on_day, {zone} as at_zone, 1 as amount, false as leaks
            from (select id, {moment} as happened_at from {ids} as ids(id)) as rows_of_hours
        """)

    @property
    def is_trino(self) -> bool:
        return "LAKEHOUSE_TRINO_HOST" in self.environment


def between(start: int, end: int) -> list[str]:
    first, last = (str((FIRST + timedelta(days=day)).date()) for day in (start, end))
    return ["--event-time-start", first, "--event-time-end", last]


def asking_trino(environment: dict[str, str]) -> Ask:
    import requests
    import trino

    def ask(statement: str) -> list[Row]:
        session = requests.Session()
        session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
        user, ca_bundle = environment["LAKEHOUSE_TRINO_USER"], environment["LAKEHOUSE_TRINO_CA_BUNDLE"]
        session.verify = ca_bundle
        connection = trino.dbapi.connect(
            host=environment["LAKEHOUSE_TRINO_HOST"],
            port=int(environment["LAKEHOUSE_TRINO_PORT"]),
            http_scheme="https",
            user=user,
            auth=trino.auth.BasicAuthentication(user, environment["LAKEHOUSE_TRINO_PASSWORD"]),
            http_session=session,
            verify=ca_bundle,
            catalog=environment["LAKEHOUSE_TRINO_CATALOG"],
            timezone="UTC",
        )
        with connection, session:
            cursor = connection.cursor()
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()]

    return ask


@contextmanager
def lake_on(
    target: str, root: Path, environment: Mapping[str, str], ask: Ask, files: Mapping[str, str] = FILES
) -> Iterator[Lake]:
    project = root / "project"
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(dedent(text).lstrip() if not name.endswith(".csv") else text)
    runner = DbtRunner(
        project_dir=str(project),
        profiles_dir=str(repository_root() / "dbt"),
        target=target,
        target_path=str(project / "target"),
        environment=dict(environment),
    )
    with runner.session("duckdb" if target == "local" else target) as session:
        lake = Lake(project, ask, session, environment)
        parsed = session.run(["parse"], lambda _level, _message: None, target_path=project / "target")
        assert parsed.exit_code == 0, parsed.reason
        yield lake


@pytest.fixture(scope="module")
def trino_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    environment = stack_environment()
    # Where the machine sets this variable, it overrides the profile's `cert`.
    environment["REQUESTS_CA_BUNDLE"] = environment["LAKEHOUSE_TRINO_CA_BUNDLE"]
    ask = asking_trino(environment)
    ask(f"drop schema if exists {SCHEMA} cascade")
    ask(f"create schema {SCHEMA}")
    with lake_on("trino", tmp_path_factory.mktemp("trino"), environment, ask) as lake:
        yield lake
    ask(f"drop schema {SCHEMA} cascade")


@pytest.fixture
def lake(trino_lake: Lake) -> Lake:
    """Trino, with the raw rows and nothing else."""
    trino_lake.drop_all()
    trino_lake.fill()
    return trino_lake


@pytest.fixture
def duckdb_lake(tmp_path: Path) -> Iterator[Lake]:
    path = tmp_path / "lakehouse.duckdb"

    def ask(statement: str) -> list[Row]:
        with connect(path, read_only=False, timeout=10) as connection:
            connection.execute("set TimeZone = 'UTC'")
            return connection.execute(statement).fetchall()

    ask(f"create schema {SCHEMA}")
    with lake_on("local", tmp_path, {"LAKEHOUSE_DUCKDB_PATH": str(path)}, ask) as lake:
        lake.fill()
        yield lake


class Reader:
    """Asks the same in a loop, in a thread of its own."""

    def __init__(self, ask: Ask, statement: str) -> None:
        #: Rows; an error is a row of its message.
        self.seen: list[Row] = []
        self._ask, self._statement, self._stop = ask, statement, threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                self.seen.append(self._ask(self._statement)[0])
            except Exception as error:  # what a reader sees, too
                self.seen.append((str(error),))

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def whole(model: str) -> str:
    """Rows and ids of the whole table, rows and different amounts of days 10 to 20, and the amount there."""
    start, end = (FIRST + timedelta(days=day) for day in (10, 20))
    inside = f"filter (where happened_at >= timestamp '{start}' and happened_at < timestamp '{end}')"
    return f"""
        select count(*), count(distinct id), count(*) {inside}, count(distinct amount) {inside}, max(amount) {inside}
        from {SCHEMA}.{model}
    """


ALL = DAYS * A_DAY
WINDOW = 10 * A_DAY


def rebuild(lake: Lake, model: str, versions: int, window: Sequence[int] | None = (10, 20)) -> None:
    for _ in range(versions):
        lake.ask(f"update {SCHEMA}.raw set amount = amount + 1")
        lake.built(model, window)


def test_readers_see_windows_whole_while_they_are_replaced(lake: Lake) -> None:
    lake.built("windowed")
    with Reader(lake.ask, whole("windowed")) as reader:
        rebuild(lake, "windowed", versions=3)
    seen = {row[:4] for row in reader.seen}
    assert seen == {(ALL, ALL, WINDOW, 1)}
    assert {row[4] for row in reader.seen} >= {1, 3}

    operations = lake.ask(f'select operation from {SCHEMA}."windowed$snapshots" order by committed_at')
    assert operations == [("append",), *[("overwrite",), ("replace",)] * 3]
    assert lake.ask(f'select count(*) from {SCHEMA}."windowed$files" where content > 0') == [(0,)]


def test_the_same_reader_sees_gaps_with_the_stock_strategy(lake: Lake) -> None:
    lake.built("stock")
    with Reader(lake.ask, whole("stock")) as reader:
        for _ in range(10):
            rebuild(lake, "stock", versions=1)
            if any(row[:4] != (ALL, ALL, WINDOW, 1) for row in reader.seen):
                break
    assert {row[2] for row in reader.seen} == {0, WINDOW}


def test_a_long_window_is_replaced_piece_by_piece_each_whole(lake: Lake) -> None:
    lake.built("pieces")
    with Reader(lake.ask, whole("pieces")) as reader:
        rebuild(lake, "pieces", versions=2, window=(0, 20))
    # Days 10 to 20 are two pieces: between their commits the window has two amounts, never fewer or more rows.
    assert {row[:3] for row in reader.seen} == {(ALL, ALL, WINDOW)}
    operations = lake.ask(f'select operation from {SCHEMA}."pieces$snapshots" order by committed_at')
    assert operations == [("append",), *[*[("overwrite",)] * 4, ("replace",)] * 2]
    amounts = lake.ask(f"select amount, count(*) from {SCHEMA}.pieces group by 1 order by 1")
    assert amounts == [(1, ALL - 20 * A_DAY), (3, 20 * A_DAY)]


def test_a_failing_piece_is_reported_and_those_before_it_stay(lake: Lake) -> None:
    lake.built("pieces")
    lake.ask(f"update {SCHEMA}.raw set amount = 2")
    # Behind the window: read by the last piece.
    lake.ask(f"update {SCHEMA}.raw set leaks = true where id = {30 * A_DAY}")
    with Reader(lake.ask, whole("pieces")) as reader:
        error = lake.run("pieces", (10, 20))
    assert "happened_at of a row is 2026-01-31 00:00:00.000000, outside the window" in error
    assert {row[:3] for row in reader.seen} == {(ALL, ALL, WINDOW)}
    assert lake.ask(f"select count(*) from {SCHEMA}.pieces where amount = 2") == [(5 * A_DAY,)]

    lake.ask(f"update {SCHEMA}.raw set leaks = false")
    lake.built("pieces", (10, 20))
    assert lake.ask(f"select count(*) from {SCHEMA}.pieces where amount = 2") == [(WINDOW,)]


@pytest.mark.parametrize(
    ("model", "time"),
    [("windowed", "happened_at"), ("pieces", "happened_at"), ("by_date", "on_day"), ("by_zone", "at_zone")],
)
def test_both_engines_replace_the_same_rows(lake: Lake, duckdb_lake: Lake, model: str, time: str) -> None:
    found = [_replaced(each, model, time) for each in (lake, duckdb_lake)]
    assert found[0] == found[1]


def _held(lake: Lake, model: str, time: str = "happened_at") -> list[Row]:
    return lake.ask(f"select id, {time}, amount from {SCHEMA}.{model} order by 1, 2, 3")


def _replaced(lake: Lake, model: str, time: str) -> list[list[Row]]:
    """What the table holds after a first build, a window replaced, a refused run and a window cleared."""
    raw, rest = f"{SCHEMA}.raw", 2 * A_DAY // 3
    lake.built(model, (0, 20))  # the first build is of the window alone
    states = [_held(lake, model, time)]
    assert len(states[-1]) == 20 * A_DAY
    lake.ask(f"insert into {SCHEMA}.{model} values (-1, null, 7)")

    lake.ask(f"update {raw} set amount = 2 where id % 2 = 0")
    lake.ask(f"delete from {raw} where id % 3 = 0")
    lake.built(model, (15, 25))
    states.append(_held(lake, model, time))
    assert len(states[-1]) == 15 * A_DAY + 10 * rest + 1

    lake.ask(f"update {raw} set leaks = true where id = {2 * A_DAY + 2}")
    error = lake.run(model, (16, 20))
    assert f"{time} of a row is 2026-01-03" in error
    assert "filter the inputs with in_window()" in error
    assert _held(lake, model, time) == states[-1]

    lake.ask(f"delete from {raw} where leaks or id >= {16 * A_DAY}")
    lake.built(model, (16, 20))
    states.append(_held(lake, model, time))
    assert len(states[-1]) == len(states[-2]) - 4 * rest
    return states


@pytest.mark.parametrize("engine_of", ["lake", "duckdb_lake"])
def test_what_would_lose_rows_is_refused(engine_of: str, request: pytest.FixtureRequest) -> None:
    lake: Lake = request.getfixturevalue(engine_of)
    lake.built("windowed")
    before = _held(lake, "windowed")
    assert "was given none: run dbt with --event-time-start" in lake.run("windowed")
    assert "would leave nothing but the window" in lake.run("windowed", (0, 20), "--full-refresh")

    lake.ask(f"insert into {SCHEMA}.raw values (-2, null, null, null, 3, true)")
    assert "happened_at of a row is null, outside the window" in lake.run("windowed", (16, 20))
    lake.ask(f"update {SCHEMA}.raw set leaks = id = {26 * A_DAY}")
    assert "happened_at of a row is 2026-01-27" in lake.run("windowed", (16, 20))
    assert _held(lake, "windowed") == before

    lake.ask(f"delete from {SCHEMA}.raw where id < {20 * A_DAY}")
    lake.built("windowed", None, "--full-refresh")
    assert len(_held(lake, "windowed")) == 20 * A_DAY


def test_a_date_takes_no_hours(lake: Lake) -> None:
    lake.built("by_date")
    hours = ["--event-time-start", "2026-01-02T06:00:00", "--event-time-end", "2026-01-03"]
    assert "must start and end at midnight of UTC, not at 2026-01-02 06:00:00" in lake.run("by_date", None, *hours)


def test_readers_see_a_table_with_a_contract_whole_while_it_is_rebuilt(lake: Lake) -> None:
    lake.built("contracted")
    with Reader(lake.ask, whole("contracted")) as reader:
        rebuild(lake, "contracted", versions=3, window=None)
    assert {row[:4] for row in reader.seen} == {(ALL, ALL, WINDOW, 1)}
    assert {row[4] for row in reader.seen} >= {1, 3}

    [(made,)] = lake.ask(f"show create table {SCHEMA}.contracted")
    for part in (
        "id bigint COMMENT 'Key.'",
        "amount decimal(12, 2)",
        "word varchar",
        "partitioning = ARRAY['month(happened_at)']",
    ):
        assert part in made
    assert "COMMENT 'It''s what was promised.'" in made
    # The contract's order; text is not cut to its length, for Iceberg keeps none.
    assert lake.ask(f"select * from {SCHEMA}.contracted where id = 0") == [(0, FIRST, 4, "it")]


@pytest.mark.parametrize("model", ["contracted", "contracted_increment"])
def test_a_null_that_the_contract_forbids_leaves_the_table_as_it_was(lake: Lake, model: str) -> None:
    lake.built(model)
    before = lake.rows(model)
    lake.ask(f"insert into {SCHEMA}.raw values (null, timestamp '2026-05-01 00:00:00', null, null, 9, false)")
    assert "null in id, which the contract has as not_null" in lake.run(model)
    assert lake.rows(model) == before

    lake.ask(f"update {SCHEMA}.raw set id = -5 where id is null")
    lake.built(model)
    assert len(lake.rows(model)) == len(before) + 1


def test_a_contract_still_refuses_other_columns(lake: Lake) -> None:
    lake.built("contracted")
    before = lake.rows("contracted")
    lake.ask(
        f"create or replace table {SCHEMA}.raw as "
        f"select cast(id as varchar) as id, happened_at, amount from {SCHEMA}.raw"
    )
    assert "contract" in lake.run("contracted")
    assert lake.rows("contracted") == before


def test_readers_see_a_seed_whole_while_it_is_loaded_again(lake: Lake) -> None:
    seed = "select count(*), count(distinct id), max(word) from " + f"{SCHEMA}.numbers"
    assert lake.dbt("seed").exit_code == 0
    with Reader(lake.ask, seed) as reader:
        assert lake.dbt("seed").exit_code == 0
        assert lake.dbt("seed", "--full-refresh").exit_code == 0
    assert set(reader.seen) == {(1500, 1500, "it's 999")}
    assert lake.relations().count("numbers") == 1
    assert not [name for name in lake.relations() if "__dbt_tmp" in name]


@contextmanager
def _standing_still(lake: Lake, window: Sequence[int]) -> Iterator[subprocess.Popen[str]]:
    """A run in another process, which waits between its temporary view and its MERGE until the gate is empty."""
    lake.ask(f"create table {SCHEMA}.gate (x integer)")
    lake.ask(f"insert into {SCHEMA}.gate values 1")
    target = lake.project.parent / "standing_still"
    command: list[str | Path] = [
        Path(sys.executable).with_name("dbt"),
        "run",
        "--select",
        "paused",
        "--target",
        "trino",
        *between(*window),
    ]
    environment = {
        **os.environ,
        **lake.environment,
        "DBT_PROFILES_DIR": str(repository_root() / "dbt"),
        "DBT_TARGET_PATH": str(target),
        "DBT_LOG_PATH": str(target),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "ATOMIC_TEST_PAUSE": "1",
    }
    with subprocess.Popen(
        command, cwd=lake.project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            while "standing_still" not in lake.relations():
                if process.poll() is not None:
                    pytest.fail(process.stdout.read() if process.stdout else "dbt ended")
            yield process
        finally:
            process.kill()


def test_two_overlapping_runs_of_one_model_do_not_meet(lake: Lake) -> None:
    lake.built("paused")
    lake.ask(f"update {SCHEMA}.raw set amount = 2")
    with _standing_still(lake, (0, 10)) as first:
        lake.built("paused", (10, 20))  # runs from end to end while the first stands still
        lake.ask(f"delete from {SCHEMA}.gate")
        output, _ = first.communicate()
    assert first.returncode == 0, output
    amounts = lake.ask(f"select amount, count(*), count(distinct id) from {SCHEMA}.paused group by 1 order by 1")
    assert amounts == [(1, ALL - 20 * A_DAY, ALL - 20 * A_DAY), (2, 20 * A_DAY, 20 * A_DAY)]
    assert not [name for name in lake.relations() if "__dbt_tmp" in name]


def test_what_a_killed_run_leaves_is_harmless_and_known_by_its_age(lake: Lake) -> None:
    lake.built("paused")
    lake.ask(f"update {SCHEMA}.raw set amount = 2")
    with _standing_still(lake, (0, 10)) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert lake.ask(f"select max(amount), count(*) from {SCHEMA}.paused") == [(1, ALL)]
    lake.built("paused", (0, 10))
    assert lake.ask(f"select count(*) from {SCHEMA}.paused where amount = 2") == [(10 * A_DAY,)]

    [left] = [name for name in lake.relations() if "__dbt_tmp" in name]
    now = datetime.now(UTC)
    assert stale_temp_relations(lake.relations(), now=now, older_than=timedelta(hours=1)) == []
    assert stale_temp_relations(lake.relations(), now=now + timedelta(hours=2), older_than=timedelta(hours=1)) == [left]


def test_the_lint_finds_just_the_stock_strategy(lake: Lake) -> None:
    [found] = lint(manifest_of(json.loads((lake.project / "target" / "manifest.json").read_bytes())))
    assert found.policy
    assert "model stock " in found.where
