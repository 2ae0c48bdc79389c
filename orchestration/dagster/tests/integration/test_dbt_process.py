"""dbt in a process of its own: it builds what it is given, says what happens, and ends, however it ends."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest
from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.dbt.session import CommandEnded, DbtProcess, LogLine, Message, NodeFinished, Question

pytestmark = pytest.mark.new_interpreter

MODELS = {
    "quick.sql": "select 1 as x",
    "below.sql": "select * from {{ ref('quick') }}",
    "beside.sql": "select 2 as x",
    "slow.sql": "select sum(a.range * b.range) as x from range(2000000) as a, range(1000000) as b",
    "broken.sql": "select no_such_column from (select 1 as x) as t",
    "chatty.py": "import os, sys\n\ndef model(dbt, session):\n    print(os.environ.get('SHOP_TOKEN'))\n"
    "    sys.stdout.write('no end')\n    sys.stdout.flush()\n"
    "    return session.sql('select 1 as x')\n",
    "suicidal.py": "import os, signal\n\ndef model(dbt, session):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    "    return session.sql('select 1 as x')\n",
    "late.py": "import time\n\ndef model(dbt, session):\n    print('no query yet', flush=True)\n    time.sleep(2)\n"
    "    return session.sql('select sum(a.range * b.range) as x from range(2000000) as a, range(1000000) as b')\n",
    "careless.sql": "select * from read_csv('/no/{{ env_var('SHOP_TOKEN', 'file') }}.csv')",
    "inlined.sql": "{{ config(materialized='ephemeral') }} select 3 as x",
    "reads.sql": "select * from {{ ref('inlined') }}",
}
TESTS = {
    "positive.sql": "select * from {{ ref('quick') }} where x < 0",
    "negative.sql": "select * from {{ ref('quick') }} where x > 0",
    "both.sql": "select * from {{ ref('broken') }} union all select * from {{ ref('beside') }}",
}
HOOKS = "on-run-start: create table if not exists hooks (what varchar)\non-run-end: insert into hooks values ('end')\n"


def model(name: str) -> str:
    return f"model.p.{name}"


class Shop:
    """A project, and what its dbt process says."""

    def __init__(self, root: Path) -> None:
        self.project, self.database = root / "dbt", root / "p.duckdb"
        for folder, files in (("models", MODELS), ("tests", TESTS)):
            (self.project / folder).mkdir(parents=True)
            for name, text in files.items():
                (self.project / folder / name).write_text(text)
        (self.project / "dbt_project.yml").write_text(
            f'name: p\nversion: "1.0"\nprofile: p\nmodels: {{+materialized: table}}\n{HOOKS}'
        )
        output = {"type": "duckdb", "path": str(self.database), "schema": "main", "threads": 4}
        (self.project / "profiles.yml").write_text(str({"p": {"target": "local", "outputs": {"local": output}}}))
        self.runner = DbtRunner(
            project_dir=str(self.project),
            profiles_dir=str(self.project),
            target="local",
            target_path=str(root / "target"),
        )
        self.scratch = root / "scratch"
        with self.runner.session("duckdb") as session:
            assert session.run(["parse"], lambda *_: None, target_path=root / "target").exit_code == 0

    def start(self) -> Build:
        return Build(self)

    def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(self.database, read_only=True) as connection:
            return connection.execute(sql).fetchall()


class Build:
    """One dbt process, and a build in it."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.process = shop, DbtProcess()
        self.process.prepare("duckdb", shop.runner.manifest)
        self.inbox: queue.Queue[Message] = queue.Queue()

    def begin(
        self,
        nodes: Sequence[str],
        *,
        gates: Sequence[str] = (),
        edges: Sequence[tuple[str, str]] = (),
        ask: bool = False,
        args: Sequence[str] = (),
    ) -> None:
        plan = {"nodes": [*nodes], "gates": [*gates], "edges": [*edges], "ask": ask}
        request = self.shop.runner.request(["build", *args], {}, target_path=str(self.shop.scratch), plan=plan)
        self.process.start(request, self.inbox.put)

    def messages(self, answers: Callable[[Question], str | None] = lambda _: None) -> Iterator[Message]:
        while True:
            message = self.inbox.get(timeout=120)
            yield message
            if isinstance(message, Question):
                self.process.answer(message, answers(message))
            if isinstance(message, CommandEnded):
                return

    def statuses(self, **answers: Any) -> dict[str, str]:
        self.said = [*self.messages(**answers)]
        return {m.node.unique_id: m.node.status for m in self.said if isinstance(m, NodeFinished)}

    @property
    def ended(self) -> CommandEnded:
        [end] = [message for message in self.said if isinstance(message, CommandEnded)]
        return end


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("process"))


