"""dagster-dbt's own resource, for the user's assets. Importing this module imports dbt."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster_dbt import DbtCliInvocation, DbtCliResource  # noqa: TID253  # imported where it is used

from lakehouse_analytics.dbt.runner import VARS, DbtRunner


class ProjectDbtCli(DbtCliResource):
    """`DbtCliResource` of the lakehouse's project, profile and target.

    Attributes:
        environment: Variables for dbt beside this process's own, as builds get them.
        artifacts: Folder for the artifacts of each command.
    """

    environment: dict[str, str]
    artifacts: str

    def cli(self, args: Sequence[str], *, target_path: Path | None = None, **options: Any) -> DbtCliInvocation:
        """As `DbtCliResource.cli`, with `LAKEHOUSE_DBT_VARS`, and without a write to the project's folder."""
        variables = os.environ.get(VARS, "").strip()
        if variables and not any(arg.startswith("--vars") for arg in args):
            args = [*args, "--vars", variables]
        with _environment(self.environment):
            return super().cli(args, target_path=target_path or Path(tempfile.mkdtemp(dir=self.artifacts)), **options)


@contextmanager
def dbt_cli(runner: DbtRunner) -> Iterator[ProjectDbtCli]:
    """dagster-dbt's resource, for what a runner runs.

    Args:
        runner: Knows the project, the profile and the target.

    Yields:
        The resource. Artifacts of its commands last as long as the block.
    """
    beside = Path(sys.executable).with_name("dbt")  # also where the virtual environment is not activated
    with tempfile.TemporaryDirectory(prefix="lakehouse-dbt-") as folder:
        yield ProjectDbtCli(
            project_dir=runner.project_dir,
            profiles_dir=runner.profiles_dir,
            target=runner.target,
            dbt_executable=str(beside) if beside.exists() else "dbt",
            environment={
                **runner.environment,
                **runner.database_environment,
                "DBT_TARGET_PATH": runner.target_path,  # where dagster-dbt finds the parsed project
            },
            artifacts=folder,
        )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process for a while: dagster-dbt passes them on, and reads the profile with them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
