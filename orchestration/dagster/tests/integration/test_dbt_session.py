"""dbt forked from a process that has imported it: commands end, whatever they print and however they die."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from lakehouse_analytics.resources.dbt import NOT_STARTED, DbtRunner, DbtSession

MODELS = {
    "quick.sql": "select 1 as x",
    "slow.sql": "select sum(a.range * b.range) as x from range(2000000) as a, range(1000000) as b",
    "broken.sql": "select no_such_column from (select 1 as x) as t",
    # Ends with a line that has no end: once taken together with the exit code, which was then never seen.
    "untidy.py": """
import atexit, sys

def model(dbt, session):
    atexit.register(lambda: (sys.stderr.write("unfinished"), sys.stderr.flush()))
    return session.sql("select 1 as x")
""",
    "suicidal.py": """
import os, signal

def model(dbt, session):
    os.kill(os.getpid(), signal.SIGKILL)
    return session.sql("select 1 as x")
""",
}


@pytest.fixture
def runner(tmp_path: Path) -> DbtRunner:
    project = tmp_path / "dbt"
    (project / "models").mkdir(parents=True)
    (project / "dbt_project.yml").write_text('{name: p, version: "1.0", profile: p, models: {+materialized: table}}')
    output = {"type": "duckdb", "path": str(tmp_path / "p.duckdb"), "schema": "main", "threads": 2}
    (project / "profiles.yml").write_text(str({"p": {"target": "local", "outputs": {"local": output}}}))
    for name, text in MODELS.items():
        (project / "models" / name).write_text(text)
    return DbtRunner(
        project_dir=str(project), profiles_dir=str(project), target="local", target_path=str(tmp_path / "target")
    )


@pytest.fixture
def session(runner: DbtRunner) -> Iterator[DbtSession]:
    with runner.session("duckdb") as session:
        yield session


def _ignore(_level: str, _message: str) -> None:
    pass


def _children() -> list[str]:
    return [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]


def test_another_connection_than_that_of_the_manifest_is_parsed_for_once(runner: DbtRunner) -> None:
    said: list[str] = []

    def listen(_level: str, message: str) -> None:
        said.append(message)

    target = Path(runner.target_path)
    with runner.session("duckdb") as session:
        assert session.run(["parse"], listen, target_path=target).exit_code == 0
    profiles = Path(runner.profiles_dir) / "profiles.yml"
    profiles.write_text(profiles.read_text().replace("p.duckdb", "q.duckdb"))
    manifest = (target / "partial_parse.msgpack").read_bytes()
    said.clear()
    with runner.session("duckdb") as session:
        for _ in range(3):
            assert session.run(["build", "--select", "quick"], listen).exit_code == 0
    assert [line for line in said if "profile has changed" in line] == [
        "Unable to do partial parsing because profile has changed"
    ]
    assert (target / "partial_parse.msgpack").read_bytes() == manifest


def test_commands_follow_each_other_with_their_results(session: DbtSession) -> None:
    said: list[str] = []
    built = session.run(["build", "--select", "quick"], lambda _level, message: said.append(message))
    assert (built.exit_code, built.crashed) == (0, False)
    assert built.nodes["model.p.quick"].status == "success"
    assert any("OK created" in line for line in said)
    assert not any("leaked" in line for line in said)

    broken = session.run(["build", "--select", "broken"], _ignore)
    assert (broken.exit_code, broken.crashed) == (1, False)
    assert "no_such_column" in broken.nodes["model.p.broken"].message


def test_output_without_a_last_line_end_does_not_hide_the_exit_code(session: DbtSession) -> None:
    said: list[str] = []
    result = session.run(["build", "--select", "untidy"], lambda _level, message: said.append(message))
    assert said[-1] == "unfinished"
    assert result.nodes["model.p.untidy"].status == "success"


def test_a_command_that_is_killed_is_a_crash_and_the_next_one_runs(session: DbtSession) -> None:
    killed = session.run(["build", "--select", "suicidal"], _ignore)
    assert killed.crashed
    assert killed.exit_code == -signal.SIGKILL
    assert "It was killed, most often because memory ran out: give runs more" in killed.reason

    assert session.run(["build", "--select", "quick"], _ignore).exit_code == 0


def test_an_interrupted_command_is_cancelled_and_leaves_no_process(
    runner: DbtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse_analytics.resources.dbt.TERMINATION_SECONDS", 3.0)

    def stop_once_it_runs(_level: str, message: str) -> None:
        if "START sql table model main.slow" in message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), runner.session("duckdb") as session:
        session.run(["build", "--select", "slow"], stop_once_it_runs)

    assert not [child for child in _children() if "dbt_server" in child]
    with runner.session("duckdb") as session:
        assert session.run(["build", "--select", "quick"], _ignore).exit_code == 0


def test_a_log_that_raises_does_not_leave_dbt_behind(runner: DbtRunner) -> None:
    def fail(_level: str, _message: str) -> None:
        raise RuntimeError("the log is full")

    with pytest.raises(RuntimeError, match="the log is full"), runner.session("duckdb") as session:
        session.run(["build", "--select", "quick"], fail)
    assert not [child for child in _children() if "dbt_server" in child]


def test_a_server_that_cannot_import_dbt_is_a_crash_with_a_reason(runner: DbtRunner) -> None:
    with runner.session("no_such_adapter") as session:
        result = session.run(["build"], _ignore)
    assert result.crashed
    assert result.errors[-1] == NOT_STARTED


def test_a_killed_server_is_a_crash(runner: DbtRunner) -> None:
    def kill_server() -> None:
        [server] = psutil.Process().children()
        server.kill()

    with runner.session("duckdb") as session:
        assert session.run(["build", "--select", "quick"], _ignore).exit_code == 0
        kill_server()
        assert session.run(["build", "--select", "quick"], _ignore).crashed


def test_a_command_longer_than_any_argument_list_is_sent(session: DbtSession) -> None:
    names = [f"fqn:p.no_such_model_{number:06}" for number in range(20)] + ["x" * 3_000_000]
    assert session.run(["ls", "--select", "quick", *names], _ignore).exit_code == 0
