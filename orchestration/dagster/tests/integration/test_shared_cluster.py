"""Builds on a Trino that others use, too: resource groups, a full queue, and a user who may set no session property.

A stack of its own, because a server has one configuration of groups and rules.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from lakehouse_analytics.iceberg.catalog import open_catalog
from lakehouse_analytics.settings import repository_root

from tests.dagster_ui import poll

from .conftest import Lakehouse, Outcome
from .databases import Trino
from .stack import PARTS, Stack, configure_trino, own_stack
from .test_doctor import doctor

pytestmark = [pytest.mark.integration, pytest.mark.trino, pytest.mark.nightly]

#: `one`: a query at a time. `tiny`: a query at a time, and one more may wait.
GROUPS = {
    "rootGroups": [
        {"name": "one", "hardConcurrencyLimit": 1, "maxQueued": 100, "softMemoryLimit": "90%"},
        {"name": "tiny", "hardConcurrencyLimit": 1, "maxQueued": 1, "softMemoryLimit": "90%"},
        {"name": "all", "hardConcurrencyLimit": 50, "maxQueued": 500, "softMemoryLimit": "90%"},
    ],
    "selectors": [
        {"user": "etl_one", "group": "one"},
        {"user": "etl_tiny", "group": "tiny"},
        {"group": "all"},
    ],
}
#: The rules that the documentation shows, for the catalog of the tests.
PUBLISHED = json.loads(
    (repository_root() / "infrastructure" / "trino" / "access-control-rules.json")
    .read_text()
    .replace("lakehouse", "test1")
)
EVERYTHING: dict[str, dict[str, Any]] = {
    "catalogs": {"allow": "all"},
    "queries": {"allow": ["execute", "kill", "view"]},
    "schemas": {"owner": True},
    "tables": {"privileges": ["SELECT", "INSERT", "UPDATE", "DELETE", "OWNERSHIP"]},
    "procedures": {"privileges": ["EXECUTE"]},
    "functions": {"privileges": ["EXECUTE"]},
    "system_session_properties": {"allow": True},
    "catalog_session_properties": {"allow": True},
}


def rules_with(published: Mapping[str, list[Mapping[str, Any]]]) -> dict[str, Any]:
    """Those rules for the user `dagster`, and all rights for the others; but only two may set session properties."""
    others = "test|lakehouse|etl_.*"
    return {
        section: [
            *published[section],
            {"user": "test|lakehouse" if "session" in section else others, **right},
        ]
        for section, right in EVERYTHING.items()
    }


RULES = rules_with(PUBLISHED)
HOURS = "select count(*) from tpch.sf1000.lineitem where comment <> '{mark}'"
WAITING = "waiting in resource group"
FULL = "queue is full"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    state = tmp_path_factory.mktemp("stack") / "state"
    configure_trino(state, groups=GROUPS, rules=RULES)
    with own_stack(state) as made:
        yield made


@pytest.fixture
def database(stack: Stack) -> Trino:
    for part in PARTS:
        stack.do("start", part)
    return Trino("test1", stack.env)


@pytest.fixture
def lake(lakehouse: Lakehouse) -> Lakehouse:
    """The small project with what a build of bronze leaves."""
    lakehouse.sql("create schema bronze")
    for table in ("a", "b"):
        lakehouse.sql(f"create table bronze.{table} as select id, n from raw.{table}")
    return lakehouse


@pytest.fixture
def mark() -> str:
    return f"mark{uuid.uuid4().hex}"


SILVER = ("silver/sa", "silver/sb")


def log_in(stack: Stack, monkeypatch: pytest.MonkeyPatch, user: str, **more: str) -> None:
    """As a user of a group, over HTTP, where a name is enough."""
    variables = {
        "LAKEHOUSE_TRINO_USER": user,
        "LAKEHOUSE_TRINO_PASSWORD": "",
        "LAKEHOUSE_TRINO_HTTP_SCHEME": "http",
        "LAKEHOUSE_TRINO_PORT": str(stack.settings["trino_http_port"]),
        # An outage of 5 s would fail the build.
        "LAKEHOUSE_TRINO_START_TIMEOUT": "5",
        **more,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def queries(stack: Stack, mark: str) -> list[tuple[str, str]]:
    rows = stack.sql(
        f"select query_id, state from system.runtime.queries where query like '%{mark}%' "
        "and coalesce(source, '') <> 'watch' order by created",
        scheme="http", user="test", source="watch",
    )  # fmt: skip
    return [(str(row[0]), str(row[1])) for row in rows]


def waiting(stack: Stack) -> list[list[Any]]:
    sql = "select coalesce(source, '') from system.runtime.queries where state = 'QUEUED'"
    return stack.sql(sql, scheme="http", user="test", source="watch")


class Holder:
    """Long queries of a user that occupy its resource group until they are ended."""

    def __init__(self, stack: Stack, user: str, mark: str) -> None:
        self.stack, self.user, self.mark = stack, user, mark
        self.base = f"http://127.0.0.1:{stack.settings['trino_http_port']}"
        self.threads = ThreadPoolExecutor(4)

    def start(self) -> None:
        self.threads.submit(self._hold)

    def _hold(self) -> None:
        headers = {"X-Trino-User": self.user}
        with suppress(KeyError):  # it was killed
            sql = HOURS.format(mark=self.mark)
            answer = requests.post(f"{self.base}/v1/statement", sql, headers=headers, timeout=60).json()
            while True:
                answer = requests.get(answer["nextUri"], headers=headers, timeout=60).json()

    def wait(self, *states: str) -> None:
        poll(
            lambda: sorted(state for _, state in queries(self.stack, self.mark)) == sorted(states),
            seconds=300,
            what=f"queries {states}",
            because=lambda: str(queries(self.stack, self.mark)),
        )

    def end(self) -> None:
        for query_id, state in reversed(queries(self.stack, self.mark)):
            if state not in ("FINISHED", "FAILED"):
                url = f"{self.base}/v1/query/{query_id}/killed"
                requests.put(url, data="the test is over", headers={"X-Trino-User": "test"}, timeout=60)
        self.threads.shutdown()


@contextmanager
def occupied(stack: Stack, user: str, mark: str, number: int) -> Iterator[None]:
    """Some long queries of a user, the first of which runs, until the block ends."""
    holder = Holder(stack, user, mark)
    try:
        for place in range(number):
            holder.start()
            holder.wait("RUNNING", *["QUEUED"] * place)
        yield
    finally:
        holder.end()


def said(lake: Lakehouse, outcome: Outcome) -> str:
    return "\n".join(record.user_message for record in lake.instance.all_logs(outcome.run_id))


def is_right(lake: Lakehouse) -> None:
    for table in ("sa", "sb"):
        assert lake.sql(f"select count(*), count(distinct id), sum(n) from silver.{table}") == [(100, 100, 50_600)]


class Builds:
    """Processes that build one asset each, on an instance each."""

    def __init__(self, folder: Path, assets: Sequence[str]) -> None:
        self.logs = [folder / f"build{number}.log" for number in range(len(assets))]
        self.processes = []
        for number, asset in enumerate(assets):
            home = folder / f"home{number}"
            home.mkdir()
            (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
            command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "lakehouse_analytics.definitions"]
            environment = {**os.environ, "DAGSTER_HOME": str(home)}
            words = [*command, "--select", f"key:{asset}"]
            with self.logs[number].open("w") as log:
                self.processes.append(subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT))

    def said(self) -> list[str]:
        return [log.read_text() for log in self.logs]

    def all_say(self, words: str) -> None:
        poll(
            lambda: all(words in text for text in self.said()),
            seconds=120,
            what=words,
            because=lambda: "\n".join(self.said()),
        )

    def succeed(self) -> list[str]:
        ends = [process.wait(300) for process in self.processes]
        assert ends == [0] * len(ends), "\n".join(self.said())
        return self.said()


def test_two_builds_wait_in_the_queue_for_longer_than_an_outage_may_last(
    lake: Lakehouse, stack: Stack, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(stack, monkeypatch, "etl_one")
    lake.definitions()
    with occupied(stack, "etl_one", mark, 1):
        builds = Builds(tmp_path, SILVER)
        builds.all_say(f"{WAITING} one")
        time.sleep(8)  # beyond LAKEHOUSE_TRINO_START_TIMEOUT
        assert [process.poll() for process in builds.processes] == [None, None], "\n".join(builds.said())
    texts = builds.succeed()
    is_right(lake)
    assert not [text for text in texts if "is not ready" in text]


def test_a_model_that_waits_in_the_queue_is_named_with_its_group(
    lake: Lakehouse, stack: Stack, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue fills after dbt has started: it is dbt's own statement that waits."""
    log_in(stack, monkeypatch, "etl_one")
    began = f"began{uuid.uuid4().hex}"
    slow = f"select count(*) from tpch.sf1.lineitem where comment <> '{began}'"
    config = f'{{{{ config(pre_hook="{slow}") }}}}'
    lake.files["models/silver/sa.sql"] = f"{config} select id, n + 1 as n from {{{{ ref('a') }}}}"
    lake.write()
    lake.definitions()
    holder = Holder(stack, "etl_one", mark)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lake.run, assets=SILVER)
        try:
            poll(lambda: "RUNNING" in [state for _, state in queries(stack, began)], seconds=120, what="the hook")
            # Behind the hook, and before the model itself.
            holder.start()
            holder.wait("RUNNING")
            poll(
                lambda: any(row[0].startswith("dbt") for row in waiting(stack)),
                seconds=120, what="the model in the queue",
            )  # fmt: skip
            time.sleep(10)
        finally:
            holder.end()
        outcome = running.result()
    assert outcome.success, outcome.failure
    assert re.search(rf"Trino: \d+ quer(y|ies) of this run (is|are) {WAITING} one, for up to", said(lake, outcome))
    is_right(lake)


