"""The dbt project on disk: the location of its manifest, and whether the manifest is up to date.

A manifest depends not only on files, but also on environment variables, `--vars` and the names in the profile, which
dbt renders into it. The fingerprint next to it covers the same inputs, so that a code location never counts one table
while dbt builds another. Loading a manifest only reads files: it uses no network and no subprocess, and does not import
dbt.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakehouse_analytics.common.names import some
from lakehouse_analytics.common.paths import is_file, is_folder
from lakehouse_analytics.common.redact import Redactor, secret_values
from lakehouse_analytics.common.text import MAX_TEXT, brief, shortened
from lakehouse_analytics.dbt import manifest_shape
from lakehouse_analytics.dbt import profile as dbt_profile
from lakehouse_analytics.dbt.manifest_shape import ShapeError
from lakehouse_analytics.dbt.profile import Jinja, Profile, ProfileError, is_secret
from lakehouse_analytics.settings import Settings

STAMP = "lakehouse_fingerprint.json"
#: Version of the fingerprint's format.
VERSION = 2
#: dbt's defaults for the folders that it parses, by setting of dbt_project.yml
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
#: YAML files next to dbt_project.yml that do not influence the manifest. dbt stores the id of its user in the second.
_NOT_PARSED = (dbt_profile.FILE, ".user.yml")
#: Lists files that dbt ignores (https://docs.getdbt.com/reference/dbtignore).
_IGNORE = ".dbtignore"
#: Suffixes of the files that dbt parses, in lower case. dbt ignores the case: `orders.SQL` is a model.
_PARSED = frozenset({".sql", ".yml", ".yaml", ".csv", ".md", ".py"})
#: The fields of the target that influence the manifest, as messages name them.
_FIELDS = {
    "target": "the dbt target",
    "type": "the dbt target's type",
    "database": "the dbt target's database",
    "schema": "the dbt target's schema",
    "attached": "the databases that the dbt target attaches",
}
#: The command that makes a manifest, for messages.
PREPARE = "lakehouse manifest"
#: Environment variables that models may read at run time and that may therefore differ between the build of an image
#: and a run. They still count if a YAML file reads them.
RUN_TIME = frozenset(
    f"LAKEHOUSE_{name}"
    for name in (
        "RUN_ID", "JOB", "PARTITION", "WHOLE_HISTORY", "TIMEZONE", "DBT_THREADS", "TRINO_HOST", "TRINO_PORT",
        "TRINO_HTTP_SCHEME", "TRINO_USER", "TRINO_SESSION_PROPERTIES", "TRINO_CLIENT_CERTIFICATE", "TRINO_CLIENT_KEY",
        "TRINO_CA_BUNDLE",
    )
)  # fmt: skip

Fingerprint = dict[str, Any]


class ManifestError(RuntimeError):
    """The dbt project or its manifest cannot be used. The message says what to do."""


@dataclass(frozen=True)
class DbtProject:
    """A dbt project and its target.

    A manifest contains the names of one target's databases and schemas, so each target has its own `target_path`.

    Attributes:
        project_dir: The folder of the project.
        profiles_dir: The folder of `profiles.yml`.
        target: The name of the target.
        target_path: The folder of the manifest.
        profile: The target's profile, or None if it cannot be read.
        problem: The reason why the profile cannot be read, or an empty string.
        variables: dbt's `--vars`.
        environment: The environment variables that dbt gets.
    """

    project_dir: Path
    profiles_dir: Path
    target: str
    target_path: Path
    profile: Profile | None = field(default=None, repr=False)
    problem: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False, compare=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> DbtProject:
        """Return the project of the settings."""
        profile, problem = None, ""
        try:
            profile = settings.profile
        except ProfileError as error:
            problem = str(error)
        return cls(
            settings.dbt_project_dir,
            settings.profiles_dir,
            settings.target,
            settings.target_path,
            profile,
            problem,
            settings.dbt_vars,
            {**os.environ, **settings.dbt_environment()},
        )

    @property
    def manifest_path(self) -> Path:
        """The path of this target's manifest."""
        return self.target_path / "manifest.json"

    @property
    def stamp_path(self) -> Path:
        """The path of the manifest's fingerprint."""
        return self.target_path / STAMP

    def configuration(self) -> Mapping[str, Any]:
        """Return `dbt_project.yml` as written, unrendered.

        Raises:
            ManifestError: The file does not exist or is not valid YAML.
        """
        path = self.project_dir / "dbt_project.yml"
        if not is_file(path):
            raise ManifestError(
                f"{brief(path, MAX_TEXT)} does not exist: set LAKEHOUSE_DBT_PROJECT_DIR to the folder of a dbt project."
            )
        try:
            return dbt_profile.load_yaml(path)
        except ProfileError as error:
            raise ManifestError(str(error)) from None

    @property
    def packages_dir(self) -> Path:
        """The folder in which `dbt deps` installs packages."""
        return self.project_dir / str(self._rendered(self.configuration().get("packages-install-path", "dbt_packages")))

    def sources(self) -> Iterator[Path]:
        """Yield the files of the project and its installed packages that dbt may parse, in a stable order."""
        yield from self._sources_of(self.project_dir, self.configuration())
        packages = self.packages_dir
        for package in sorted(packages.iterdir()) if is_folder(packages) else ():
            path = package / "dbt_project.yml"
            if path.is_file():
                try:
                    yield from self._sources_of(package, dbt_profile.load_yaml(path))
                except ProfileError as error:
                    raise ManifestError(str(error)) from None

    def _sources_of(self, folder: Path, configuration: Mapping[str, Any]) -> Iterator[Path]:
        # The YAML files at the top level: the project, packages, selectors. Of the profile, only some fields count.
        yield from sorted(
            path
            for path in folder.iterdir()
            if (path.suffix in (".yml", ".yaml") and path.name not in _NOT_PARSED) or path.name == _IGNORE
        )
        found: set[Path] = set()
        for setting, default in _PATHS.items():
            named = self._rendered(configuration.get(setting) or default)
            for name in named if isinstance(named, list) else [named]:
                found |= {path for path in _walk(folder / str(name)) if path.suffix.lower() in _PARSED}
        yield from sorted(found)

    def _rendered(self, value: Any) -> Any:
        try:
            return Jinja(self.environment, {}, self.variables).render(value, "dbt_project.yml")
        except ProfileError:
            return value  # dbt reports the error

    def fingerprint(self, variables: Mapping[str, str] | Collection[str] = ()) -> Fingerprint:
        """Return the inputs of a manifest in their current state.

        Args:
            variables: The names of environment variables that dbt read, except those of the connection.

        Returns:
            `files`: the SHA-256 hash of each file's content by relative path, because building an image or checking out
            a repository resets modification times. `profile`: the names that the target sets. `variables` and `vars`:
            the values of the environment variables and of `--vars`, except possible secrets.
        """
        return {
            "version": VERSION,
            "files": {
                _relative(path, self.project_dir): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in self.sources()
            },
            "profile": self.profile.names() if self.profile else {"target": self.target},
            "variables": {
                name: _public(name, value) if (value := self.environment.get(name)) is not None else None
                for name in sorted(variables)
                if not is_secret(name)
            },
            "vars": {
                name: _public(name, value, json.dumps(_plain(value), sort_keys=True, default=str))
                for name, value in sorted(self.variables.items())
                if not is_secret(name)
            },
        }

    def changes(self) -> list[str] | None:
        """Return the inputs that have changed since the manifest was made, or None if there is no manifest."""
        if not is_file(self.manifest_path) or not is_file(self.stamp_path):
            return None
        try:
            then = json.loads(self.stamp_path.read_bytes())
        except ValueError:
            then = None
        if not _is_fingerprint(then):
            return [f"{STAMP} (not in the format of this version)"]
        now = self.fingerprint(then["variables"])
        return [
            *_changed_files(then["files"], now["files"]),
            *(
                f"{_FIELDS[name]} ({_describe_old(before)}, {_describe_new(after)}{self._variables_hint(name)})"
                for name, before, after in _differences(then["profile"], now["profile"])
                if name in _FIELDS
            ),
            *(
                f"the environment variable {brief(name)} ({_describe_old(before)}, {_describe_new(after)})"
                for name, before, after in _differences(then["variables"], now["variables"])
            ),
            *(
                f"the variable `{brief(name)}` of LAKEHOUSE_DBT_VARS ({_describe_old(before)}, {_describe_new(after)})"
                for name, before, after in _differences(then["vars"], now["vars"])
            ),
        ]

    def _variables_hint(self, name: str) -> str:
        fields = {"database": ("path", "database", "catalog"), "schema": ("schema",), "attached": ("attach",)}
        variables = self.profile.variables(*fields.get(name, ())) if self.profile else []
        return f"; it reads {some([brief(name) for name in variables])}" if variables else ""

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            ManifestError: The profile cannot be used, or the manifest is missing, stale, or not written by dbt.
        """
        self.configuration()
        if self.problem:
            raise ManifestError(self.problem)
        changed = self.changes()
        if changed is None:
            how = self._how_to_make(f", with `{brief(self.target)}` among its LAKEHOUSE_TARGETS")
            raise ManifestError(f"There is no manifest at {self.manifest_path}. {how}")
        if changed:
            how = self._how_to_make(", or set a variable that differs to the value that the build had", again=True)
            raise ManifestError(
                f"The manifest at {self.manifest_path} is stale: changed since it was made: {some(changed)}. {how}"
            )
        try:
            loaded = json.loads(self.manifest_path.read_bytes().decode())  # decoded, so that the bytes are released
        except (ValueError, RecursionError):
            how = self._how_to_make(again=True)
            raise ManifestError(f"{self.manifest_path} cannot be read as JSON. {how}") from None
        try:
            manifest_shape.check(loaded)
        except ShapeError as error:
            how = self._how_to_make(again=True)
            raise ManifestError(f"{self.manifest_path} is not a manifest as dbt writes it: {error}. {how}") from None
        return dict(loaded)

    def _how_to_make(self, in_an_image: str = "", *, again: bool = False) -> str:
        """Return the last sentence of a message about a manifest that cannot be used."""
        folder = next(path for path in (self.target_path, *self.target_path.parents) if is_folder(path))
        if os.access(folder, os.W_OK):
            return f"Make it{' again' if again else ''}: {PREPARE}"
        return f"Make it by building the image again{in_an_image}: {folder} cannot be written here."


def _walk(folder: Path) -> Iterator[Path]:
    # Follows links to folders as dbt does. A link to one of its own parent folders is followed only once.
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # which of two links to one folder is followed must not depend on the file system
        yield from (path for name in files if (path := Path(root, name)).is_file())


def _public(name: str, value: Any, text: str | None = None) -> str:
    """Return the text of a value without secrets, such as the password in a URL."""
    return Redactor(secret_values(value, name))(str(value) if text is None else text)


def _plain(value: Any) -> Any:
    """Convert a value to what JSON can represent and sort. YAML allows sets, and keys of any type."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _relative(path: Path, start: Path) -> str:
    text, folder = path.as_posix(), f"{start.as_posix()}/"
    if text.startswith(folder) and ".." not in text:
        return text.removeprefix(folder)  # the usual case, in which neither path has to be resolved
    return Path(os.path.relpath(path, start)).as_posix()


def _is_fingerprint(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("version") == VERSION
        and all(isinstance(value.get(part), dict) for part in ("files", "profile", "variables", "vars"))
    )


def _changed_files(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path))


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            yield name, then.get(name), now.get(name)


def _describe_old(value: Any) -> str:
    return "it was not set" if value is None else f"it was {shortened(value)}"


def _describe_new(value: Any) -> str:
    return "is not set now" if value is None else f"is {shortened(value)} now"
