"""dbt's error messages, with the line of the model's own file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lakehouse_analytics.dbt.nodes import Node

#: The line that DuckDB quotes under its error.
_LINE = re.compile(r"^LINE \d+: (?P<text>.+)$", re.MULTILINE)
#: The name an engine complains of: DuckDB's "x" or `with name x`, Trino's 'x'.
_NAME = re.compile(r"""["'](?P<quoted>[A-Za-z_]\w*)["']|\bwith name (?P<named>[A-Za-z_]\w*)""")


def with_source_line(message: str, node: Node, project_dir: Path) -> str:
    """Put `models/…/name.sql:LINE` in front of an engine's error.

    Engines count lines of the compiled statement, which dbt wraps. So the text or the name that the error
    quotes is looked up in the model's file; unless exactly one line has it, only the file is named.
    """
    path = node.original_file_path
    file = project_dir / path
    if file.is_file():
        lines = file.read_text(errors="replace").splitlines()
        found = next((n for pattern in _patterns(message) if (n := _only(pattern, lines))), None)
        path = f"{path}:{found}" if found else path
    first, *others = message.strip().splitlines() or [""]
    # dbt's first line names the node and its file, too.
    first = re.sub(rf" in \w+ \S+ \({re.escape(node.original_file_path)}\)$", "", first)
    return "\n".join([f"{path}: {first}", *others])


def _patterns(message: str) -> Iterator[re.Pattern[str]]:
    for quoted in _LINE.finditer(message):
        words = quoted["text"].strip().removeprefix("...").removesuffix("...").rstrip(" )").split()
        if words:
            yield re.compile(r"\s+".join(map(re.escape, words)))
    # The first name is what is wrong; later ones are the engine's suggestions.
    for name in list(_NAME.finditer(message))[:1]:
        yield re.compile(rf"\b{re.escape(name['quoted'] or name['named'])}\b", re.IGNORECASE)


def _only(pattern: re.Pattern[str], lines: list[str]) -> int | None:
    hits = [number for number, line in enumerate(lines, 1) if pattern.search(line)]
    return hits[0] if len(hits) == 1 else None
