"""`make helm-check CHART=…`: the official chart with our values, before a cluster sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from .chart import Chart, merged
from .rendered import VALUES, render
from .rules import Subject

Made = Callable[..., Subject]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--release", default="dagster", help="the name of the release")
    parser.addoption(
        "--values", nargs="*", default=[], help="values files, as `helm -f` takes them; default: the example"
    )
    parser.addoption("--example", action="store_true", help="the values are the example's: nothing in them is SET yet")
    parser.addoption("--max-connections", type=int, default=100, help="max_connections of the instance's PostgreSQL")


@pytest.fixture(scope="session")
def chart(request: pytest.FixtureRequest) -> Chart:
    return Chart.of(request.config.getoption("--chart"), request.config.getoption("--chart-version"))


@pytest.fixture(scope="session")
def make(request: pytest.FixtureRequest, chart: Chart) -> Made:
    """Renders the chart with files of values and more of helm's options."""
    made: dict[tuple[object, ...], Subject] = {}

    def subject(files: tuple[Path, ...], *words: str, release: str | None = None, extra: str = "") -> Subject:
        """`extra` is YAML on top of the files."""
        name = release or request.config.getoption("--release")
        key = (files, words, name, extra)
        if key not in made:
            values: dict[str, object] = {}
            for text in [*(path.read_text() for path in files), extra]:
                values = merged(values, yaml.safe_load(text) or {})
            options = [word for path in files for word in ("-f", str(path))]
            if extra:
                path = request.config.stash[FOLDER] / f"{len(made)}.yaml"
                path.write_text(extra)
                options += ["-f", str(path)]
            rendered = render(chart.folder, name, *options, *words)
            limit = request.config.getoption("--max-connections")
            made[key] = Subject(chart, values, rendered, name, limit)
        return made[key]

    return subject


FOLDER = pytest.StashKey[Path]()


@pytest.fixture(scope="session", autouse=True)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    request.config.stash[FOLDER] = tmp_path_factory.mktemp("values")


@pytest.fixture(scope="session")
def production(request: pytest.FixtureRequest, make: Made) -> Subject:
    """The files of --values, or values.yaml."""
    given = tuple(Path(path).resolve() for path in request.config.getoption("--values"))
    return make(given or (VALUES / "values.yaml",))


@pytest.fixture(scope="session")
def local(make: Made) -> Subject:
    """values.yaml and values-local.yaml, for a trial."""
    return make((VALUES / "values.yaml", VALUES / "values-local.yaml"), release="dagster")