def test_builds_retry_while_the_queue_is_full(
    lake: Lakehouse, stack: Stack, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(stack, monkeypatch, "etl_tiny")
    lake.definitions()
    with occupied(stack, "etl_tiny", mark, 2):
        builds = Builds(tmp_path, SILVER)
        builds.all_say(FULL)
        time.sleep(8)
    texts = builds.succeed()
    is_right(lake)
    assert not [text for text in texts if "is not ready" in text]


def test_more_threads_than_the_queue_holds(lake: Lakehouse, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own queries fill the queue: one runs, one waits, the rest is refused."""
    log_in(stack, monkeypatch, "etl_tiny", LAKEHOUSE_DBT_THREADS="8")
    for number in range(8):
        lake.files[f"models/silver/s{number}.sql"] = (
            "select id, n + 1 as n from {{ ref('a') }} where (select count(*) from tpch.tiny.lineitem) > 0"
        )
    lake.write()
    outcome = lake.run(assets=[*SILVER, *(f"silver/s{number}" for number in range(8))])
    assert outcome.success, outcome.failure
    assert "QUERY_QUEUE_FULL" in said(lake, outcome)
    is_right(lake)


def test_a_queue_that_stays_full_ends_the_build_with_what_to_change(
    lake: Lakehouse, stack: Stack, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(stack, monkeypatch, "etl_tiny", LAKEHOUSE_TRINO_QUEUE_TIMEOUT="3")
    lake.definitions()
    with occupied(stack, "etl_tiny", mark, 2):
        outcome = lake.run(assets=SILVER)
    assert not outcome.success
    assert outcome.built == set()
    for words in ("QUERY_QUEUE_FULL", '"tiny"', "3 s (LAKEHOUSE_TRINO_QUEUE_TIMEOUT)", "LAKEHOUSE_DBT_THREADS"):
        assert words in outcome.failure
    assert "was not ready" not in outcome.failure


# --- Rights


@pytest.fixture
def rules(stack: Stack) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Put rules for the user `dagster` in force."""

    def put(published: Mapping[str, Any]) -> None:
        (stack.state / "data" / "trino" / "etc" / "rules.json").write_text(json.dumps(rules_with(published)))
        time.sleep(3)  # Trino looks every second

    yield put
    put(PUBLISHED)


def test_a_user_with_the_published_rights_builds_the_demo(
    stack: Stack, database: Trino, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in database.environment.items():
        monkeypatch.setenv(name, value)
    log_in(stack, monkeypatch, "dagster", LAKEHOUSE_TRINO_START_TIMEOUT="120")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET_PATH", str(tmp_path / "target"))
    command: list[str | Path] = [Path(sys.executable).parent / "lakehouse", "demo", "--count", "300"]
    for _ in range(2):  # again: incremental
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "14 of 14 assets built" in done.stdout
    report = doctor(only=RIGHTS)
    assert report.failed == [], report.text
    assert report.status("version") == report.status("rights") == report.status("maintenance") == "ok"
    assert "not checked" not in report.said("rights")


RIGHTS = ("settings", "manifest", "engine", "version", "rights", "maintenance")


def without(section: str, change: Callable[[dict[str, Any]], object], schema: str) -> dict[str, Any]:
    """The published rules, but one entry changed."""
    rules = copy.deepcopy(PUBLISHED)
    for entry in rules[section]:
        if re.search(schema, entry["schema"]):
            change(entry)
    return dict(rules)


#: What is taken away from the published rules, and what doctor then says.
MISSING = {
    "delete on test1.silver": without("tables", lambda e: e["privileges"].remove("DELETE"), "silver"),
    "insert on test1.silver": without("tables", lambda e: e["privileges"].remove("INSERT"), "silver"),
    "create table on test1.silver": without("tables", lambda e: e["privileges"].remove("OWNERSHIP"), "silver"),
    "select on test1.raw": without("tables", lambda e: e["privileges"].clear(), "raw"),
    "select on system.metadata.materialized_views": without("tables", lambda e: e["privileges"].clear(), "metadata"),
    '$files" (maintenance measures tables by it)': without("tables", lambda e: e.update(table="[^$]*"), "silver"),
}


def test_doctor_names_a_right_that_is_missing(
    lake: Lakehouse, stack: Stack, rules: Callable[[Mapping[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lake.run().success
    log_in(stack, monkeypatch, "dagster")
    for words, rest in MISSING.items():
        rules(rest)
        report = doctor(only=RIGHTS)
        assert report.failed == ["rights"], report.text
        assert words in report.said("rights")
        assert words.endswith("raw") or "Cannot" in report.said("rights")  # Trino's own words
        assert "docs/engines.md" in report.findings["rights"]["fix"]


def test_doctor_compares_contracts_with_what_trino_refuses_to_delete(
    lake: Lakehouse, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lake.run().success
    well = doctor(only=RIGHTS)
    assert well.status("maintenance") == "ok", well.text

    floor = json.dumps({"test1.expire_snapshots_min_retention": "30d"})
    monkeypatch.setenv("LAKEHOUSE_TRINO_SESSION_PROPERTIES", floor)
    report = doctor(only=RIGHTS)
    assert report.failed == ["maintenance"], report.text
    assert "test1 does not delete files younger than 30d" in report.said("maintenance")
    assert "has retain 7d" in report.said("maintenance")
    assert "iceberg.expire-snapshots.min-retention=7d" in report.findings["maintenance"]["fix"]


def test_doctor_names_tables_whose_files_others_may_share(lake: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Nessie marks them."""
    assert lake.run().success
    table = open_catalog("test1").load_table("silver.sa")
    with table.transaction() as transaction:
        transaction.set_properties({"gc.enabled": "false"})
    report = doctor(only=RIGHTS)
    assert report.failed == [], report.text
    assert "gc.enabled is false, so other branches may share the files: test1.silver.sa" in report.said("maintenance")


def test_doctor_on_a_busy_cluster_says_that_it_did_not_check(
    lake: Lakehouse, stack: Stack, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(stack, monkeypatch, "etl_one")
    lake.definitions()
    with occupied(stack, "etl_one", mark, 1):
        report = doctor("--timeout", "20", only=RIGHTS)
    assert report.failed == []
    assert report.status("engine") == "unchecked"
    assert "in the queue of resource group one" in report.said("engine")
    assert report.status("rights") == "unchecked"


def test_a_session_property_that_may_not_be_set_names_the_variable(
    lake: Lakehouse, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = json.dumps({"query_max_run_time": "1h"})
    log_in(stack, monkeypatch, "etl_one", LAKEHOUSE_TRINO_SESSION_PROPERTIES=properties)
    outcome = lake.run(assets=SILVER)
    assert not outcome.success
    assert "Cannot set system session property query_max_run_time" in outcome.failure
    assert "LAKEHOUSE_TRINO_SESSION_PROPERTIES" in outcome.failure
