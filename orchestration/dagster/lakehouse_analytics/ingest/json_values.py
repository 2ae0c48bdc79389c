"""What of a connection's YAML file can be sent to a connector: JSON (RFC 8259)."""

from __future__ import annotations

import math
from typing import Any

import yaml

#: More values than any configuration has: YAML's aliases can stand for millions in a few lines.
MAX_VALUES = 100_000


class YamlLoader(yaml.SafeLoader):
    """YAML without its timestamps: `2024-01-01` is the text that it is, as in JSON and in YAML 1.2."""


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class NotJsonError(ValueError):
    """A value that JSON cannot hold. The message has its key and what to write instead, never the value."""


def check(value: Any, key: str) -> None:
    """Raise `NotJsonError` unless `value` can be written as JSON.

    Args:
        value: What `yaml.load` returned.
        key: Names it in the message, such as `config`.
    """
    seen = 0

    def walk(value: Any, key: str, parents: tuple[int, ...]) -> None:
        nonlocal seen
        seen += 1
        if seen > MAX_VALUES:
            raise NotJsonError(f"key {key!r}: more than {MAX_VALUES:,} values; YAML aliases may repeat them")
        match value:
            case dict() | list() if id(value) in parents:
                raise NotJsonError(f"key {key!r}: an alias refers to a value that contains it; JSON cannot hold that")
            case dict():
                for name, item in value.items():
                    if not isinstance(name, str):
                        raise NotJsonError(
                            f"key {key!r}: {_kind(name)} as a key; JSON's keys are texts, so put it in quotes"
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


_INSTEAD = "a text in quotes, a number, true or false, a list or a mapping"


def _kind(value: Any) -> str:
    names = {set: "a YAML set", bytes: "binary data", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"a value of type {type(value).__name__}")


def lone_surrogate(text: str) -> int | None:
    """The position of the first half of a surrogate pair; None in text that UTF-8 can hold."""
    return next((place for place, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)


def printable(text: str) -> str:
    """Text that every stream can print: lone surrogates as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
