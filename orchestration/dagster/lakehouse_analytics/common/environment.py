"""What every group of settings needs: the prefix of the variables, and how paths and lists are read."""

from __future__ import annotations

from pathlib import Path

from lakehouse_analytics.common.paths import problem_of
from lakehouse_analytics.common.text import shortened

PREFIX = "LAKEHOUSE_"


class SettingsError(ValueError):
    """The environment is wrong. The message lists every variable at fault, never its value."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def repository_root() -> Path:
    """The checkout (or image folder) that holds `dbt/`: the nearest parent that has one."""
    here = Path(__file__).resolve()
    for parent in here.parents:
        if (parent / "dbt" / "dbt_project.yml").is_file():
            return parent
    return Path.cwd()


def absolute(value: Path | None) -> Path | None:
    """A path with one meaning in every process, whatever folder it was started in: relative ones start at the checkout.

    Raises:
        ValueError: it cannot be a path.
    """
    if value is None:
        return None
    try:
        path = repository_root() / value.expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path, but found {shortened(str(value))}: no such user's home") from None
    if problem := problem_of(path):
        raise ValueError(f"expected a path, but found {shortened(str(value))}: {problem}")
    return path


def split(value: object) -> object:
    """The names of a comma-separated list, each once.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(value, str):
        return value
    parts = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    if not parts:
        raise ValueError("expected at least one name; several are separated by commas")
    return parts
