"""The dbt project on disk: where its manifest is, whether it is fresh, how it is made.

Loading a manifest reads files and nothing else: no network, no subprocess, no dbt import.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lakehouse_analytics.settings import Settings

STAMP = "lakehouse_fingerprint.json"
#: Folders that dbt reads when it parses, by their setting in dbt_project.yml, with dbt's defaults
#: (https://docs.getdbt.com/reference/dbt_project.yml).
_PATHS = {
    "model-paths": ["models"],
    "seed-paths": ["seeds"],
    "test-paths": ["tests"],
    "analysis-paths": ["analyses"],
    "macro-paths": ["macros"],
    "snapshot-paths": ["snapshots"],
    "function-paths": ["functions"],
    "docs-paths": [],
}
_PARSED = frozenset({".sql", ".yml", ".yaml", ".csv", ".md", ".py"})
#: The command that makes a manifest; every message about one ends with it.
PREPARE = "lakehouse manifest"


class ManifestError(RuntimeError):
    """The dbt project or its manifest cannot be used. The message has the command that mends it."""


@dataclass(frozen=True)
class DbtProject:
    """A dbt project and the target it is used with.

    A manifest bakes in the name of one target's database (DuckDB's: the file's name without its ending; Trino's: the
    catalog), so that each target has its own `target_path`, and another `database` makes it stale.
    """

    project_dir: Path
    profiles_dir: Path
    target: str
    target_path: Path
    #: The variable that names the database, and the name.
    database: tuple[str, str] = ("LAKEHOUSE_DUCKDB_PATH", "")

    @classmethod
    def of(cls, settings: Settings) -> DbtProject:
        """The project named by the environment."""
        database = (
            ("LAKEHOUSE_TRINO_CATALOG", settings.trino_catalog)
            if settings.on_trino
            else ("LAKEHOUSE_DUCKDB_PATH", settings.duckdb_path.stem)
        )
        return cls(settings.dbt_project_dir, settings.profiles_dir, settings.target, settings.target_path, database)

    @property
    def manifest_path(self) -> Path:
        """Where dbt writes this target's manifest."""
        return self.target_path / "manifest.json"

    def configuration(self) -> Mapping[str, Any]:
        """`dbt_project.yml` as written, unrendered.

        Raises:
            ManifestError: there is no such file.
        """
        path = self.project_dir / "dbt_project.yml"
        if not path.is_file():
            raise ManifestError(f"{path} does not exist: set LAKEHOUSE_DBT_PROJECT_DIR to the folder of a dbt project.")
        try:
            loaded = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path} is not valid YAML: {error}") from None
        return loaded if isinstance(loaded, Mapping) else {}

    def sources(self) -> Iterator[Path]:
        """Every file that dbt may parse, in a stable order."""
        configuration = self.configuration()
        folders = {name for setting, default in _PATHS.items() for name in configuration.get(setting) or default}
        # Beside them the YAML files on top: the project, packages, selectors, profiles.
        yield from sorted(path for path in self.project_dir.iterdir() if path.suffix in (".yml", ".yaml"))
        found = {path for folder in folders for path in (self.project_dir / folder).rglob("*")}
        yield from sorted(path for path in found if path.suffix in _PARSED and path.is_file())

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of every source file by relative path. Content, because images and checkouts reset times."""
        digests = {
            path.relative_to(self.project_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.sources()
        }
        profiles = self.profiles_dir / "profiles.yml"
        if profiles.is_file() and not profiles.is_relative_to(self.project_dir):
            digests["profiles.yml"] = hashlib.sha256(profiles.read_bytes()).hexdigest()
        return {**digests, "target": self.target, **dict([self.database])}

    def changes(self) -> list[str] | None:
        """Files that differ from what the manifest was made of; None when there is no manifest."""
        stamp = self.target_path / STAMP
        if not self.manifest_path.is_file() or not stamp.is_file():
            return None
        try:
            then = json.loads(stamp.read_text())
        except ValueError:
            return None
        now = self.fingerprint()
        return sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path))

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            ManifestError: missing or older than the project's files.
        """
        self.configuration()
        changed = self.changes()
        if changed is None:
            raise ManifestError(f"There is no manifest at {self.manifest_path}. Make it: {PREPARE}")
        if changed:
            some = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            raise ManifestError(
                f"The manifest at {self.manifest_path} is stale: changed since it was made: {some}. "
                f"Make it again: {PREPARE}"
            )
        try:
            loaded: dict[str, Any] = json.loads(self.manifest_path.read_bytes())
        except ValueError:
            raise ManifestError(f"{self.manifest_path} cannot be read as JSON. Make it again: {PREPARE}") from None
        return loaded
