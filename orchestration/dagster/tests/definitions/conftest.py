"""The repository's dbt project, parsed once for each target, and code locations loaded from projects."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import pytest
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.prepare import prepare
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.settings import Settings

#: The repository's own project keeps to every policy.
STRICT = {"LAKEHOUSE_STRICT": "true"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("definitions")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Only these of our and of Dagster's variables."""
    others = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_", "DBT_"))}
    with patch.dict(os.environ, {**others, **variables}, clear=True):
        yield


class Location:
    """A dbt project, prepared, and the environment that makes this code location load it."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)
        with environment(self.variables):
            self.settings = Settings.load()
        self.project = DbtProject.from_settings(self.settings)

    @classmethod
    def written(cls, folder: Path, files: Mapping[str, str], variables: Mapping[str, str]) -> Location:
        """A project of these files."""
        for path, text in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.lstrip("\n"))
        return cls(variables).prepare()

    def prepare(self) -> Location:
        prepare(self.project, dbt_runner(self.settings, self.project), echo=lambda _: None)
        return self

    @property
    def graph(self) -> Graph:
        return read(self.project.manifest(), self.project.configuration(), strict=self.settings.strict)

    def load(self) -> dg.Definitions:
        """Load the module again, as Dagster does."""
        module = importlib.import_module("lakehouse_analytics.definitions")
        with environment(self.variables):
            loaded: Any = module.defs
            definitions: dg.Definitions = loaded()
            return definitions


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """The repository's project on DuckDB."""
    folder = str(tmp_path_factory.mktemp("local"))
    return Location({"LAKEHOUSE_DBT_TARGET_PATH": folder, **STRICT}).prepare()


@pytest.fixture(scope="session")
def trino(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """The repository's project on Trino: parsed, never connected to."""
    folder = str(tmp_path_factory.mktemp("trino"))
    return Location({"LAKEHOUSE_DBT_TARGET_PATH": folder, "LAKEHOUSE_DBT_TARGET": "trino", **STRICT}).prepare()


@pytest.fixture(scope="session")
def definitions(local: Location) -> dg.Definitions:
    return local.load()
