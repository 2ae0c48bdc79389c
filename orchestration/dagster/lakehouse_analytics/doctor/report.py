"""Results as lines for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from lakehouse_analytics.common.names import counted
from lakehouse_analytics.doctor.probe import Result, Status

_MARKS = {
    Status.OK: ("✔", "ok", "green"),
    Status.FAILED: ("✘", "FAILED", "red"),
    Status.UNCHECKED: ("?", "?", "yellow"),
    Status.SKIPPED: ("–", "-", None),
}
#: Exit codes; 2 is click's, for wrong options.
FINE, FAILURE, INCOMPLETE = 0, 1, 3


def lines(result: Result, width: int, *, plain: bool = False) -> str:
    """One result: its mark, its name, what was found, and below it how to fix it.

    Args:
        result: The result.
        width: Of the longest name.
        plain: Nothing beyond ASCII, for terminals that cannot show it.
    """
    mark, word, color = _MARKS[result.status]
    shown, arrow = (word.ljust(6), "->") if plain else (mark, "→")
    head = f"{shown} {result.name.ljust(width)}  "
    indent = " " * len(head)
    said = result.message.splitlines() or [""]
    took = f"  ({result.seconds:.1f} s)" if result.seconds >= 1 else ""
    text = [click.style(head, fg=color) + said[0] + took, *(indent + line for line in said[1:])]
    text += [f"{indent}{arrow} {line}" for line in result.fix.splitlines()]
    whole = "\n".join(text)
    return whole.encode("ascii", "replace").decode() if plain else whole


def summary(results: Sequence[Result], seconds: float) -> str:
    """The last line. It says that nothing failed only where everything that applies was checked."""
    count = {status: sum(result.status is status for result in results) for status in Status}
    parts = [f"{count[Status.OK]} of {len(results)} are fine"]
    if count[Status.FAILED]:
        head = f"{counted(count[Status.FAILED], 'probe')} failed"
        parts += [f"{count[Status.UNCHECKED]} not checked"] if count[Status.UNCHECKED] else []
    elif count[Status.UNCHECKED]:
        names = ", ".join(result.name for result in results if result.status is Status.UNCHECKED)
        head = f"Incomplete, {count[Status.UNCHECKED]} not checked ({names})"
    else:
        head = "Nothing failed"
    parts += [f"{count[Status.SKIPPED]} left out or not applicable"] if count[Status.SKIPPED] else []
    return f"{head}: {', '.join(parts)}. {seconds:.0f} s."


def exit_code(results: Sequence[Result]) -> int:
    """0: all that applies was checked and is fine. 1: something failed. 3: nothing failed, and not all was checked."""
    found = {result.status for result in results}
    return FAILURE if Status.FAILED in found else INCOMPLETE if Status.UNCHECKED in found else FINE


def as_json(results: Sequence[Result]) -> str:
    """A list of objects."""
    return json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False)
