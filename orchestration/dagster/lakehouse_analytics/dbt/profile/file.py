"""Finds `profiles.yml` where dbt looks for it, and reads YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lakehouse_analytics.common.paths import expanded, is_file
from lakehouse_analytics.common.text import MAX_TEXT, brief

FILE = "profiles.yml"
#: The loader of libyaml if PyYAML was built with it, because it is ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ProfileError(ValueError):
    """The profile cannot be used. The message names the file and what to change."""


def load_yaml(path: Path) -> Mapping[str, Any]:
    """Read a YAML file that contains a mapping. An empty file is an empty mapping.

    Raises:
        ProfileError: The file cannot be read, or contains something else.
    """
    try:
        loaded = yaml.load(path.read_text(), Loader=_LOADER)  # noqa: S506  # a safe loader
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} is not valid YAML: {brief(error, MAX_TEXT)}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, Mapping):
        raise ProfileError(f"{path} must contain a YAML mapping, not a {type(loaded).__name__}.")
    return loaded


@dataclass(frozen=True)
class Place:
    """The folder of `profiles.yml`.

    Attributes:
        folder: The folder.
        reason: The variable that names the folder, for messages; empty if dbt finds it, and `default` if dbt would not
            find it anywhere.
    """

    folder: Path
    reason: str

    @property
    def file(self) -> Path:
        """The path of `profiles.yml`."""
        return self.folder / FILE


def find(project_dir: Path, explicit: Path | None, environment: Mapping[str, str]) -> Place:
    """Find `profiles.yml` where dbt looks for it: our setting, dbt's variable, the project, the home directory.

    dbt looks in its working directory, which for us is the project's folder. See
    https://docs.getdbt.com/docs/core/connect-data-platform/connection-profiles#advanced-customizing-a-profile-directory
    """
    if explicit:
        return Place(explicit, "LAKEHOUSE_DBT_PROFILES_DIR")
    if named := environment.get("DBT_PROFILES_DIR"):
        return Place(project_dir / expanded(named), "DBT_PROFILES_DIR")
    if is_file(project_dir / FILE):
        return Place(project_dir, "")
    home = Path.home() / ".dbt"
    return Place(home, "") if is_file(home / FILE) else Place(project_dir, "default")
