"""docs/add-a-check.md, followed: its module and its line are all that a new kind of check needs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import dagster as dg
import pytest
from lakehouse_analytics.checks import registry
from lakehouse_analytics.checks.registry import EvaluationPoint, Kind
from lakehouse_analytics.settings import repository_root

from .conftest import BELOW_A, EVERYTHING, Lakehouse

NAME = "future_rows"
IN_FUTURE = "current_timestamp + interval 1 day"


@pytest.fixture
def code() -> str:
    """The module as the page has it."""
    text = (repository_root() / "docs" / "add-a-check.md").read_text()
    [module] = re.findall(rf'```python title="lakehouse_analytics/checks/{NAME}.py"\n(.*?)```', text, re.DOTALL)
    assert f'Kind("lakehouse_analytics.checks.{NAME}", EvaluationPoint.WITH_TABLES, ("{NAME}",))' in text
    return str(module)


def register(name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file and one line."""
    module = f"docs_{name}"
    folder = tmp_path / "python"
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, Kind(module, EvaluationPoint.WITH_TABLES, (name,))))


@pytest.fixture
def shop(lakehouse: Lakehouse) -> Lakehouse:
    """Two tables have an event time, one of them in the future."""
    time = "{{{{ config(event_time='at') }}}} select id, n, {at} as at from {{{{ source('raw', '{name}') }}}}"
    lakehouse.files["models/bronze/a.sql"] = time.format(name="a", at=IN_FUTURE)
    lakehouse.files["models/bronze/b.sql"] = time.format(name="b", at="current_timestamp - interval 1 day")
    lakehouse.write()
    return lakehouse


def test_a_kind_is_one_file_and_one_line(
    shop: Lakehouse, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(NAME, code, tmp_path, monkeypatch)
    outcome = shop.run()
    assert outcome.success, outcome.failure
    assert outcome.built == EVERYTHING
    found = {check: passed for check, passed in outcome.checks.items() if NAME in check}
    assert found == {f"bronze/a:{NAME}": False, f"bronze/b:{NAME}": True}
    alone = shop.run(checks=dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["bronze", "b"]), NAME)))
    assert (alone.success, alone.built, alone.checks) == (True, set(), {f"bronze/b:{NAME}": True})


def test_a_blocking_spec_is_a_gate_and_a_kind_that_fails_fails_its_own_check(
    shop: Lakehouse, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = code.replace(f'NAME = "{NAME}"', 'NAME = "gate"').replace(
        "AssetCheckSpec(NAME,", "AssetCheckSpec(NAME, blocking=True,"
    )
    register("gate", gate.replace("AssetCheckSeverity.WARN", "AssetCheckSeverity.ERROR"), tmp_path, monkeypatch)
    broken = code.replace(f'NAME = "{NAME}"', 'NAME = "broken"').replace("[[rows]] =", "[[rows, more]] =")
    register("broken", broken, tmp_path, monkeypatch)
    # No contract: `a` gates by nothing but this check.
    shop.files["models/bronze/bronze.yml"] = "models: [{name: a}, {name: b}]\n"
    shop.write()
    outcome = shop.run()
    assert not outcome.success
    assert "bronze/a failed its gate: gate" in outcome.failure
    assert outcome.built == EVERYTHING - BELOW_A
    assert outcome.checks["bronze/b:gate"]
    for table in ("bronze/a", "bronze/b"):
        assert outcome.descriptions[f"{table}:broken"].startswith("not evaluated: ValueError")
        assert outcome.checks[f"{table}:row_count"]