@pytest.fixture
def build(shop: Shop) -> Iterator[Build]:
    build = shop.start()
    yield build
    build.process.stop()
    assert not [
        p
        for p in psutil.Process().children(recursive=True)
        if "-m lakehouse_analytics.dbt.server" in " ".join(p.cmdline())
    ]


def test_exactly_the_nodes_are_built_and_a_second_build_follows_in_the_same_process(build: Build) -> None:
    build.begin([model("quick"), "test.p.positive"], edges=[(model("quick"), "test.p.positive")])
    hooks = {"operation.p.p-on-run-start-0": "success", "operation.p.p-on-run-end-0": "success"}
    assert build.statuses() == {model("quick"): "success", "test.p.positive": "pass", **hooks}
    assert build.ended.exit_code == 0
    pid = build.process.pid

    build.begin([model("broken"), model("reads")])
    assert build.statuses() == {model("broken"): "error", model("reads"): "success", **hooks}
    [broken] = [m.node for m in build.said if isinstance(m, NodeFinished) and m.node.status == "error"]
    assert "no_such_column" in broken.message
    assert build.ended.exit_code == 1
    assert build.process.pid == pid


def test_what_lies_below_a_failed_gate_is_skipped_and_the_rest_is_built(build: Build) -> None:
    gate = f"gate.{model('quick')}"
    edges = [(model("quick"), gate), (gate, model("below")), (model("quick"), model("below"))]
    build.begin([model("quick"), model("below"), model("beside")], gates=[gate], edges=edges)
    statuses = build.statuses(answers=lambda question: "too few rows" if question.kind == "gate" else None)
    assert statuses[model("below")] == "skipped"
    assert statuses[model("beside")] == "success"
    assert [m.node for m in build.said if isinstance(m, Question)] == [gate, ""]


def test_a_gate_is_asked_after_its_table_and_the_rows_can_be_counted_then(build: Build) -> None:
    gate = f"gate.{model('quick')}"
    build.begin([model("quick"), model("below")], gates=[gate], edges=[(model("quick"), gate), (gate, model("below"))])
    rows: list[list[list[Any]]] = []

    def count(question: Question) -> None:
        if question.kind == "gate":
            rows.append(build.process.fetch_all("select count(*), cast(max(x) as varchar) from main.quick"))

    assert build.statuses(answers=count)[model("below")] == "success"
    assert [(int(n), text) for [[n, text]] in rows] == [(1, "1")]


def test_a_statement_that_fails_says_why_and_one_after_the_end_too(build: Build) -> None:
    build.begin([model("quick")])
    problems: list[str] = []

    def count(_: Question) -> None:
        with pytest.raises(RuntimeError) as caught:
            build.process.fetch_all("select count(*) from main.no_such_table")
        problems.append(str(caught.value))

    build.statuses(answers=count)
    assert "no_such_table does not exist" in problems[0]
    with pytest.raises(RuntimeError, match="dbt has closed its connection"):
        build.process.fetch_all("select 1")


