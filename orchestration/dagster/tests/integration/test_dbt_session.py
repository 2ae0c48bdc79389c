"""dbt's commands, as `lakehouse manifest` runs them: they end, whatever they print and however they die."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from lakehouse_analytics.dbt.run_results import DbtResult
from lakehouse_analytics.dbt.runner import DbtRunner, DbtSession

pytestmark = pytest.mark.new_interpreter

MODELS = {
    "quick.sql": "select 1 as x",
    "slow.sql": "select sum(a.range * b.range) as x from range(2000000) as a, range(1000000) as b",
    "broken.sql": "select no_such_column from (select 1 as x) as t",
    "suicidal.py": """
import os, signal

def model(dbt, session):
    os.kill(os.getpid(), signal.SIGKILL)
    return session.sql("select 1 as x")
""",
}


class Shop:
    """A project, and its lines of log."""

    def __init__(self, root: Path) -> None:
        self.target, self.said = root / "target", list[str]()
        project = root / "dbt"
        (project / "models").mkdir(parents=True)
        (project / "dbt_project.yml").write_text(
            '{name: p, version: "1.0", profile: p, models: {+materialized: table}}'
        )
        output = {"type": "duckdb", "path": str(root / "p.duckdb"), "schema": "main", "threads": 2}
        (project / "profiles.yml").write_text(str({"p": {"target": "local", "outputs": {"local": output}}}))
        for name, text in MODELS.items():
            (project / "models" / name).write_text(text)
        self.runner = DbtRunner(
            project_dir=str(project), profiles_dir=str(project), target="local", target_path=str(self.target)
        )

    def build(self, session: DbtSession, model: str) -> DbtResult:
        def log(_level: str, message: str) -> None:
            self.said.append(message)
            if "START sql table model main.slow" in message:
                raise KeyboardInterrupt

        return session.run(["build", "--select", model], log, target_path=self.target)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def session(shop: Shop) -> Iterator[DbtSession]:
    with shop.runner.session("duckdb") as session:
        yield session


def _children() -> list[str]:
    return [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]


def test_commands_follow_each_other_with_their_results(shop: Shop, session: DbtSession) -> None:
    built = shop.build(session, "quick")
    assert (built.exit_code, built.crashed) == (0, False)
    assert built.nodes["model.p.quick"].status == "success"
    assert any("OK created" in line for line in shop.said)

    broken = shop.build(session, "broken")
    assert (broken.exit_code, broken.crashed) == (1, False)
    assert "no_such_column" in broken.nodes["model.p.broken"].message

    unknown = session.run(["no-such-command"], lambda *_: None, target_path=shop.target)
    assert unknown.crashed
    assert "no-such-command" in unknown.reason


def test_a_command_that_is_killed_is_a_crash_and_the_next_one_runs(shop: Shop, session: DbtSession) -> None:
    killed = shop.build(session, "suicidal")
    assert killed.crashed
    assert killed.exit_code == -signal.SIGKILL
    assert "It was killed, most often because memory ran out: give runs more" in killed.reason

    assert shop.build(session, "quick").exit_code == 0


def test_an_interrupted_command_is_cancelled_and_leaves_no_process(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse_analytics.dbt.session.TERMINATION_SECONDS", 3.0)
    with pytest.raises(KeyboardInterrupt), shop.runner.session("duckdb") as session:
        shop.build(session, "slow")
    assert not [child for child in _children() if "-m lakehouse_analytics.dbt.server" in child]

    with shop.runner.session("duckdb") as session:
        assert shop.build(session, "quick").exit_code == 0


def test_an_adapter_that_cannot_be_imported_is_a_crash_with_a_reason(shop: Shop) -> None:
    with shop.runner.session("no_such_adapter") as session:
        result = shop.build(session, "quick")
    assert result.crashed
    assert "No module named 'dbt.adapters.no_such_adapter'" in result.reason
