"""Names and texts quoted for SQL, alike on all engines."""

from __future__ import annotations


def identifier(name: str) -> str:
    """A name, quoted as SQL's standard has it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text, quoted as SQL's standard has it."""
    return "'" + text.replace("'", "''") + "'"
