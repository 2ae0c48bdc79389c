"""Adds the location in the model's own file to dbt's error messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lakehouse_analytics.dbt.nodes import Node

#: The line that DuckDB quotes under its error.
_LINE = re.compile(r"^LINE \d+: (?P<text>.+)$", re.MULTILINE)
#: The name in an engine's error: "x" or `with name x` in DuckDB, 'x' in Trino.
_NAME = re.compile(r"""["'](?P<quoted>[A-Za-z_]\w*)["']|\bwith name (?P<named>[A-Za-z_]\w*)""")


def with_source_line(message: str, node: Node, project_dir: Path) -> str:
    """Prefix an engine's error message with `models/…/name.sql:LINE`.

    Engines count the lines of the compiled statement, which dbt wraps. So the text or the name that the error quotes is
    searched in the model's file. If it is not on exactly one line, only the file is named.

    Args:
        message: The error message.
        node: The node that failed.
        project_dir: The folder of the dbt project.
    """
    path = node.original_file_path
    file = project_dir / path
    if file.is_file():
        lines = file.read_text(errors="replace").splitlines()
        found = next((n for pattern in _patterns(message) if (n := _only(pattern, lines))), None)
        path = f"{path}:{found}" if found else path
    first, *others = message.strip().splitlines() or [""]
    # dbt's first line already names the node and its file.
    first = re.sub(rf" in \w+ \S+ \({re.escape(node.original_file_path)}\)$", "", first)
    return "\n".join([f"{path}: {first}", *others])


def _patterns(message: str) -> Iterator[re.Pattern[str]]:
    for quoted in _LINE.finditer(message):
        words = quoted["text"].strip().removeprefix("...").removesuffix("...").rstrip(" )").split()
        if words:
            yield re.compile(r"\s+".join(map(re.escape, words)))
    # The first name is the wrong one; the others are the engine's suggestions.
    for name in list(_NAME.finditer(message))[:1]:
        yield re.compile(rf"\b{re.escape(name['quoted'] or name['named'])}\b", re.IGNORECASE)


def _only(pattern: re.Pattern[str], lines: list[str]) -> int | None:
    hits = [number for number, line in enumerate(lines, 1) if pattern.search(line)]
    return hits[0] if len(hits) == 1 else None
