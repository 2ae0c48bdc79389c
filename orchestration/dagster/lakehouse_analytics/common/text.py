"""Text for messages."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

#: Of a value that a message quotes, in characters.
MAX_QUOTED = 60
#: Of a path or of what another program says, in characters: their ends matter as well, and ordinary ones are whole.
MAX_TEXT = 300


def shortened(value: object) -> str:
    """A value as a message quotes it: its `repr`, and of a long one only the beginning and the length."""
    text = repr(value)
    return text if len(text) <= MAX_QUOTED + 2 else f"{text[: MAX_QUOTED + 1]}… ({len(text) - 2:,} characters)"


def brief(value: object, most: int = MAX_QUOTED) -> str:
    """A name, a path or a text as a message says it, without quotes: of a long one only the beginning and the length.

    Args:
        value: What has the text.
        most: Characters of it that are shown.
    """
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def did_you_mean(word: str, known: Iterable[str], *, quoted: Callable[[str], str] = str) -> str:
    """`; did you mean …?`, with the known word that is like another one; empty if none is."""
    near = difflib.get_close_matches(word, [*known], n=1)
    return f"; did you mean {quoted(near[0])}?" if near else ""


def without_traceback(text: str) -> str:
    """What a program reported, without Python's tracebacks; of a text that is nothing else, the last line."""
    before, traceback, after = text.partition("Traceback (most recent call last):")
    if not traceback or before.strip():
        return before.rstrip()
    return after.rstrip().rpartition("\n")[2]
