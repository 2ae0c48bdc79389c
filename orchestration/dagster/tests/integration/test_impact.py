"""`lakehouse impact`: sixty changes of three projects, compiled by real dbt without a connection, and its command."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from lakehouse_analytics.cli import main
from lakehouse_analytics.common.environment import repository_root
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.impact.compiled import Compiler
from lakehouse_analytics.impact.report import Impact, impact_of
from lakehouse_analytics.impact.side import Inputs, Side
from lakehouse_analytics.settings import Settings

from .conftest import Lakehouse
from .impact_cases import demo, events, jaffle
from .impact_cases.base import Case

#: How many of all changes must be found, with exactly what they reach.
FOUND = 57


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"))


def _apply(case: Case, folder: Path) -> None:
    for name, edit in case.edits.items():
        path = folder / name.split("#")[0]
        if edit is None:
            path.unlink()
        elif isinstance(edit, str):
            path.write_text(edit)
        else:
            text = path.read_text()
            assert edit[0] in text, f"{case.name}: {path} does not have {edit[0]!r}"
            path.write_text(text.replace(*edit))


class Project:
    """One of the three projects, of which each change is compiled in a copy."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(folder / "dbt"))
        self.folder, self._number = folder, 0
        settings = Settings.load(complete=False)
        self.project = DbtProject.from_settings(settings)
        self.runner = dbt_runner(settings, self.project)
        self.base = self.compiled()

    def compiled(self, case: Case | None = None) -> Inputs:
        self._number += 1
        folder = self.folder / str(self._number)
        shutil.copytree(self.folder / "dbt", folder / "dbt")
        if case is not None:
            _apply(case, folder / "dbt")
        runner = self.runner.model_copy(
            update={"project_dir": str(folder / "dbt"), "profiles_dir": str(folder / "dbt")}
        )
        return Compiler(self.project, runner, folder).compiled(runner, "current", "the changed project")

    def impact(self, case: Case) -> Impact:
        base = Side(self.base)
        return impact_of(base, Side(self.compiled(case), base), "main")


def _name(unique_id: str) -> str:
    """Return the name of a node, with its version if it has one."""
    parts = unique_id.split(".")
    return ".".join(parts[-2:]) if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


def _expected(text: str) -> set[str]:
    return set(text.split())


def _reached(impact: Impact) -> set[str]:
    changed = {change.unique_id for change in impact.changes}
    found = {f"exposure:{_name(name)}" for name in impact.total.exposures}
    for unique_id in impact.total.models - changed:
        name = _name(unique_id)
        columns = {"*"} if unique_id in impact.total.rows else impact.total.columns.get(unique_id, set())
        found |= {f"{name}.{column}" for column in columns}
    return found


def _changed(impact: Impact) -> set[str]:
    found = set()
    for change in impact.changes:
        name = _name(change.unique_id)
        found |= {f"{name}.*"} if change.rows else set()
        found |= {f"{name}.{column.column}:{column.kind}" for column in change.columns}
    return found


def _problems(case: Case, impact: Impact) -> list[str]:
    """Return how the result differs from what was expected."""
    breaks = {f"{_name(item.unique_id)}.{item.column}".rstrip(".") for item in impact.breaks}
    expected = _expected(case.breaks)
    pairs = (
        ("reached", _expected(case.reaches), _reached(impact)),
        ("changed", _expected(case.changed), _changed(impact)),
        ("metrics", _expected(case.metrics), {_name(name) for name in impact.total.metrics}),
    )
    problems = [
        f"{what}: not {sorted(want - got)}, but {sorted(got - want)}" for what, want, got in pairs if want != got
    ]
    if expected - breaks or (breaks and not expected):
        problems.append(f"breaks: not {sorted(expected - breaks)}, but {sorted(breaks - expected)}")
    return problems


@pytest.fixture(scope="module")
def missed() -> list[str]:
    """The changes that were not found as expected, of all three projects."""
    return []


def _run(project: Project, cases: Sequence[Case], missed: list[str]) -> None:
    unseen = []
    for case in cases:
        impact = project.impact(case)
        if problems := _problems(case, impact):
            missed.append(f"{case.name}: {'; '.join(problems)}")
            print(missed[-1])
        if case.breaks and not impact.breaks:
            unseen.append(case.name)
    assert unseen == [], "a breaking change was missed"


@pytest.mark.nightly
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: list[str]) -> None:
    ignore = shutil.ignore_patterns("target", "logs", "dbt_packages")
    shutil.copytree(repository_root() / "dbt", tmp_path / "dbt", ignore=ignore)
    _run(Project(tmp_path, monkeypatch), demo.CASES, missed)


