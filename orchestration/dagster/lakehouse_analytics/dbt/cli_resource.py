"""dagster-dbt's own resource, for use in the user's assets. Importing this module imports dbt."""

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
    """`DbtCliResource` with the lakehouse's project, profile and target.

    Attributes:
        environment: Environment variables for dbt in addition to this process's own, as in builds.
        artifacts: The folder for the artifacts of the commands.
    """

    environment: dict[str, str]
    artifacts: str

    def cli(self, args: Sequence[str], *, target_path: Path | None = None, **options: Any) -> DbtCliInvocation:
        """Run a command like `DbtCliResource.cli`, with `LAKEHOUSE_DBT_VARS`.

        Artifacts are not written to the project folder.
        """
        variables = os.environ.get(VARS, "").strip()
        if variables and not any(arg.startswith("--vars") for arg in args):
            args = [*args, "--vars", variables]
        with _environment(self.environment):
            return super().cli(args, target_path=target_path or Path(tempfile.mkdtemp(dir=self.artifacts)), **options)


@contextmanager
def dbt_cli(runner: DbtRunner) -> Iterator[ProjectDbtCli]:
    """Provide dagster-dbt's resource for the project of a runner.

    Args:
        runner: The runner, which knows the project, the profile and the target.

    Yields:
        The resource. The artifacts of its commands are deleted at the end of the block.
    """
    beside = Path(sys.executable).with_name("dbt")  # found even if the virtual environment is not activated
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
    """Set environment variables of this process for the duration of a block.

    dagster-dbt passes them on to dbt, and reads the profile with them.
    """
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
