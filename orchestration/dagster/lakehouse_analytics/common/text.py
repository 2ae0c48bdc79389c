"""Text for messages."""

from __future__ import annotations

#: Of a value that a message quotes, in characters.
MAX_QUOTED = 60


def shortened(value: object) -> str:
    """A value as a message quotes it: its `repr`, and of a long one only the beginning and the length."""
    text = repr(value)
    return text if len(text) <= MAX_QUOTED + 2 else f"{text[: MAX_QUOTED + 1]}… ({len(text) - 2:,} characters)"