@pytest.mark.nightly
def test_jaffle_on_trino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: list[str]) -> None:
    _write(tmp_path / "dbt", jaffle.FILES)
    _run(Project(tmp_path, monkeypatch), jaffle.CASES, missed)


@pytest.mark.nightly
def test_events_on_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: list[str]) -> None:
    _write(tmp_path / "dbt", events.FILES)
    _run(Project(tmp_path, monkeypatch), events.CASES, missed)


@pytest.mark.nightly
def test_almost_all_are_found(missed: list[str]) -> None:
    cases = [*demo.CASES, *jaffle.CASES, *events.CASES]
    assert len(cases) == 60
    assert len(cases) - len(missed) >= FOUND, "\n".join(missed)


def _git(folder: Path, *args: str) -> None:
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with the dbt project in a folder, and a change that is not committed."""
    _write(tmp_path / "dbt", events.FILES)
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "base")
    monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(tmp_path / "dbt"))
    _apply(events.CASES[14], tmp_path / "dbt")
    return tmp_path


def _status(folder: Path) -> str:
    done = subprocess.run(["git", "status", "--short"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def test_the_command_compares_with_a_git_ref(repository: Path) -> None:
    before = _status(repository)
    done = CliRunner().invoke(main, ["impact", "--base", "HEAD", "--fail-on", "breaking"])
    assert "✘ model activity.day (renamed to date_day): exposure activity_board may read it" in done.output
    assert done.exit_code == 1
    assert _status(repository) == before == " M dbt/models/activity.sql\n"


def test_the_command_compares_with_a_manifest(repository: Path) -> None:
    _git(repository, "stash")
    assert CliRunner().invoke(main, ["manifest"]).exit_code == 0
    _git(repository, "stash", "pop")
    manifest = DbtProject.from_settings(Settings.load(complete=False)).manifest_path
    shutil.copytree(manifest.parent, repository / "deployed")
    command = ["impact", "--base", str(repository / "deployed" / "manifest.json"), "--format", "json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(item["unique_id"], item["column"]) for item in found["breaks"]] == [("model.events.activity", "day")]
    (repository / "deployed" / "partial_parse.msgpack").unlink()
    done = CliRunner().invoke(main, command)
    assert "has no compiled SQL" in done.output
    assert done.exit_code == 1


def test_one_error_for_what_cannot_be_compared(repository: Path) -> None:
    def error(base: str) -> str:
        done = CliRunner().invoke(main, ["impact", "--base", base])
        assert done.exit_code == 1
        return str(done.output)

    assert error("no-such-branch").startswith("Error: no-such-branch is neither a file nor a commit of ")
    assert error("missing/manifest.json").startswith("Error: missing/manifest.json does not exist")
    _git(repository, "checkout", "-q", ".")
    (repository / "dbt/models/plans.sql").write_text("select * from {{ ref('nothing') }}")
    on_disk = error("HEAD")
    assert on_disk.startswith("Error: `dbt compile` failed for the project as it is on disk:\n")
    assert "The project has no nothing, which a `ref` or `source` still names. If it was removed" in on_disk
    _git(repository, "commit", "-qam", "does not compile")
    assert error("HEAD").startswith("Error: `dbt compile` failed for the project at HEAD:\n")


def test_a_run_reports_the_lineage_of_columns(lakehouse: Lakehouse) -> None:
    lakehouse.files |= {
        "models/silver/sa.sql": "with a as (select * from {{ ref('a') }}) select id, n + 1 as n from a",
        "models/gold/ga.sql": "with sa as (select * from {{ ref('sa') }}) select sum(n) as n, 1 as one from sa",
    }
    lakehouse.write()
    outcome = lakehouse.run("full_refresh")
    assert outcome.success, outcome.failure

    def deps(asset: str) -> dict[str, list[tuple[str, str]]]:
        lineage = outcome.metadata[asset]["dagster/column_lineage"]
        return {
            column: [(dep.asset_key.to_user_string(), dep.column_name) for dep in found]
            for column, found in lineage.deps_by_column.items()
        }

    assert deps("bronze/a") == {"id": [("raw/a", "id")], "n": [("raw/a", "n")]}
    assert deps("silver/sa") == {"id": [("bronze/a", "id")], "n": [("bronze/a", "n")]}
    assert deps("gold/ga") == {"n": [("silver/sa", "n")]}
    assert deps("metrics/m") == {"a": [("gold/ga", "n")], "b": [("gold/gb", "n")]}
