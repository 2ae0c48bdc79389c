"""Adds keys to a YAML file without changing the rest of the text, including comments. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from lakehouse_analytics.contract.models import deep_merge
from lakehouse_analytics.dbt.lint.suggested_yaml import as_yaml

#: Start, end and replacement of a part of the text.
_Edit = tuple[int, int, str]


class CannotEditError(ValueError):
    """The keys cannot be added without changing something else."""


def with_keys(text: str, additions: Mapping[str, Any]) -> str:
    """Return the text of a YAML file with some keys added.

    Args:
        text: The text of the file, which is empty or a mapping.
        additions: Nested mappings. They are merged with existing keys.

    Returns:
        The new text. Its content is that of the file merged with the additions.

    Raises:
        CannotEditError: The file uses YAML that this function cannot edit, such as an alias for a mapping that changes.
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
            raise CannotEditError(f"line {node.start_mark.line + 1} is not a mapping")
        yield node.start_mark.index, node.end_mark.index, f" {_flow(additions)}"
        return
    present = {key.value: value for key, value in node.value}
    if len(present) < len(node.value):
        raise CannotEditError(f"a key occurs twice in the mapping that begins in line {node.start_mark.line + 1}")
    if node.flow_style or not node.value:
        merged = deep_merge(yaml.safe_load(text[node.start_mark.index : node.end_mark.index]) or {}, additions)
        yield node.start_mark.index, node.end_mark.index, _flow(merged)
        return
    new = {key: value for key, value in additions.items() if key not in present}
    if new and node.start_mark.column == 0:
        yield _at_end(text, new)
    elif new:
        # Insert before the first key. The end of a block is less clear, because of comments.
        begin, indent = node.start_mark.index, " " * node.start_mark.column
        yield begin, begin, as_yaml(new, indent).removeprefix(indent) + f"\n{indent}"
    for key, value in additions.items():
        if key in present:
            yield from _edits(present[key], value, text)


def _at_end(text: str, additions: Mapping[str, Any]) -> _Edit:
    return len(text), len(text), ("" if not text or text.endswith("\n") else "\n") + as_yaml(additions) + "\n"


def _flow(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False).strip()
