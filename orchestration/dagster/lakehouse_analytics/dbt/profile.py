"""The dbt profile in force: which file and target dbt uses, and what of it names databases and schemas.

Follows dbt's own rules, so that a project that runs with `dbt build` needs no settings of ours. Reads `profiles.yml`
without importing dbt: loading the code location must stay cheap. `lakehouse manifest` compares the result with the
credentials that dbt itself made of the file (`prepare.py`).

Format: https://docs.getdbt.com/docs/core/connect-data-platform/profiles.yml
"""

from __future__ import annotations

import datetime
import itertools
import json
import os.path
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from lakehouse_analytics.common.paths import expanded, is_file, problem_of
from lakehouse_analytics.common.redact import SECRET_NAME
from lakehouse_analytics.common.text import MAX_TEXT, brief, shortened
from lakehouse_analytics.common.names import joined, some
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.registry import ENGINES

FILE = "profiles.yml"
#: dbt's prefix of variables that it never writes anywhere.
DBT_SECRET = "DBT_ENV_SECRET"  # noqa: S105  # a prefix
#: Of the profiles or targets that a message lists.
_MOST = 20
_READS = re.compile(r"""env_var\(\s*['"]([^'"]+)['"]""")
_MISSING = object()
#: What dbt parses with where a variable of the connection is not set; see `placeholders`.
PLACEHOLDER = "lakehouse-placeholder"
_JINJA = re.compile(r"\{\{|\{%|\{#")
#: What nearly every profile uses of Jinja; without an import of jinja2, which every process that loads would pay for.
_CALL = re.compile(
    r"""\{\{-?\s*(?P<function>env_var|var)\(\s*(?P<q>['"])(?P<name>[^'"\\{}]+)(?P=q)\s*"""
    r"""(?:,\s*(?P<d>['"])(?P<default>[^'"\\{}]*)(?P=d)\s*)?\)\s*(?:\|\s*as_(?:text|number|bool|native)\s*)*\}\}"""
)
#: libyaml's, which is ten times as fast, where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ProfileError(ValueError):
    """The profile cannot be used. The message names the file and what to change."""


def is_secret(variable: str) -> bool:
    """Whether the value of a variable must not be written anywhere, judged by its name."""
    return variable.startswith(DBT_SECRET) or bool(SECRET_NAME.search(variable))


def load_yaml(path: Path) -> Mapping[str, Any]:
    """A YAML file that holds a mapping; empty where the file is.

    Raises:
        ProfileError: it cannot be read, or holds something else.
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
        raise ProfileError(f"{path} must hold a YAML mapping, not a {type(loaded).__name__}.")
    return loaded


def is_simple(text: str) -> bool:
    """Whether calls of `env_var` and `var` are all its Jinja."""
    return not _JINJA.search(_CALL.sub("", text))


@dataclass(frozen=True)
class Place:
    """A folder of `profiles.yml`, and why it is this one, for messages."""

    folder: Path
    reason: str

    @property
    def file(self) -> Path:
        """The file itself."""
        return self.folder / FILE


def find(project_dir: Path, explicit: Path | None, environment: Mapping[str, str]) -> Place:
    """Where dbt looks for `profiles.yml`: our setting, dbt's variable, the project, the home directory.

    dbt looks in its working directory, which for us is the project's. See
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


