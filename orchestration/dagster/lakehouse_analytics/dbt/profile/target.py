"""The dbt target that builds use: its profile, its rendered fields, and its names of databases and schemas."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakehouse_analytics.common.names import joined, some
from lakehouse_analytics.common.paths import expanded, is_file, problem_of
from lakehouse_analytics.common.text import MAX_TEXT, brief, shortened
from lakehouse_analytics.dbt.profile.file import FILE, Place, ProfileError, load_yaml
from lakehouse_analytics.dbt.profile.rendering import DBT_SECRET, Jinja, is_simple
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.registry import ENGINES

#: Maximum number of profiles or targets that a message lists.
_MOST = 20
_READS = re.compile(r"""env_var\(\s*['"]([^'"]+)['"]""")


@dataclass(frozen=True)
class Profile:
    """One rendered target of a profile.

    Attributes:
        file: The path of `profiles.yml`.
        project_dir: dbt's working directory. Relative paths in the profile start from it.
        name: Name of the profile.
        target: Name of the target.
        adapter: The target's `type`.
        fields: The rendered fields, which may contain secrets.
        reads: Names of the environment variables that each field reads.
    """

    file: Path
    project_dir: Path
    name: str
    target: str
    adapter: str
    fields: Mapping[str, Any] = field(repr=False)
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """A description of the target, the profile and the file, for messages."""
        return f"target `{brief(self.target)}` of profile `{brief(self.name)}` in {brief(self.file, MAX_TEXT)}"

    @property
    def database(self) -> str:
        """The database of models that do not name one, as dbt derives it."""
        return self.engine.database(self.fields)

    @property
    def engine(self) -> EngineType:
        """The engine of the adapter."""
        return ENGINES[self.adapter]

    @property
    def attached(self) -> dict[str, Mapping[str, Any]]:
        """Databases that the engine attaches in addition to its own, by alias."""
        return self.engine.attached(self.fields)

    @property
    def database_file(self) -> Path | None:
        """The absolute path of the local file with the tables, for DuckDB; None if there is none."""
        path = self.engine.local_file(self.fields)
        if path is None:
            return None
        file = Path(_normal(self.project_dir / expanded(path)))
        if problem := problem_of(file):
            raise ProfileError(f"{self.where} has the `path` {shortened(path)}: {problem}.")
        return file

    def names(self) -> dict[str, Any]:
        """Return the names of databases and schemas, which the manifest contains. Secrets are never among them."""
        found: dict[str, Any] = {"target": self.target, "type": self.adapter}
        naming = tuple(name for name in self.engine.naming_fields if name not in ("schema", "attach"))
        read_by = {"database": naming, "schema": ("schema",), "attached": ("attach",)}
        values = {
            "database": self.database,
            "schema": self.fields.get("schema"),
            "attached": sorted(self.attached) or None,
        }
        for name, value in values.items():
            variables = self.variables(*read_by[name])
            if value is not None and not any(variable.startswith(DBT_SECRET) for variable in variables):
                found[name] = value
        return found

    def variables(self, *fields: str) -> list[str]:
        """Return the environment variables that fields of the target read."""
        return sorted({variable for name in fields for variable in self.reads.get(name, ())})


@dataclass(frozen=True)
class Request:
    """The inputs that select the target, in order of precedence. The default is the profile's `target:`.

    Attributes:
        target: The value of LAKEHOUSE_DBT_TARGET.
        preferred: The targets for LAKEHOUSE_ENV, of which the first one in the profile is used.
        dbt_target: The value of DBT_TARGET.
        variables: The variables of dbt's `--vars`.
    """

    target: str | None = None
    preferred: Sequence[str] = ()
    dbt_target: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def read(
    project_dir: Path,
    place: Place,
    request: Request,
    environment: Mapping[str, str],
    defaults: Mapping[str, str] | None = None,
) -> Profile:
    """Read and render the profile as dbt does.

    Args:
        project_dir: The folder of the dbt project.
        place: The folder of `profiles.yml`.
        request: The inputs that select the target.
        environment: The variables that `env_var` reads.
        defaults: Variables that we set for dbt if the environment does not. They are used only if the profile has no
            default of its own.

    Raises:
        ProfileError: The file, the profile or the target does not exist, the file is not valid YAML, its Jinja cannot
            be rendered, or the adapter is not supported.
    """
    if not is_file(place.file):
        raise _no_file(project_dir, place, environment)
    jinja = Jinja(environment, defaults or {}, request.variables)
    name, profile = _profile(project_dir, place, jinja, environment)
    target, adapter, output = _output(name, profile, place.file, request, jinja)
    fields, reads = _fields(ENGINES[adapter], output, jinja, f"target `{brief(target)}`", place.file)
    return Profile(place.file, project_dir, name, target, adapter, fields, reads)


def _no_file(project_dir: Path, place: Place, environment: Mapping[str, str]) -> ProfileError:
    if place.reason != "default":
        folder = brief(place.folder, MAX_TEXT)
        return ProfileError(f"{place.reason or 'The dbt project'} names {folder}, which has no {FILE}.")
    return ProfileError(
        f"There is no {FILE} in {project_dir} and none in {brief(Path.home() / '.dbt', MAX_TEXT)}. Set "
        f"LAKEHOUSE_DBT_PROFILES_DIR to the folder of the file that has {_named(project_dir, environment)}, or "
        f"write one with a target of type {joined([*ENGINES], 'or')}."
    )


def _profile(
    project_dir: Path, place: Place, jinja: Jinja, environment: Mapping[str, str]
) -> tuple[str, Mapping[str, Any]]:
    """Return the name of the profile and its part of the file."""
    file = place.file
    profiles, project = load_yaml(file), load_yaml(project_dir / "dbt_project.yml")
    name = environment.get("DBT_PROFILE") or jinja.render(project.get("profile"), f"{project_dir}/dbt_project.yml")
    if not name:
        raise ProfileError(
            f"{project_dir / 'dbt_project.yml'} names no profile: add `profile:`, or set DBT_PROFILE. {file} has: "
            f"{_profiles(profiles)}."
        )
    profile = profiles.get(name)
    outputs = profile.get("outputs") if isinstance(profile, Mapping) else None
    if not isinstance(profile, Mapping) or not isinstance(outputs, Mapping):
        named = f" (named by {place.reason})" if place.reason else ""
        raise ProfileError(
            f"{file}{named} has no profile `{brief(name)}` with outputs, which dbt_project.yml names; it has: "
            f"{_profiles(profiles)}."
        )
    return str(name), profile


def _output(
    name: str, profile: Mapping[str, Any], file: Path, request: Request, jinja: Jinja
) -> tuple[str, str, Mapping[str, Any]]:
    """Return the target, its adapter, and its part of the file."""
    outputs = profile["outputs"]
    target, why = _target(profile, outputs, request, jinja, file)
    output = outputs.get(target)
    if not isinstance(output, Mapping):
        raise ProfileError(
            f"{file}: profile `{brief(name)}` has no target `{brief(target)}`, which {why} names; it has: "
            f"{_names(outputs)}."
        )
    adapter = str(jinja.render(output.get("type"), f"{file}: `type` of target `{brief(target)}`"))
    if adapter not in ENGINES:
        usable = [
            str(other) for other, one in outputs.items() if isinstance(one, Mapping) and one.get("type") in ENGINES
        ]
        solution = (
            f"Name another target in LAKEHOUSE_DBT_TARGET: {_names(usable)}."
            if usable
            else "Add a target of one of these types to the profile, and name it in LAKEHOUSE_DBT_TARGET."
        )
        raise ProfileError(
            f"{file}: target `{brief(target)}` of profile `{brief(name)}` has type {brief(adapter)}; this version "
            f"runs on {joined([*ENGINES])}. {solution}"
        )
    return target, adapter, output


def _fields(
    engine: EngineType, output: Mapping[str, Any], jinja: Jinja, where: str, file: Path
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """Return the rendered fields, and the variables that each of them reads."""
    fields: dict[str, Any] = {}
    reads: dict[str, tuple[str, ...]] = {}
    for key in (*engine.naming_fields, *engine.connection_fields):
        if key not in output:
            continue
        if _follows_us(output[key], engine.own_expressions.get(key, set())):
            continue
        jinja.read.clear()
        try:
            fields[key] = jinja.render(output[key], f"{file}: `{key}` of {where}")
        except ProfileError:
            if key in engine.naming_fields:
                raise
            continue
        reads[key] = tuple(sorted(jinja.read))
    return fields, reads


def _follows_us(value: object, variables: Set[str]) -> bool:
    """Return whether an expression reads only the variables of the settings with the same meaning."""
    read = set(_READS.findall(value)) if isinstance(value, str) and not is_simple(value) else set()
    return bool(read) and read <= variables


def _named(project_dir: Path, environment: Mapping[str, str]) -> str:
    name = environment.get("DBT_PROFILE") or load_yaml(project_dir / "dbt_project.yml").get("profile")
    return f"profile `{brief(name)}`" if name else "the profile of this project"


def _profiles(file: Mapping[str, Any]) -> str:
    return _names(file.keys() - {"config"}) or "none"


def _names(names: Iterable[Any]) -> str:
    return some(sorted(map(brief, names)), _MOST)


def _target(
    profile: Mapping[str, Any], outputs: Mapping[str, Any], request: Request, jinja: Jinja, file: Path
) -> tuple[str, str]:
    if request.target:
        return request.target, "LAKEHOUSE_DBT_TARGET"
    for name in request.preferred:
        if name in outputs:
            return name, "LAKEHOUSE_ENV"
    if request.dbt_target:
        return request.dbt_target, "DBT_TARGET"
    if "target" in profile:
        return str(jinja.render(profile["target"], f"{file}: `target`")), "`target:`"
    return "default", "dbt, because the profile has no `target:`,"


def _normal(path: Path) -> str:
    # Not `resolve()`: DuckDB names a database after the link, not after the file behind it.
    return os.path.normpath(path)
