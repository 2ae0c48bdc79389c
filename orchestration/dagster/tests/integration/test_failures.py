"""Failures of Trino during a build, on a stack of its own: transient ones are retried, others are reported.

Everything is a real run against real servers that are killed, stopped and started again. The small project of
`conftest.py` has its bronze tables already and one model, `sa`, replaced; `sb` shows what the failure leaves alone.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import jwt
import psutil
import pytest
from lakehouse_analytics.engines.trino.temp_relations import stale_temp_relations
from lakehouse_analytics.settings import repository_root
from trino.exceptions import HttpError

from tests.dagster_ui import poll

from .conftest import Lakehouse, Outcome
from .daemon import dbt_below
from .databases import Trino
from .stack import PARTS, Stack, own_stack

pytestmark = [pytest.mark.integration, pytest.mark.trino]

#: Some seconds of work for two cores, and more than anybody waits for.
SECONDS, HOURS = "tpch.sf1.lineitem", "tpch.sf1000.lineitem"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with own_stack(tmp_path_factory.mktemp("stack") / "state") as made:
        yield made


#: One dbt command; what is above lies there already.
SILVER = ("silver/sa", "silver/sb")


@pytest.fixture
def database(stack: Stack) -> Trino:
    """Empty, and the stack whole, whatever the test before did to it."""
    for part in PARTS:
        stack.do("start", part)
    kill_queries(stack, "mark")
    return Trino("test1", stack.env)


# --- What happens meanwhile


@contextmanager
def meanwhile(stack: Stack, act: Callable[[], object]) -> Iterator[None]:
    """Do something beside the block; the block's end waits for it."""
    ended = threading.Event()

    def acted() -> None:
        try:
            act()
        except BaseException:
            # Or the block would wait for its queries for hours, and for those of its retries.
            while not ended.wait(1):
                with suppress(Exception):  # of a Trino that is down there are none
                    kill_queries(stack, "mark")
            raise

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(acted)
        try:
            yield
        finally:
            ended.set()
        acting.result()


def queries(stack: Stack, mark: str) -> list[tuple[str, str, str]]:
    """Id, state and error of the queries that hold the mark, in order. Trino forgets them when it is restarted."""
    rows = stack.sql(
        "select query_id, state, coalesce(error_code, '') from system.runtime.queries "
        f"where query like '%{mark}%' and source like 'dbt%' order by created",
        scheme="http",
        user="test",
    )
    return [(str(row[0]), str(row[1]), str(row[2])) for row in rows]


def in_state(stack: Stack, mark: str, state: str) -> str:
    """Wait for a query with the mark that is in a state; its id."""

    def found() -> str | None:
        return next((query_id for query_id, its, _ in queries(stack, mark) if its == state), None)

    return poll(found, seconds=120, what=f"a query in state {state}", because=lambda: str(queries(stack, mark)))


def kill_queries(stack: Stack, mark: str) -> None:
    for query_id, state, _ in queries(stack, mark):
        if state not in ("FINISHED", "FAILED"):
            stack.sql(f"call system.runtime.kill_query('{query_id}')", scheme="http", user="test")


def slow(mark: str, table: str, *, once: bool = False, config: str = "") -> str:
    """The model `sa`, which reads a large table besides; `once`: until the variable PASSED is set."""
    condition = f"where (select count(*) from {table} where comment <> '{mark}') > 0"
    if once:
        condition = f"{{% if not env_var('PASSED', '') %}} {condition} {{% endif %}}"
    return f"{config} select id, n + 1 as n from {{{{ ref('a') }}}} {condition}"


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("PASSED", raising=False)
    return f"mark{uuid.uuid4().hex}"


@pytest.fixture
def lake(lakehouse: Lakehouse) -> Lakehouse:
    """The small project with what a build of bronze leaves."""
    lakehouse.sql("create schema bronze")
    for table in ("a", "b"):
        lakehouse.sql(f"create table bronze.{table} as select id, n from raw.{table}")
    return lakehouse