def test_a_test_that_is_skipped_stops_nothing(build: Build) -> None:
    nodes = [model("broken"), model("beside"), model("quick"), "test.p.both", model("below")]
    edges = [
        (model("quick"), model("below")),
        (model("broken"), "test.p.both"),
        (model("beside"), "test.p.both"),
        ("test.p.both", model("below")),
    ]
    build.begin(nodes, edges=edges)
    statuses = build.statuses()
    assert statuses["test.p.both"] == "skipped"
    assert statuses[model("below")] == "success"


def test_a_failed_test_says_what_it_asked_and_skips_what_waits_for_it(build: Build) -> None:
    edges = [(model("quick"), "test.p.negative"), ("test.p.negative", model("below"))]
    build.begin([model("quick"), "test.p.negative", model("below")], edges=edges)
    assert build.statuses()[model("below")] == "skipped"
    [failed] = [m.node for m in build.said if isinstance(m, NodeFinished) and m.node.status == "fail"]
    assert failed.failures == 1
    assert "where x > 0" in (failed.compiled_code or "")


def test_a_table_that_may_not_be_written_is_an_error_of_its_own(build: Build) -> None:
    build.begin([model("quick"), model("below"), model("beside")], edges=[(model("quick"), model("below"))], ask=True)
    statuses = build.statuses(answers=lambda question: "in use" if question.node == model("quick") else None)
    assert (statuses[model("quick")], statuses[model("below")], statuses[model("beside")]) == (
        "error",
        "skipped",
        "success",
    )
    [refused] = [m.node for m in build.said if isinstance(m, NodeFinished) and m.node.status == "error"]
    assert refused.message == "in use"


def test_gates_alone_are_judged_without_hooks(build: Build, shop: Shop) -> None:
    before = shop.fetch("select count(*) from hooks")
    build.begin([], gates=["gate.model.p.quick"])
    assert build.statuses() == {}
    assert build.ended.exit_code == 0
    build.process.stop()
    assert shop.fetch("select count(*) from hooks") == before


def test_results_come_while_the_build_goes_on(build: Build) -> None:
    """A result is sent before the question that the build then waits for."""
    gate = f"gate.{model('quick')}"
    build.begin(
        [model("quick"), model("beside")], gates=[gate], edges=[(model("quick"), gate), (gate, model("beside"))]
    )
    order = [(type(m).__name__, getattr(m, "node", "")) for m in build.messages() if not isinstance(m, LogLine)]
    names = [(kind, getattr(node, "unique_id", node)) for kind, node in order]
    assert names.index(("NodeFinished", model("quick"))) < names.index(("Question", gate))
    assert names.index(("Question", gate)) < names.index(("NodeFinished", model("beside")))


def test_what_a_model_prints_is_passed_on(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "Quince-4711")
    build.begin([model("chatty")])
    assert build.statuses()[model("chatty")] == "success"
    build.process.stop()
    assert "no end" in " ".join(build.process._stray)
    assert "****" in " ".join(build.process._stray)
    assert "Quince" not in " ".join([*build.process._stray, repr(build.said)])


def test_a_process_that_is_killed_ends_the_build_and_what_it_was_asked(build: Build) -> None:
    build.begin([model("suicidal")])
    build.statuses()
    assert build.ended.exit_code == -signal.SIGKILL
    assert not build.ended.is_alive
    with pytest.raises(RuntimeError, match="dbt has ended"):
        build.process.fetch_all("select 1")
    build.begin([model("quick")])
    assert build.statuses() == {}
    assert not build.ended.is_alive


def test_an_adapter_that_is_not_there_is_said_at_the_end(shop: Shop) -> None:
    build = Build(shop)
    build.process.stop()
    build = Build(shop)
    build.process.prepare("no_such_adapter")
    build.begin([model("quick")])
    build.statuses()
    build.process.stop()
    assert build.ended.exit_code != 0
    assert any("no_such_adapter" in line for line in build.ended.stray)


