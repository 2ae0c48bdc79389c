"""What every test of the code location shares: an environment of its own, and golden files."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two shared cores are no place for deadlines; the same examples in every run are.
settings.register_profile(
    "lakehouse", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lakehouse")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write golden files instead of comparing them.")
    # Of `helm` and `cluster`: an option can be declared once.
    parser.addoption("--chart", default="dagster/dagster", help="the official chart: a folder, or repository/name")
    parser.addoption("--chart-version", default="", help="the release to pull, if --chart is of a repository")
    parser.addoption(
        "--brief", action="store_true", help="leave out the tests marked nightly, as .ci/run does for a push"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is nightly on every engine; `integration` leaves out what is nightly on the one it runs on."""
    if config.getoption("--brief"):
        markers = {item: item.get_closest_marker("nightly") for item in items}
        left = [item for item, marker in markers.items() if marker is not None and not marker.args]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


class Golden:
    """A text that people review, beside the test that produces it."""

    def __init__(self, folder: Path, *, update: bool) -> None:
        self.folder, self.update = folder, update

    def check(self, name: str, text: str) -> None:
        """Fail with a diff unless the file `name` holds `text`; with --update-golden, write it."""
        path = self.folder / name
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        before = path.read_text() if path.is_file() else ""
        if before != text:
            diff = difflib.unified_diff(before.splitlines(), text.splitlines(), f"{name} (golden)", "now", lineterm="")
            pytest.fail("\n".join([*diff, "", "Right as it is now? pytest --update-golden"]), pytrace=False)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Golden files in the folder `golden` beside the test."""
    return Golden(request.path.parent / "golden", update=request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the developer's shell has set, tests start from the defaults."""
    for name in [*os.environ]:
        if name.upper().startswith("LAKEHOUSE_") or name.startswith("DAGSTER_"):
            monkeypatch.delenv(name)
