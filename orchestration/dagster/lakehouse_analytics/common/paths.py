"""Paths from user input."""

from __future__ import annotations

import os
from pathlib import Path

#: Maximum length of a path, and of each name in it, on Linux in bytes (`limits.h`, PATH_MAX without its NUL).
MAX_PATH, MAX_NAME = 4095, 255


def problem_of(path: Path) -> str | None:
    """Return why a path cannot exist on this system; None if it can.

    `Path` raises an OSError when it accesses such a path.
    """
    if len(os.fsencode(path)) > MAX_PATH or any(len(os.fsencode(part)) > MAX_NAME for part in path.parts):
        return f"a path has at most {MAX_PATH:,} bytes, and each name in it at most {MAX_NAME}"
    return None


def is_file(path: Path) -> bool:
    """Return whether a file exists; False if the path is invalid, for which `Path.is_file` raises an error."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return whether a folder exists; False if the path is invalid."""
    try:
        return path.is_dir()
    except OSError:
        return False


def expanded(path: str) -> Path:
    """Expand `~` in a path.

    Return it unchanged if the user of `~name` does not exist, for which `expanduser` raises an error.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
