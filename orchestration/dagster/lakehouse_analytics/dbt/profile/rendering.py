"""Renders the Jinja in `profiles.yml` and `dbt_project.yml` in the same way as dbt."""

from __future__ import annotations

import datetime
import itertools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from lakehouse_analytics.common.redact import SECRET_NAME
from lakehouse_analytics.common.text import MAX_TEXT, brief
from lakehouse_analytics.dbt.profile.file import ProfileError

#: Prefix of variables whose values dbt never writes anywhere.
DBT_SECRET = "DBT_ENV_SECRET"  # noqa: S105  # a prefix
_MISSING = object()
_JINJA = re.compile(r"\{\{|\{%|\{#")
#: The Jinja in nearly all profiles. It is rendered without jinja2, which every process would have to import.
_CALL = re.compile(
    r"""\{\{-?\s*(?P<function>env_var|var)\(\s*(?P<q>['"])(?P<name>[^'"\\{}]+)(?P=q)\s*"""
    r"""(?:,\s*(?P<d>['"])(?P<default>[^'"\\{}]*)(?P=d)\s*)?\)\s*(?:\|\s*as_(?:text|number|bool|native)\s*)*\}\}"""
)


def is_secret(variable: str) -> bool:
    """Return whether the value of a variable must not be written anywhere, according to its name."""
    return variable.startswith(DBT_SECRET) or bool(SECRET_NAME.search(variable))


def is_simple(text: str) -> bool:
    """Return whether the only Jinja in a text is calls of `env_var` and `var`."""
    return not _JINJA.search(_CALL.sub("", text))


class Jinja:
    """Renders Jinja as dbt does in `profiles.yml` and `dbt_project.yml`: with variables, and without macros.

    Attributes:
        read: Names of the environment variables that were read since the caller last cleared the set.
    """

    def __init__(
        self, environment: Mapping[str, str], defaults: Mapping[str, str], variables: Mapping[str, Any]
    ) -> None:
        self.read: set[str] = set()
        self._environment, self._defaults, self._variables = environment, defaults, variables
        self._render: Callable[[str], str] | None = None

    def render(self, value: Any, where: str) -> Any:
        """Return a value in which every string is rendered.

        Args:
            value: The value: a string, a mapping, a list, or anything else.
            where: The place of the value, for messages.

        Raises:
            ProfileError: The value cannot be rendered. The message names `where`.
        """
        if isinstance(value, Mapping):
            return {key: self.render(item, where) for key, item in value.items()}
        if isinstance(value, list):
            return [self.render(item, where) for item in value]
        if not isinstance(value, str) or not _JINJA.search(value):
            return value
        try:
            return _CALL.sub(self._call, value).removesuffix("\n") if is_simple(value) else self._jinja2(value, where)
        except UnsetError as error:
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

        jinja = SandboxedEnvironment()  # as in dbt, undefined names are empty
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
            raise UnsetError(f"the environment variable {brief(name)}")
        return value

    def _var(self, name: str, default: Any = _MISSING) -> Any:
        value = self._variables.get(name, default)
        if value is _MISSING:
            raise UnsetError(f"the variable `{brief(name)}` (dbt's --vars; LAKEHOUSE_DBT_VARS)")
        return value


class UnsetError(LookupError):
    """A variable has neither a value nor a default."""
