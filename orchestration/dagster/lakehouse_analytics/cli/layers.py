"""`lakehouse layers` assigns layers to the models of a dbt project that have none."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from lakehouse_analytics.cli.yaml_edit import CannotEditError, with_keys
from lakehouse_analytics.dbt.lint.suggested_yaml import as_yaml, suggested_layers
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.project import PREPARE, DbtProject, ManifestError
from lakehouse_analytics.settings import Settings

NOTHING = "# Every model, seed and snapshot is in a layer."


def yaml_of_layers(settings: Settings) -> str:
    """Return the lines of `dbt_project.yml` that assign the suggested layers.

    Raises:
        ManifestError: The manifest is stale, or the project cannot be loaded.
        ContractError: A contract of the project is invalid.
    """
    suggested = _suggested(DbtProject.from_settings(settings))
    return as_yaml(suggested) if suggested else NOTHING


def write_layers(settings: Settings) -> str:
    """Add these lines to `dbt_project.yml`.

    Returns:
        A message with the lines and the next step.

    Raises:
        ManifestError: The file cannot be changed. It is left as it is.
        ContractError: The project cannot be loaded.
    """
    project = DbtProject.from_settings(settings)
    suggested = _suggested(project)
    if not suggested:
        return NOTHING
    path = project.project_dir / "dbt_project.yml"
    try:
        _replace(path.resolve(), with_keys(path.read_text(encoding="utf-8"), suggested))
    except CannotEditError as error:
        raise ManifestError(
            f"{path} was not changed, because it cannot be edited automatically ({error}). Merge these lines into it:\n"
            f"{as_yaml(suggested)}"
        ) from None
    except OSError as error:
        raise ManifestError(f"{path} cannot be written: {error.strerror}") from None
    return f"{as_yaml(suggested)}\n# These lines were added to {path}. Review them, then run: {PREPARE}"


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically."""
    with tempfile.TemporaryDirectory(prefix=".layers-", dir=path.parent) as folder:
        replacement = Path(folder) / path.name
        replacement.write_text(text, encoding="utf-8")
        shutil.copymode(path, replacement)
        replacement.replace(path)


def _suggested(project: DbtProject) -> dict[str, Any]:
    return suggested_layers(
        read(project.manifest(), project.configuration(), project_dir=project.project_dir).tables.values()
    )
