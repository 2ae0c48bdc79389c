"""Checks that the values of a connection's YAML file are valid in JSON (RFC 8259), which connectors receive."""

from __future__ import annotations

import math
from typing import Any

import yaml

#: Maximum number of values, more than any configuration has. A few lines with YAML aliases can represent millions.
MAX_VALUES = 100_000


class YamlLoader(yaml.SafeLoader):
    """A YAML loader without timestamps: `2024-01-01` is text, as in JSON and in YAML 1.2."""


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class NotJsonError(ValueError):
    """A value is not valid in JSON. The message has its key and what to write instead, but not the value."""


def check(value: Any, key: str) -> None:
    """Raise `NotJsonError` if a value cannot be written as JSON.

    Args:
        value: The value that `yaml.load` returned.
        key: Its key, such as `config`, for messages.
    """
    seen = 0

    def walk(value: Any, key: str, parents: tuple[int, ...]) -> None:
        nonlocal seen
        seen += 1
        if seen > MAX_VALUES:
            raise NotJsonError(f"key {key!r}: more than {MAX_VALUES:,} values; YAML aliases may repeat them")
        match value:
            case dict() | list() if id(value) in parents:
                raise NotJsonError(
                    f"key {key!r}: an alias refers to a value that contains it; this is not possible in JSON"
                )
            case dict():
                for name, item in value.items():
                    if not isinstance(name, str):
                        raise NotJsonError(
                            f"key {key!r}: {_kind(name)} as a key; keys are strings in JSON, so put it in quotes"
                        )
                    walk(name, f"{key}.{printable(name)}", ())
                    walk(item, f"{key}.{printable(name)}", (*parents, id(value)))
            case list():
                for index, item in enumerate(value):
                    walk(item, f"{key}.{index}", (*parents, id(value)))
            case float() if not math.isfinite(value):
                raise NotJsonError(f"key {key!r}: JSON has no NaN and no infinity; expected a number")
            case str() if not value.isprintable() and (place := lone_surrogate(value)) is not None:
                raise NotJsonError(f"key {key!r}: character {place + 1} is a lone surrogate, which is not valid text")
            case None | bool() | int() | float() | str():
                pass
            case _:
                raise NotJsonError(f"key {key!r}: {_kind(value)} cannot be written as JSON; expected {_INSTEAD}")

    walk(value, key, ())


_INSTEAD = "a string in quotes, a number, true or false, a list or a mapping"


def _kind(value: Any) -> str:
    names = {set: "a YAML set", bytes: "binary data", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"a value of type {type(value).__name__}")


def lone_surrogate(text: str) -> int | None:
    """Return the position of the first lone surrogate; None if the text is valid in UTF-8."""
    return next((place for place, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)


def printable(text: str) -> str:
    """Return a text that can be printed to any stream, with lone surrogates escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