@dataclass(frozen=True)
class Profile:
    """One rendered target of a profile.

    Attributes:
        file: The `profiles.yml`.
        project_dir: dbt's working directory, which relative paths of the profile start from.
        name: The profile.
        target: The target.
        adapter: Its `type`.
        fields: Rendered fields; may contain secrets.
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
        """For messages."""
        return f"target `{brief(self.target)}` of profile `{brief(self.name)}` in {brief(self.file, MAX_TEXT)}"

    @property
    def database(self) -> str:
        """The database of a model that names none, as dbt derives it."""
        return self.engine.database(self.fields)

    @property
    def engine(self) -> EngineType:
        """The kind of database."""
        return ENGINES[self.adapter]

    @property
    def attached(self) -> dict[str, Mapping[str, Any]]:
        """Databases that the engine attaches beside its own, by alias."""
        return self.engine.attached(self.fields)

    @property
    def database_file(self) -> Path | None:
        """The absolute path of the local file that holds the tables, as DuckDB's does; None where there is none."""
        path = self.engine.local_file(self.fields)
        if path is None:
            return None
        file = Path(_normal(self.project_dir / expanded(path)))
        if problem := problem_of(file):
            raise ProfileError(f"{self.where} has the `path` {shortened(path)}: {problem}.")
        return file

    def names(self) -> dict[str, Any]:
        """What of the target the manifest contains: names of databases and schemas, never anything secret."""
        said: dict[str, Any] = {"target": self.target, "type": self.adapter}
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
                said[name] = value
        return said

    def variables(self, *fields: str) -> list[str]:
        """The environment variables that these fields read."""
        return sorted({variable for name in fields for variable in self.reads.get(name, ())})


@dataclass(frozen=True)
class Request:
    """What decides which target is used, the strongest first; dbt's own default is the profile's `target:`.

    Attributes:
        target: LAKEHOUSE_DBT_TARGET.
        preferred: Targets that LAKEHOUSE_ENV stands for, best first; the first that the profile has is used.
        dbt_target: DBT_TARGET.
        variables: dbt's `--vars`.
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
    """Render the profile as dbt does.

    Args:
        project_dir: The dbt project.
        place: Where `profiles.yml` is.
        request: Which target.
        environment: What `env_var` reads.
        defaults: Variables that dbt gets from us where the environment does not set them; they count only where the
            profile gives no default of its own.

    Raises:
        ProfileError: no such file, profile or target; not valid YAML; an adapter that is not supported; Jinja that
            cannot be rendered.
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
    """The profile's name, and what the file has of it."""
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
    """The target, its adapter, and what the file has of it."""
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
        way_out = (
            f"Name another target in LAKEHOUSE_DBT_TARGET: {_names(usable)}."
            if usable
            else "Add a target of one of these types to the profile, and name it in LAKEHOUSE_DBT_TARGET."
        )
        raise ProfileError(
            f"{file}: target `{brief(target)}` of profile `{brief(name)}` has type {brief(adapter)}; this version "
            f"runs on {joined([*ENGINES])}. {way_out}"
        )
    return target, adapter, output


