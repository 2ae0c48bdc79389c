"""dbt's error messages, with the line of the model's own file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LINE = re.compile(r"^LINE (\d+): (?P<text>.+)$", re.MULTILINE)


def with_source_line(message: str, node: Mapping[str, Any], project_dir: Path) -> str:
    """Put `models/…/name.sql:LINE` in front of an engine's error.

    Engines count lines of the compiled statement, which dbt wraps; the line they quote is looked up in
    the model's file. Without exactly one such line only the file is named.
    """
    path = str(node["original_file_path"])
    quoted = _LINE.search(message)
    file = project_dir / path
    if quoted and file.is_file():
        wanted = " ".join(quoted["text"].removeprefix("...").removesuffix("...").split())
        lines = [
            n for n, line in enumerate(file.read_text().splitlines(), 1) if wanted and wanted in " ".join(line.split())
        ]
        if len(lines) == 1:
            path = f"{path}:{lines[0]}"
    return f"{path}: {message.strip()}"
