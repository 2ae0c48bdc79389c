"""Adds keys to a YAML file as a person would: what is there stays as it is written, comments included.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from lakehouse_analytics.contract.models import deep_merge
from lakehouse_analytics.dbt.lint.suggested_yaml import as_yaml

#: Begin, end and replacement of a part of the text.
_Edit = tuple[int, int, str]


class CannotEditError(ValueError):
    """The keys cannot be added without changing something else."""


def with_keys(text: str, additions: Mapping[str, Any]) -> str:
    """The text of a YAML file with some keys added.

    Args:
        text: The file, which holds a mapping or nothing.
        additions: Nested mappings. Keys that are there already are merged.

    Returns:
        The text, which has the contents of the file, merged with the additions.

    Raises:
        CannotEditError: the file uses YAML that this function cannot edit, such as an alias for a mapping that changes.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        edits = [*_edits(root, additions, text)] if root is not None else [_at_end(text, additions)]
        edited = text
        for begin, end, replacement in sorted(edits, reverse=True):
            edited = edited[:begin] + replacement + edited[end:]
        fine = yaml.safe_load(edited) == deep_merge(yaml.safe_load(text) or {}, additions)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise CannotEditError(str(error)) from None
    if not fine:
        raise CannotEditError("it is written in a way that cannot be edited line by line")
    return edited


def _edits(node: yaml.Node, additions: Mapping[str, Any], text: str) -> Iterator[_Edit]:
    if not isinstance(node, yaml.MappingNode):
        if node.tag != "tag:yaml.org,2002:null" and node.value:
            raise CannotEditError(f"line {node.start_mark.line + 1} holds no mapping")
        yield node.start_mark.index, node.end_mark.index, f" {_flow(additions)}"
        return
    there = {key.value: value for key, value in node.value}
    if len(there) < len(node.value):
        raise CannotEditError(f"a key occurs twice in the mapping that begins in line {node.start_mark.line + 1}")
    if node.flow_style or not node.value:
        merged = deep_merge(yaml.safe_load(text[node.start_mark.index : node.end_mark.index]) or {}, additions)
        yield node.start_mark.index, node.end_mark.index, _flow(merged)
        return
    new = {key: value for key, value in additions.items() if key not in there}
    if new and node.start_mark.column == 0:
        yield _at_end(text, new)
    elif new:
        # In front of the first key: where a block ends is less clear, because of comments.
        begin, indent = node.start_mark.index, " " * node.start_mark.column
        yield begin, begin, as_yaml(new, indent).removeprefix(indent) + f"\n{indent}"
    for key, value in additions.items():
        if key in there:
            yield from _edits(there[key], value, text)


def _at_end(text: str, additions: Mapping[str, Any]) -> _Edit:
    return len(text), len(text), ("" if not text or text.endswith("\n") else "\n") + as_yaml(additions) + "\n"


def _flow(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False).strip()