def _fields(
    engine: EngineType, output: Mapping[str, Any], jinja: Jinja, where: str, file: Path
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """The rendered fields, and the variables that each of them reads."""
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


def placeholders(profile: Profile, environment: Mapping[str, str], variables: Mapping[str, Any]) -> dict[str, str]:
    """Values for the variables of the connection that are not set, so that dbt can parse without them.

    dbt renders the whole target even if it opens no connection. An image is built without its connection and password.

    Args:
        profile: The profile in force.
        environment: What dbt reads.
        variables: dbt's `--vars`.

    Returns:
        Values by variable, of a type that dbt accepts in the fields that read it. Variables with a default, and those
        that name databases and schemas, are not among them.
    """
    output = load_yaml(profile.file)[profile.name]["outputs"][profile.target]
    jinja = _Placeholders(environment, variables)
    for key, value in output.items():
        if key not in profile.engine.naming_fields:
            for text in _strings(value):
                jinja.fill(str(key), text)
    return jinja.filled


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def _follows_us(value: object, variables: Set[str]) -> bool:
    """Whether an expression makes a field of nothing but the variables of the setting that means the same."""
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


class Jinja:
    """Renders as dbt renders `profiles.yml` and `dbt_project.yml`: with variables, and without macros.

    Attributes:
        read: Names of the variables read since it was last cleared.
    """

    def __init__(
        self, environment: Mapping[str, str], defaults: Mapping[str, str], variables: Mapping[str, Any]
    ) -> None:
        self.read: set[str] = set()
        self._environment, self._defaults, self._variables = environment, defaults, variables
        self._render: Callable[[str], str] | None = None

    def render(self, value: Any, where: str) -> Any:
        """The value with each string in it rendered.

        Raises:
            ProfileError: naming `where`.
        """
        if isinstance(value, Mapping):
            return {key: self.render(item, where) for key, item in value.items()}
        if isinstance(value, list):
            return [self.render(item, where) for item in value]
        if not isinstance(value, str) or not _JINJA.search(value):
            return value
        try:
            return _CALL.sub(self._call, value).removesuffix("\n") if is_simple(value) else self._jinja2(value, where)
        except _UnsetError as error:
            raise ProfileError(f"{where} reads {error}, which is not set.") from None

    def _call(self, match: re.Match[str]) -> str:
        function = self._env_var if match["function"] == "env_var" else self._var
        arguments = [value for value in (match["name"], match["default"]) if value is not None]
        return str(function(*arguments))

    def _jinja2(self, value: str, where: str) -> str:
        if self._render is None:
            self._render = self._renderer()
        from jinja2 import TemplateError

        try:
            return self._render(value)
        except (TemplateError, TypeError, ValueError, AttributeError, KeyError) as error:
            raise ProfileError(f"{where} cannot be rendered: {brief(error, MAX_TEXT)}") from None

    def _renderer(self) -> Callable[[str], str]:
        from jinja2.sandbox import SandboxedEnvironment

        jinja = SandboxedEnvironment()  # in which, as in dbt's, an undefined name is empty
        for name in ("as_text", "as_bool", "as_native", "as_number"):
            jinja.filters[name] = lambda value: value
        context = {
            "env_var": self._env_var,
            "var": self._var,
            "tojson": json.dumps,
            "fromjson": json.loads,
            "modules": {"datetime": datetime, "re": re, "itertools": itertools},
        }
        return lambda text: jinja.from_string(text).render(context)

    def _env_var(self, name: str, default: str | None = None) -> str:
        self.read.add(name)
        value = self._environment.get(name)
        if value is None:
            value = default if default is not None else self._defaults.get(name)
        if value is None:
            raise _UnsetError(f"the environment variable {brief(name)}")
        return value

    def _var(self, name: str, default: Any = _MISSING) -> Any:
        value = self._variables.get(name, default)
        if value is _MISSING:
            raise _UnsetError(f"the variable `{brief(name)}` (dbt's --vars; LAKEHOUSE_DBT_VARS)")
        return value


class _Placeholders(Jinja):
    """Renders with placeholders for variables that are not set.

    Attributes:
        filled: The placeholders that were needed, by variable.
    """

    #: Fields for which dbt accepts only some values.
    _FIELDS = MappingProxyType({"http_scheme": "https", "method": "none"})
    #: Jinja that makes a value of another type than text.
    _TYPED = re.compile(r"\|\s*(as_number|as_native|as_bool|int|float|bool)\b")

    def __init__(self, environment: Mapping[str, str], variables: Mapping[str, Any]) -> None:
        super().__init__(environment, {}, variables)
        self.filled: dict[str, str] = {}
        self._value = PLACEHOLDER

    def fill(self, key: str, text: str) -> None:
        """Note what `text`, of the field `key`, reads and what is not set."""
        typed = key in ("port", "threads") or self._TYPED.search(text)
        self._value = self._FIELDS.get(key, "1" if typed else PLACEHOLDER)
        with suppress(ProfileError):  # dbt will say what is wrong
            self.render(text, key)

    def _env_var(self, name: str, default: str | None = None) -> str:
        try:
            return super()._env_var(name, default)
        except _UnsetError:
            return self.filled.setdefault(name, self._value)


class _UnsetError(LookupError):
    """A variable without value and default."""


def _normal(path: Path) -> str:
    # Not `resolve()`: DuckDB names a database after the link, not after the file behind it.
    return os.path.normpath(path)
