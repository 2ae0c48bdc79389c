"""Explains pydantic's errors by the keys of the file or request that has the mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lakehouse_analytics.common.text import suggestion

_PREFIX = "Value error, "


def reason(item: Mapping[str, Any]) -> str:
    """Return the message of one of pydantic's errors, to continue a sentence: `input should be a valid string`.

    Args:
        item: An element of `ValidationError.errors()`.
    """
    message = str(item["msg"])
    # The messages of our own validators may begin with a name.
    return message.removeprefix(_PREFIX) if message.startswith(_PREFIX) else f"{message[:1].lower()}{message[1:]}"


def explain(
    item: Mapping[str, Any],
    key: str,
    known: Iterable[str],
    *,
    quoted: Callable[[str], str] = repr,
    others: str = "known",
) -> str:
    """Return what is wrong with a key: it is unknown or missing, or its value is wrong.

    Args:
        item: An element of `ValidationError.errors()`.
        key: The key as messages name it.
        known: The keys that are valid beside it.
        quoted: Formats a valid key.
        others: What the valid keys are, as the heading of their list.
    """
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}; {suggestion(str(item['loc'][-1]), known, quoted=quoted, others=others)}"
    if item["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {reason(item)}"
