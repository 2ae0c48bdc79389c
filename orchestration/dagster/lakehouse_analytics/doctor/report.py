"""Results as lines for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from lakehouse_analytics.doctor.probe import Result, Status
from lakehouse_analytics.names import counted

_MARKS = {Status.OK: ("✔", "ok", "green"), Status.FAILED: ("✘", "FAILED", "red"), Status.SKIPPED: ("–", "-", None)}


def lines(result: Result, width: int, *, plain: bool = False) -> str:
    """One result: its mark, its name, what was found, and below it how to mend it.

    Args:
        result: The result.
        width: Of the longest name.
        plain: Nothing beyond ASCII, for terminals that cannot show it.
    """
    mark, word, colour = _MARKS[result.status]
    shown, arrow = (word.ljust(6), "->") if plain else (mark, "→")
    head = f"{shown} {result.name.ljust(width)}  "
    indent = " " * len(head)
    said = result.message.splitlines() or [""]
    took = f"  ({result.seconds:.1f} s)" if result.seconds >= 1 else ""
    text = [click.style(head, fg=colour) + said[0] + took, *(indent + line for line in said[1:])]
    text += [f"{indent}{arrow} {line}" for line in result.mend.splitlines()]
    whole = "\n".join(text)
    return whole.encode("ascii", "replace").decode() if plain else whole


def summary(results: Sequence[Result], seconds: float) -> str:
    """The last line."""
    count = {status: sum(result.status is status for result in results) for status in Status}
    left = f", {count[Status.SKIPPED]} not asked" if count[Status.SKIPPED] else ""
    well = "Nothing failed" if not count[Status.FAILED] else f"{counted(count[Status.FAILED], 'probe')} failed"
    return f"{well}: {count[Status.OK]} of {len(results)} are fine{left}. {seconds:.0f} s."


def as_json(results: Sequence[Result]) -> str:
    """A list of objects."""
    return json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False)
