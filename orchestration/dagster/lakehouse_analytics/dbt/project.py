"""The dbt project on disk: where its manifest is, and whether it is fresh.

A manifest holds what dbt rendered: not only files, but also environment variables, `--vars` and the names that the
profile gives. The fingerprint beside it holds the same inputs, so that a code location never counts one table while
dbt builds another. Loading a manifest reads files and nothing else: no network, no subprocess, no dbt import.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakehouse_analytics.dbt import profile as dbt_profile, manifest_shape
from lakehouse_analytics.common.paths import is_file, is_folder
from lakehouse_analytics.common.redact import Redactor, secret_values
from lakehouse_analytics.common.text import MAX_TEXT, brief, shortened
from lakehouse_analytics.dbt.profile import Jinja, Profile, ProfileError, is_secret
from lakehouse_analytics.dbt.manifest_shape import ShapeError
from lakehouse_analytics.common.names import some
from lakehouse_analytics.settings import Settings

STAMP = "lakehouse_fingerprint.json"
#: Of the fingerprint's own format.
VERSION = 2
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
#: YAML files beside dbt_project.yml that the manifest is not made of: the second is dbt's, with the id of its user.
_NOT_PARSED = (dbt_profile.FILE, ".user.yml")
#: Lists files that dbt passes over (https://docs.getdbt.com/reference/dbtignore).
_IGNORE = ".dbtignore"
#: dbt finds them in any case: `orders.SQL` is a model.
_PARSED = frozenset({".sql", ".yml", ".yaml", ".csv", ".md", ".py"})
#: What of the target counts, as messages name it.
_FIELDS = {
    "target": "the dbt target",
    "type": "the dbt target's type",
    "database": "the dbt target's database",
    "schema": "the dbt target's schema",
    "attached": "the databases that the dbt target attaches",
}
#: The command that makes a manifest; every message about one ends with it.
PREPARE = "lakehouse manifest"
#: Variables of which models may make their SQL at run time and which therefore may differ between an image's build and
#: a run. They do count where a YAML file reads them.
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
    """A dbt project and the target it is used with.

    A manifest contains the names of one target's databases and schemas, so that each target has its own `target_path`.

    Attributes:
        project_dir, profiles_dir, target: As dbt's options of those names.
        target_path: The folder of the manifest.
        profile: What `profiles.yml` says; None where it cannot be read, and `problem` says why.
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
    def of(cls, settings: Settings) -> DbtProject:
        """The project named by the environment."""
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
        """Where dbt writes this target's manifest."""
        return self.target_path / "manifest.json"

    @property
    def stamp_path(self) -> Path:
        """The fingerprint's file."""
        return self.target_path / STAMP

    def configuration(self) -> Mapping[str, Any]:
        """`dbt_project.yml` as written, unrendered.

        Raises:
            ManifestError: there is no such file, or it is not YAML.
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
        """Where `dbt deps` installs packages."""
        return self.project_dir / str(self._rendered(self.configuration().get("packages-install-path", "dbt_packages")))

    def sources(self) -> Iterator[Path]:
        """Every file that dbt may parse, of the project and of its installed packages, in a stable order."""
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
        # The YAML files on top: the project, packages, selectors. Of the profile only some fields count.
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
            return value  # dbt will say what is wrong

    def fingerprint(self, variables: Mapping[str, str] | Collection[str] = ()) -> Fingerprint:
        """The inputs of a manifest, as they are now.

        Args:
            variables: Names of environment variables that dbt read, other than for the connection.

        Returns:
            `files`: SHA-256 of the content of each, because images and checkouts reset times, by relative path;
            `profile`: names that the target gives; `variables` and `vars`: values of environment variables and of
            `--vars`, without what may be secret.
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
        """What differs from what the manifest was made of; None when there is no manifest."""
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
                f"{_FIELDS[name]} ({_was(before)}, {_is(after)}{self._because(name)})"
                for name, before, after in _differences(then["profile"], now["profile"])
                if name in _FIELDS
            ),
            *(
                f"the environment variable {brief(name)} ({_was(before)}, {_is(after)})"
                for name, before, after in _differences(then["variables"], now["variables"])
            ),
            *(
                f"the variable `{brief(name)}` of LAKEHOUSE_DBT_VARS ({_was(before)}, {_is(after)})"
                for name, before, after in _differences(then["vars"], now["vars"])
            ),
        ]

    def _because(self, name: str) -> str:
        fields = {"database": ("path", "database", "catalog"), "schema": ("schema",), "attached": ("attach",)}
        variables = self.profile.variables(*fields.get(name, ())) if self.profile else []
        return f"; it reads {some([brief(name) for name in variables])}" if variables else ""

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            ManifestError: the profile cannot be used, or the manifest is missing, stale, or not dbt's.
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
            loaded = json.loads(self.manifest_path.read_bytes().decode())  # without the bytes while it is parsed
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
        """The last sentence of a message about a manifest that cannot be used."""
        folder = next(path for path in (self.target_path, *self.target_path.parents) if is_folder(path))
        if os.access(folder, os.W_OK):
            return f"Make it{' again' if again else ''}: {PREPARE}"
        return f"Make it by building the image again{in_an_image}: {folder} cannot be written here."


def _walk(folder: Path) -> Iterator[Path]:
    # As dbt does, links to folders included; a link that leads back to where it lies is followed once.
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
    """The text of a value without the secrets in it, such as the password of an address."""
    return Redactor(secret_values(value, name))(str(value) if text is None else text)


def _plain(value: Any) -> Any:
    """As JSON can hold it and sort it: YAML has keys of any type, and sets."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _relative(path: Path, start: Path) -> str:
    text, folder = path.as_posix(), f"{start.as_posix()}/"
    if text.startswith(folder) and ".." not in text:
        return text.removeprefix(folder)  # as nearly all are: without resolving both
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


def _was(value: Any) -> str:
    return "it was not set" if value is None else f"it was {shortened(value)}"


def _is(value: Any) -> str:
    return "is not set now" if value is None else f"is {shortened(value)} now"