def test_no_message_has_a_secret_of_the_environment(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "Quince-4711")
    build.begin([model("careless")])
    assert build.statuses()[model("careless")] == "error"
    assert "/no/****.csv" in repr(build.said)
    assert "Quince" not in repr(build.said)


def test_no_message_has_a_secret_of_the_profile(shop: Shop, build: Build) -> None:
    profiles = shop.project / "profiles.yml"
    kept = profiles.read_text()
    # As DuckDB repeats what it could not attach.
    attached = {"path": "/no/such/folder?password=Quince-4711", "alias": "erp"}
    profiles.write_text(kept.replace("'threads': 4", f"'threads': 4, 'attach': [{attached}]"))
    try:
        build.begin([model("quick")])
        build.statuses()
    finally:
        profiles.write_text(kept)
    assert "/no/such/folder?password=****" in repr(build.ended)
    assert "Quince" not in repr(build.said)


def _until(build: Build, text: str) -> None:
    for message in build.messages():
        if isinstance(message, LogLine) and text in message.message:
            return
    raise AssertionError(f"dbt ended before it said {text!r}")


@pytest.mark.parametrize("waiting", [False, True])
def test_a_build_that_is_stopped_cancels_its_queries(build: Build, shop: Shop, *, waiting: bool) -> None:
    """Also while one of dbt's threads waits for an answer that will not come."""
    gate = f"gate.{model('quick')}"
    edges = [(model("quick"), gate)]
    build.begin([model("slow"), *([model("quick")] if waiting else [])], gates=[gate] * waiting, edges=edges * waiting)
    if waiting:
        for message in iter(build.inbox.get, None):
            if isinstance(message, Question):
                break
    else:
        _until(build, "START sql table model main.slow")
        time.sleep(0.5)  # until DuckDB is at it
    assert build.process.stop()
    assert shop.fetch("select 1") == [(1,)]  # nothing holds the file


def test_a_query_that_starts_after_dbt_has_cancelled_is_cancelled_too(build: Build) -> None:
    build.begin([model("late")])
    _until(build, "no query yet")
    assert build.process.stop()


def test_a_process_ends_after_its_dbt() -> None:
    """Dagster may raise an interrupt where no code of ours sees it, and then nothing else stops dbt."""
    program = "from lakehouse_analytics.dbt.session import start_process; print(start_process('duckdb').pid)"
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert not psutil.pid_exists(int(ended.stdout))


def test_the_end_of_the_run_ends_dbt(shop: Shop, tmp_path: Path) -> None:
    """A run that is killed cannot stop its dbt: the closed socket does."""
    pid = os.fork()
    if pid == 0:
        build = shop.start()
        build.begin([model("slow")])
        _until(build, "START sql table model main.slow")
        (tmp_path / "pid").write_text(str(build.process.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    child = int((tmp_path / "pid").read_text())
    with _gone(child) as gone:
        gone.wait(60)
    assert not psutil.pid_exists(child)


class _gone:  # noqa: N801
    """Waits in a thread until a process that is not our child has ended."""

    def __init__(self, pid: int) -> None:
        self._pid, self._event = pid, threading.Event()

    def __enter__(self) -> threading.Event:
        threading.Thread(target=self._watch, daemon=True).start()
        return self._event

    def __exit__(self, *_: object) -> None:
        pass

    def _watch(self) -> None:
        while psutil.pid_exists(self._pid):
            time.sleep(0.1)
        self._event.set()


def test_statements_of_several_threads_are_answered(build: Build) -> None:
    build.begin([model("quick")])
    answers: dict[int, int] = {}

    def ask(_: Question) -> None:
        def one(number: int) -> None:
            [[value]] = build.process.fetch_all(f"select {number}")
            answers[number] = int(value)

        threads = [threading.Thread(target=one, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    build.statuses(answers=ask)
    assert answers == {number: number for number in range(8)}
