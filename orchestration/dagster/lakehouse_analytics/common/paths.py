"""Paths that are given by people."""

from __future__ import annotations

import os
from pathlib import Path

#: The longest path and the longest name in one that Linux takes, in bytes (`limits.h`, PATH_MAX without its NUL).
MAX_PATH, MAX_NAME = 4095, 255


def problem_of(path: Path) -> str | None:
    """Why a path can be no file's; None where it can.

    `Path` raises an OSError of its own whenever it asks the operating system about such a path.
    """
    if len(os.fsencode(path)) > MAX_PATH or any(len(os.fsencode(part)) > MAX_NAME for part in path.parts):
        return f"a path has at most {MAX_PATH:,} bytes, and each name in it at most {MAX_NAME}"
    return None


def is_file(path: Path) -> bool:
    """Whether a file is there; no, where the operating system refuses the question (`Path.is_file` then raises)."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder is there; no, where the operating system refuses the question."""
    try:
        return path.is_dir()
    except OSError:
        return False


def expanded(path: str) -> Path:
    """The path with `~` replaced, and as it is where `~name` names no user (`Path.expanduser` then raises)."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
