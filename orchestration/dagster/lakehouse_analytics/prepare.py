"""Makes the manifest: `dbt deps` where packages are missing, then `dbt parse`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from lakehouse_analytics.dbt_project import STAMP, DbtProject, ManifestError
from lakehouse_analytics.resources.dbt import DbtRunner


def prepare(project: DbtProject, dbt: DbtRunner, say: Callable[[str], None] = print) -> Path:
    """Parse the project into its target path, all or nothing.

    Returns:
        The manifest's path.

    Raises:
        ManifestError: dbt could not parse; with dbt's own errors. The earlier manifest stays.
    """
    configuration = project.configuration()
    if not project.profiles_dir.joinpath("profiles.yml").is_file():
        raise ManifestError(f"There is no profiles.yml in {project.profiles_dir}: set LAKEHOUSE_DBT_PROFILES_DIR.")
    try:
        project.target_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(
            f"{project.target_path} cannot be created ({error.strerror}): set LAKEHOUSE_DBT_TARGET_PATH."
        ) from None
    with tempfile.TemporaryDirectory(prefix=".parse-", dir=project.target_path) as folder:
        fresh = Path(folder)
        if _packages_are_missing(project, str(configuration.get("packages-install-path", "dbt_packages"))):
            say("dbt deps")
            _run(project, dbt, ["deps"], fresh)
        fingerprint = project.fingerprint()  # after `dbt deps`, which may write package-lock.yml
        say(f"dbt parse --target {project.target}")
        _run(project, dbt, ["parse", "--no-partial-parse"], fresh)
        if not (fresh / "manifest.json").is_file():
            raise ManifestError(
                f"`dbt parse` in {project.project_dir} wrote no manifest.json. Remove `write_json: false` "
                "from the flags in dbt_project.yml, and DBT_WRITE_JSON from the environment."
            )
        # The stamp goes first and comes last: without it the manifest counts as missing.
        (project.target_path / STAMP).unlink(missing_ok=True)
        for name in ("partial_parse.msgpack", "manifest.json"):
            if (fresh / name).is_file():
                os.replace(fresh / name, project.target_path / name)
        (fresh / STAMP).write_text(json.dumps(fingerprint, indent=0, sort_keys=True))
        os.replace(fresh / STAMP, project.target_path / STAMP)
    return project.manifest_path


def _packages_are_missing(project: DbtProject, folder: str) -> bool:
    declared = any((project.project_dir / name).is_file() for name in ("packages.yml", "dependencies.yml"))
    return declared and not (project.project_dir / folder).is_dir()


def _run(project: DbtProject, dbt: DbtRunner, args: list[str], folder: Path) -> None:
    lines: list[str] = []
    with dbt.session() as session:
        result = session.run(
            args, lambda level, message: lines.append(message) if level != "debug" else None, target_path=folder
        )
    if result.exit_code != 0:
        said = "\n".join(result.errors or lines)
        raise ManifestError(f"`dbt {args[0]}` failed in {project.project_dir} (target {project.target}):\n{said}")
