"""Finds the secret values of a connector's config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def split(spec: dict[str, Any], config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the config without its secret fields, and the secret values.

    A field is secret if the connector's spec marks it `airbyte_secret` (Airbyte: "Connector specification reference").
    All branches (`oneOf`, `anyOf`, `allOf`) are considered, because masking too much is better than too little.
    """
    secrets: list[str] = []

    def walk(value: Any, schemas: list[dict[str, Any]]) -> Any:
        schemas = list(_expand(schemas))
        if any(schema.get("airbyte_secret") for schema in schemas):
            secrets.extend(_leaves(value))
            return None
        if isinstance(value, dict):
            walked = {
                key: walk(item, [s["properties"][key] for s in schemas if key in (s.get("properties") or {})])
                for key, item in value.items()
            }
            return {key: item for key, item in walked.items() if item is not None}
        if isinstance(value, list):
            return [walk(item, [s["items"] for s in schemas if isinstance(s.get("items"), dict)]) for item in value]
        return value

    public = walk(config, [spec])
    return (public or {}), secrets


def _expand(schemas: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for schema in schemas:
        yield schema
        for word in ("oneOf", "anyOf", "allOf"):
            yield from _expand([branch for branch in schema.get(word) or [] if isinstance(branch, dict)])


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
