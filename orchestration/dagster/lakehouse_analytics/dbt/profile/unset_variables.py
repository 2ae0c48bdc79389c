"""Placeholders for variables that are not set when the manifest is created, such as in the build of an image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from lakehouse_analytics.dbt.profile.file import ProfileError, load_yaml
from lakehouse_analytics.dbt.profile.rendering import Jinja, UnsetError
from lakehouse_analytics.dbt.profile.target import Profile

#: The value that dbt gets for a variable of the connection that is not set.
PLACEHOLDER = "lakehouse-placeholder"


def placeholders(profile: Profile, environment: Mapping[str, str], variables: Mapping[str, Any]) -> dict[str, str]:
    """Return values for variables of the connection that are not set, so that dbt can parse without them.

    dbt renders the whole target even if it opens no connection, and an image is built without address and password.

    Args:
        profile: The profile.
        environment: The variables that dbt reads.
        variables: The variables of dbt's `--vars`.

    Returns:
        Values by variable, of types that dbt accepts in the fields that read them. Variables with a default are not
        among them, nor are variables that name databases and schemas.
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


class _Placeholders(Jinja):
    """Renders Jinja with placeholders for variables that are not set.

    Attributes:
        filled: The placeholders that were used, by variable.
    """

    #: Fields for which dbt accepts only some values.
    _FIELDS = MappingProxyType({"http_scheme": "https", "method": "none"})
    #: Matches Jinja that converts a value to another type than text.
    _TYPED = re.compile(r"\|\s*(as_number|as_native|as_bool|int|float|bool)\b")

    def __init__(self, environment: Mapping[str, str], variables: Mapping[str, Any]) -> None:
        super().__init__(environment, {}, variables)
        self.filled: dict[str, str] = {}
        self._value = PLACEHOLDER

    def fill(self, key: str, text: str) -> None:
        """Add placeholders for the unset variables that a text reads.

        Args:
            key: The field that contains the text.
            text: The text.
        """
        typed = key in ("port", "threads") or self._TYPED.search(text)
        self._value = self._FIELDS.get(key, "1" if typed else PLACEHOLDER)
        with suppress(ProfileError):  # dbt reports what is wrong
            self.render(text, key)

    def _env_var(self, name: str, default: str | None = None) -> str:
        try:
            return super()._env_var(name, default)
        except UnsetError:
            return self.filled.setdefault(name, self._value)
