"""docs/add-a-check.md, followed: its module and its line are all that a new kind of check needs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import dagster as dg
import pytest
from lakehouse_analytics.checks import registry
from lakehouse_analytics.checks.registry import Evaluated, Kind
from lakehouse_analytics.settings import repository_root

from .conftest import BELOW_A, EVERYTHING, Lakehouse

MODULE, NAME = "future_rows_of_the_docs", "future_rows"
IN_FUTURE = "current_timestamp + interval 1 day"


@pytest.fixture
def code() -> str:
    """The module as the page has it."""
    text = (repository_root() / "docs" / "add-a-check.md").read_text()
    [module] = re.findall(rf'```python title="lakehouse_analytics/checks/{NAME}.py"\n(.*?)```', text, re.DOTALL)
    assert f'Kind("lakehouse_analytics.checks.{NAME}", Evaluated.WITH_TABLES, ("{NAME}",))' in text
    return module


def register(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file and one line."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / f"{MODULE}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "python")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, Kind(MODULE, Evaluated.WITH_TABLES, (NAME,))))


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
    assert not any(NAME in check for check in shop.run(assets=["bronze/a"]).checks)
    register(code, tmp_path, monkeypatch)
    outcome = shop.run()
    assert outcome.success, outcome.failure
    assert outcome.built == EVERYTHING
    found = {check: passed for check, passed in outcome.checks.items() if NAME in check}
    assert found == {f"bronze/a:{NAME}": False, f"bronze/b:{NAME}": True}
    alone = shop.run(checks=dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["bronze", "b"]), NAME)))
    assert (alone.success, alone.built, alone.checks) == (True, set(), {f"bronze/b:{NAME}": True})


def test_a_blocking_spec_is_a_gate(shop: Lakehouse, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocking = code.replace("AssetCheckSpec(NAME,", "AssetCheckSpec(NAME, blocking=True,")
    register(blocking.replace("AssetCheckSeverity.WARN", "AssetCheckSeverity.ERROR"), tmp_path, monkeypatch)
    # `b` gates by nothing but this check.
    shop.files["models/bronze/b.sql"], shop.files["models/bronze/a.sql"] = (
        shop.files[f"models/bronze/{name}.sql"].replace(f"'{name}'", f"'{other}'")
        for name, other in (("a", "b"), ("b", "a"))
    )
    shop.write()
    outcome = shop.run()
    assert not outcome.success
    assert f"bronze/b failed its gate: {NAME}" in outcome.failure
    assert {table.replace("a", "b") for table in BELOW_A} & outcome.built == set()
    assert {"bronze/a", "silver/sa", "gold/ga"} <= outcome.built


def test_a_kind_that_fails_fails_its_own_check(
    shop: Lakehouse, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(code.replace("[[rows]] =", "[[rows, more]] ="), tmp_path, monkeypatch)
    outcome = shop.run(assets=["bronze/a", "bronze/b"])
    assert outcome.success, outcome.failure
    assert not outcome.checks[f"bronze/a:{NAME}"]
    assert outcome.descriptions[f"bronze/a:{NAME}"].startswith("not evaluated: ValueError")
    assert outcome.checks["bronze/a:row_count"]