def change(lake: Lakehouse, text: str) -> None:
    """Another model `sa`."""
    lake.files["models/silver/sa.sql"] = text
    lake.write()


def said(lake: Lakehouse, outcome: Outcome) -> str:
    """The run's log, as the UI shows it."""
    return "\n".join(record.user_message for record in lake.instance.all_logs(outcome.run_id))


def is_right(lake: Lakehouse) -> None:
    """Every table holds what an undisturbed build leaves, and nothing twice."""
    for table in ("sa", "sb"):
        assert lake.sql(f"select count(*), count(distinct id), sum(n) from silver.{table}") == [(100, 100, 50_600)]


AGAIN = " s after a transient failure: "


# --- Trino goes away


@pytest.mark.nightly
def test_a_trino_that_is_down_is_named_and_one_that_is_started_late_is_waited_for(
    lake: Lakehouse, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.definitions()
    stack.do("kill", "trino")
    with monkeypatch.context() as patch:
        patch.setenv("LAKEHOUSE_TRINO_START_TIMEOUT", "2")
        never = lake.run(assets=SILVER)
    assert not never.success
    assert never.built == set()
    address = f"https://{stack.env['LAKEHOUSE_TRINO_HOST']}:{stack.env['LAKEHOUSE_TRINO_PORT']}"
    assert f"Trino at {address} (LAKEHOUSE_TRINO_HOST, LAKEHOUSE_TRINO_PORT) was not ready within" in never.failure
    assert "2 s (LAKEHOUSE_TRINO_START_TIMEOUT)" in never.failure
    assert "CONNECTION_REFUSED" in never.failure
    assert "0 of 2 tables were built." in never.failure
    assert "Stack Trace" not in never.failure

    # It takes longer than anything a run does before it asks Trino.
    with meanwhile(stack, lambda: stack.do("start", "trino")):
        late = lake.run(assets=SILVER)
    assert late.success, late.failure
    assert late.built == {*SILVER}
    is_right(lake)


def test_a_trino_that_is_killed_and_restarted_under_a_model_is_survived(
    lake: Lakehouse, stack: Stack, mark: str
) -> None:
    change(lake, slow(mark, HOURS, once=True))

    def disturb() -> None:
        in_state(stack, mark, "RUNNING")
        stack.do("kill", "trino")
        os.environ["PASSED"] = "yes"
        stack.do("start", "trino")

    with meanwhile(stack, disturb):
        outcome = lake.run(assets=SILVER)
    assert outcome.success, outcome.failure
    assert outcome.built == {*SILVER}
    assert f"{AGAIN}sa" in said(lake, outcome)
    is_right(lake)


@pytest.mark.nightly
def test_a_trino_that_goes_and_never_comes_back_is_told_with_what_was_built(
    lake: Lakehouse, stack: Stack, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_TRINO_START_TIMEOUT", "3")
    done = f"done{uuid.uuid4().hex}"
    lake.files["models/silver/sb.sql"] += f" /* {done} */"
    change(lake, slow(mark, HOURS))

    def disturb() -> None:
        in_state(stack, mark, "RUNNING")
        in_state(stack, done, "FINISHED")
        stack.do("kill", "trino")

    with meanwhile(stack, disturb):
        outcome = lake.run(assets=[*SILVER, "gold/gb"])
    assert not outcome.success
    assert outcome.built == {"silver/sb"}
    assert "silver/sa was not built: models/silver/sa.sql: " in outcome.failure
    assert "was not ready within 3 s (LAKEHOUSE_TRINO_START_TIMEOUT)" in outcome.failure
    assert "1 of 3 tables were built." in outcome.failure


@pytest.mark.nightly
def test_a_trino_that_stands_still_is_waited_for(
    lake: Lakehouse, stack: Stack, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts connections and does not respond."""
    monkeypatch.setenv("LAKEHOUSE_TRINO_REQUEST_TIMEOUT", "3")
    change(lake, slow(mark, SECONDS))
    lake.definitions()

    def disturb() -> None:
        in_state(stack, mark, "RUNNING")
        trino = psutil.Process(stack.pids()["trino"])
        trino.suspend()
        time.sleep(20)  # the failure itself
        trino.resume()

    with meanwhile(stack, disturb):
        outcome = lake.run(assets=SILVER)
    assert outcome.success, outcome.failure
    assert outcome.built == {*SILVER}
    is_right(lake)
    assert {state for _, state, _ in queries(stack, mark)} == {"FINISHED"}


# --- One query fails


def test_a_query_over_its_memory_fails_at_once_with_its_id_and_leaves_the_rest_alone(
    lake: Lakehouse, stack: Stack, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_TRINO_SESSION_PROPERTIES", '{"query_max_memory": "20MB"}')
    texts = f"select array_agg(comment order by comment) as list from tpch.sf1.orders where comment <> '{mark}'"
    change(lake, f"select id, n from {{{{ ref('a') }}}} where (select max(cardinality(list)) from ({texts})) > 0")
    outcome = lake.run(assets=[*SILVER, "gold/ga", "gold/gb"])

    assert not outcome.success
    assert outcome.built == {"silver/sb", "gold/gb"}
    [(query_id, state, error)] = queries(stack, mark)
    assert (state, error) == ("FAILED", "EXCEEDED_GLOBAL_MEMORY_LIMIT")
    for words in ("silver/sa was not built: models/silver/sa.sql", query_id, "query.max-memory"):
        assert words in outcome.failure
    assert "gold/ga was blocked by silver/sa" in outcome.failure
    assert AGAIN not in said(lake, outcome)


# --- The catalog goes away


def test_a_catalog_database_that_is_gone_for_20_seconds_is_survived(lake: Lakehouse, stack: Stack, mark: str) -> None:
    change(lake, slow(mark, SECONDS))

    def disturb() -> None:
        query_id = in_state(stack, mark, "RUNNING")
        stack.do("stop", "postgres")
        stopped = time.monotonic()
        poll(
            lambda: query_id in [q for q, its, _ in queries(stack, mark) if its in ("FAILED", "FINISHED")],
            seconds=120,
            what="the end of the query",
        )
        time.sleep(max(0.0, stopped + 20 - time.monotonic()))  # the failure itself
        stack.do("start", "postgres")

    with meanwhile(stack, disturb):
        outcome = lake.run(assets=SILVER)
    assert outcome.success, outcome.failure
    assert outcome.built == {*SILVER}
    assert queries(stack, mark)[0][1] == "FAILED"
    is_right(lake)


# --- Another writer


#: In every statement that merges into `sa`: the model's own text is in the view that it reads.
MERGING = 'merge into "test1"."silver"."sa"'
MERGE = "{{ config(materialized='incremental', incremental_strategy='merge', unique_key='id') }}"


@pytest.fixture
def half_built(lake: Lakehouse) -> Lakehouse:
    """`sa` merges, as the real project does, and holds half of the rows."""
    name = "macros/make_temp_relation.sql"
    lake.files[name] = (repository_root() / "dbt" / name).read_text()
    lake.sql("create schema silver")
    lake.sql("create table silver.sa as select id, n from bronze.a where id <= 50")
    return lake


def test_a_commit_that_comes_too_late_is_tried_again(half_built: Lakehouse, stack: Stack, mark: str) -> None:
    change(half_built, slow(mark, SECONDS, config=MERGE))

    def write() -> None:
        in_state(stack, MERGING, "RUNNING")
        while "ICEBERG_COMMIT_ERROR" not in [error for _, _, error in queries(stack, MERGING)]:
            half_built.sql("update silver.sa set n = n + 1 where id = 1")

    with meanwhile(stack, write):
        outcome = half_built.run(assets=SILVER)
    assert outcome.success, outcome.failure
    assert f"{AGAIN}sa" in said(half_built, outcome)
    is_right(half_built)


# --- Log-ins that are rejected


def test_an_expired_token_is_refused_before_anything_is_built(
    lake: Lakehouse, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = {"sub": "lakehouse", "exp": datetime.now(UTC) - timedelta(minutes=1)}
    token = jwt.encode(claims, (stack.state / "tls" / "jwt.key").read_text(), algorithm="RS256")
    monkeypatch.delenv("LAKEHOUSE_TRINO_PASSWORD")
    monkeypatch.setenv("LAKEHOUSE_TRINO_JWT", token)
    outcome = lake.run(assets=SILVER)

    assert not outcome.success
    assert outcome.built == set()
    assert "LAKEHOUSE_TRINO_JWT expired at 20" in outcome.failure
    assert "0 of 2 tables were built." in outcome.failure
    assert "Stack Trace" not in outcome.failure
    assert token not in outcome.failure + said(lake, outcome)


#: A model of many statements: it asks until it is refused.
ASKING = """
{%- if execute %}{% for _ in range(10000) %}{% do run_query("select 'MARK'") %}{% endfor %}{% endif -%}
select id, n + 1 as n from {{ ref('a') }}
"""


def test_a_log_in_that_ends_under_a_model_fails_it_at_once(lake: Lakehouse, stack: Stack, mark: str) -> None:
    change(lake, ASKING.replace("MARK", mark))
    file = stack.state / "etc" / "password.db"
    known = file.read_text()

    def withdraw() -> None:
        in_state(stack, mark, "FINISHED")
        file.write_text(known.replace("lakehouse:", "stranger:"))

    try:
        with meanwhile(stack, withdraw):
            outcome = lake.run(assets=[*SILVER, "gold/ga"])
    finally:
        file.write_text(known)
        poll(lambda: stack.run("start", "trino") and logs_in(stack), seconds=60, what="the password")
    assert not outcome.success
    assert "gold/ga" not in outcome.built
    assert "silver/sa was not built: models/silver/sa.sql: " in outcome.failure
    assert "error 401" in outcome.failure
    assert "LAKEHOUSE_TRINO_PASSWORD" in outcome.failure
    assert AGAIN not in said(lake, outcome)
    assert stack.env["LAKEHOUSE_TRINO_PASSWORD"] not in outcome.failure + said(lake, outcome)


def logs_in(stack: Stack) -> bool:
    with suppress(HttpError):
        return stack.sql("select 1") == [[1]]
    return False


# --- The build itself is ended


@pytest.mark.new_interpreter  # which `dbt_below` finds
def test_what_a_killed_dbt_leaves_is_harmless_and_found_by_maintenance(
    half_built: Lakehouse, stack: Stack, mark: str
) -> None:
    change(half_built, slow(mark, HOURS, once=True, config=MERGE))

    def kill() -> None:
        in_state(stack, MERGING, "RUNNING")
        [dbt] = dbt_below(os.getpid())
        dbt.kill()
        os.environ["PASSED"] = "yes"

    with meanwhile(stack, kill):
        killed = half_built.run(assets=SILVER)
    assert not killed.success
    assert "dbt crashed (exit code -9) while building 2 tables" in killed.failure
    assert half_built.sql("select count(*), sum(n) from silver.sa") == [(50, 12_750)]

    left = [name for _, name in half_built.database.tables(["silver"]) if "__dbt_tmp" in name]
    assert len(left) == 1
    now = datetime.now(UTC)
    assert stale_temp_relations(left, now=now, older_than=timedelta(hours=6)) == []
    assert stale_temp_relations(left, now=now + timedelta(hours=7), older_than=timedelta(hours=6)) == left

    # Its query was killed with it, so it cannot commit after the next one.
    *_, (_, state, error) = queries(stack, MERGING)
    assert (state, error) == ("FAILED", "ADMINISTRATIVELY_KILLED")
    after = half_built.run(assets=SILVER)
    assert after.success, after.failure
    is_right(half_built)


#: A model that two runs build waits until both have begun, so that they overlap.
MEETING = """
{%- if execute %}
    {% do run_query("insert into " ~ target.database ~ ".raw.meeting select 1 as n") %}
    {% set met = [] %}
    {% for _ in range(10000) if not met %}
        {% if run_query("select count(*) from " ~ target.database ~ ".raw.meeting").columns[0].values()[0] > 1 %}
            {% do met.append(true) %}
        {% endif %}
    {% endfor %}
{% endif -%}
"""
TEMPORARY = re.compile(r"create or replace view\s+(\S*__dbt_tmp\w*)")
BUILD = ("dagster", "asset", "materialize", "-m", "lakehouse_analytics.definitions", "--select", "key:silver/sa")


@pytest.mark.nightly
def test_two_runs_of_one_model_at_once_both_end_right(
    half_built: Lakehouse, stack: Stack, tmp_path: Path, mark: str
) -> None:
    """On one instance the second would wait for the table; of another instance's run only its names keep it apart."""
    half_built.sql("create table raw.meeting as select 1 as n where false")
    change(half_built, MERGE + MEETING + slow(mark, SECONDS))
    half_built.definitions()
    runs = []
    for number in range(2):
        home = tmp_path / f"home{number}"
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        log = (tmp_path / f"run{number}.log").open("w")
        environment = {**os.environ, "DAGSTER_HOME": str(home)}
        runs.append(subprocess.Popen(BUILD, env=environment, stdout=log, stderr=subprocess.STDOUT))
    ends = [run.wait(300) for run in runs]
    logs = [(tmp_path / f"run{number}.log").read_text() for number in range(2)]

    assert ends == [0, 0], "\n".join(logs)
    assert half_built.sql("select count(*), count(distinct id), sum(n) from silver.sa") == [(100, 100, 50_600)]
    assert isinstance(half_built.database, Trino)
    texts = [row[0] for row in half_built.database.ask("select query from system.runtime.queries order by created")]
    names = {found[1] for text in texts if mark in text and (found := TEMPORARY.search(text))}
    assert len(names) >= 2
    assert [1 for text in logs if AGAIN in text]


# --- Secrets


def found_in(text: str, folders: Sequence[Path], *others: str) -> list[str]:
    """Where a text stands, also as it would in a header or a URL: files below some folders, and other texts."""
    forms = {text, quote(text, safe=""), base64.b64encode(text.encode()).decode()}
    files = {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    files |= {f"text {number}": other.encode() for number, other in enumerate(others)}
    return [name for name, content in files.items() if any(form.encode() in content for form in forms)]


def test_no_secret_is_in_anything_that_a_build_leaves(
    lake: Lakehouse, stack: Stack, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One build that succeeds and one that fails, with dbt's debug log, over HTTPS with a password."""
    home, kept = tmp_path / "home", tmp_path / "kept"
    for folder in (home, kept):
        folder.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    # Compiled SQL lies in a folder that a run removes: here it keeps it. A run writes no log and no artifacts of dbt.
    keep = "import tempfile as t; t.TemporaryDirectory.cleanup = t.TemporaryDirectory._cleanup = lambda *_, **__: None"
    (kept / "sitecustomize.py").write_text(keep)
    for name, value in {"DEBUG": "1", "DAGSTER_HOME": str(home), "TMPDIR": str(kept)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"{kept}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    said = ""
    for column in ("n", f"no_{mark}"):
        change(lake, f"select id, {column} + 1 as n, '{mark}' as mark from {{{{ ref('a') }}}}")
        lake.definitions()
        done = subprocess.run(BUILD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        said += done.stdout
        assert (done.returncode == 0) == (column == "n"), done.stdout

    folders = [home, kept, lake.project]
    places = "\n".join(found_in(mark, folders, said))
    for place in ("text 0", "manifest.json", "/compiled/", "/run/", ".db", "compute_logs"):
        assert place in places  # by the same search, what may be found is found everywhere
    secrets = {**stack.secrets, "log-in": f"lakehouse:{stack.env['LAKEHOUSE_TRINO_PASSWORD']}"}
    assert len(secrets) == 5
    assert {name: leaks for name, secret in secrets.items() if (leaks := found_in(secret, folders, said))} == {}
