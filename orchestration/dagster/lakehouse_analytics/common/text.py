"""Formats text for messages."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable

#: Maximum number of characters of a quoted value.
MAX_QUOTED = 60
#: Maximum number of characters of a path or of another program's message. It is higher, because their ends matter, too.
MAX_TEXT = 300


def digest(*parts: str) -> str:
    """Return a short hash of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def shortened(value: object) -> str:
    """Return the `repr` of a value for a message. A long one is truncated, and followed by its length."""
    text = repr(value)
    return text if len(text) <= MAX_QUOTED + 2 else f"{text[: MAX_QUOTED + 1]}… ({len(text) - 2:,} characters)"


def brief(value: object, most: int = MAX_QUOTED) -> str:
    """Return a name, path or text for a message, without quotes. A long one is truncated, and followed by its length.

    Args:
        value: The value, whose `str` is used.
        most: Maximum number of characters.
    """
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def most_similar(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the most similar known word; None if there is none.

    Args:
        word: The word that is not known.
        known: The known words.
        cutoff: The minimum similarity, from 0 to 1 (`difflib.get_close_matches`).
    """
    return next(iter(difflib.get_close_matches(word, [*known], n=1, cutoff=cutoff)), None)


def suggestion(word: str, known: Iterable[str], *, quoted: Callable[[str], str] = repr, others: str = "known") -> str:
    """Return `did you mean …?` with the most similar known word; if there is none, the list of all known words.

    Args:
        word: The word that is not known.
        known: The known words.
        quoted: Formats a word.
        others: What the words are, as the list's heading.
    """
    near = most_similar(word, known, cutoff=0.5)
    return f"did you mean {quoted(near)}?" if near else f"{others}: {', '.join(sorted(known))}"


def did_you_mean(
    word: str, known: Iterable[str], *, quoted: Callable[[str], str] = str, cutoff: float = 0.6, otherwise: str = ""
) -> str:
    """Return `; did you mean …?` with the most similar known word.

    Args:
        word: The word that is not known.
        known: The known words.
        quoted: Formats a word.
        cutoff: The minimum similarity (`most_similar`).
        otherwise: What to return if no known word is similar, such as the full stop of the sentence.
    """
    near = most_similar(word, known, cutoff=cutoff)
    return f"; did you mean {quoted(near)}?" if near else otherwise


def without_traceback(text: str) -> str:
    """Return a program's output without Python tracebacks; if there is nothing else, the last line."""
    before, traceback, after = text.partition("Traceback (most recent call last):")
    if not traceback or before.strip():
        return before.rstrip()
    return after.rstrip().rpartition("\n")[2]
