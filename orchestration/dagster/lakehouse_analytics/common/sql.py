"""Quotes identifiers and strings for SQL, in the same way for all engines."""

from __future__ import annotations


def identifier(name: str) -> str:
    """Return an identifier quoted as in the SQL standard."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a string literal quoted as in the SQL standard."""
    return "'" + text.replace("'", "''") + "'"
