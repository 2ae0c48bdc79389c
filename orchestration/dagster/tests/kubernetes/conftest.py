"""What the official chart makes of our values: `make helm-check CHART=…`."""

from __future__ import annotations

import pytest

from .rendered import Rendered, render


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chart", default="dagster/dagster", help="the official chart: a folder, or repository/name")
    parser.addoption("--max-connections", type=int, default=100, help="of the PostgreSQL of the instance")


@pytest.fixture(scope="session")
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """values.yaml alone: production."""
    return render(request.config.getoption("--chart"), "values.yaml")


@pytest.fixture(scope="session")
def rendered_local(request: pytest.FixtureRequest) -> Rendered:
    """With values-local.yaml on top."""
    return render(request.config.getoption("--chart"), "values.yaml", "values-local.yaml")


@pytest.fixture(params=["prod", "local"])
def either(request: pytest.FixtureRequest) -> Rendered:
    """Each of both."""
    name = "rendered" if request.param == "prod" else "rendered_local"
    found: Rendered = request.getfixturevalue(name)
    return found
