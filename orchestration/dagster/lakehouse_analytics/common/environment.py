"""Shared code of the settings: the prefix of variables, and how paths and lists are parsed."""

from __future__ import annotations

from pathlib import Path

from lakehouse_analytics.common.paths import problem_of
from lakehouse_analytics.common.text import shortened

PREFIX = "LAKEHOUSE_"
#: Prefix of the addresses of databases, whose names users choose: `arrivals/connections.py`.
CONNECTION_PREFIX = f"{PREFIX}CONNECTION_"


class SettingsError(ValueError):
    """The environment is invalid. The message lists all invalid variables, but not their values."""


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def repository_root() -> Path:
    """Return the checkout, or the folder in the image, that contains `dbt/`: the nearest parent that does."""
    here = Path(__file__).resolve()
    for parent in here.parents:
        if (parent / "dbt" / "dbt_project.yml").is_file():
            return parent
    return Path.cwd()


def absolute(value: Path | None) -> Path | None:
    """Return an absolute path, independent of the working directory. Relative paths start at the checkout.

    Raises:
        ValueError: The value cannot be a path.
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
    """Return the names in a comma-separated list, without duplicates.

    Raises:
        ValueError: The list is empty.
    """
    if not isinstance(value, str):
        return value
    parts = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    if not parts:
        raise ValueError("expected at least one name; several are separated by commas")
    return parts
