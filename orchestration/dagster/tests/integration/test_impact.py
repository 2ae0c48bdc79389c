"""`lakehouse impact`: sixty changes of three projects, compiled by real dbt without a connection, and its command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from lakehouse_analytics.common.environment import repository_root
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.impact.compiled import Compiler
from lakehouse_analytics.impact.report import Impact, impact_of
from lakehouse_analytics.impact.side import Inputs, Side
from lakehouse_analytics.settings import Settings

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


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: list[str]) -> None:
    ignore = shutil.ignore_patterns("target", "logs", "dbt_packages")
    shutil.copytree(repository_root() / "dbt", tmp_path / "dbt", ignore=ignore)
    _run(Project(tmp_path, monkeypatch), demo.CASES, missed)


def test_jaffle_on_trino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: list[str]) -> None:
    _write(tmp_path / "dbt", jaffle.FILES)
    _run(Project(tmp_path, monkeypatch), jaffle.CASES, missed)


def test_events_on_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: list[str]) -> None:
    _write(tmp_path / "dbt", events.FILES)
    _run(Project(tmp_path, monkeypatch), events.CASES, missed)


def test_almost_all_are_found(missed: list[str]) -> None:
    cases = [*demo.CASES, *jaffle.CASES, *events.CASES]
    assert len(cases) == 60
    assert len(cases) - len(missed) >= FOUND, "\n".join(missed)
