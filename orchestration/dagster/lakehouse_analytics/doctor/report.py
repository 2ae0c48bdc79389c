"""Results as text and as JSON."""

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
#: Exit codes. click uses 2 for invalid options.
FINE, FAILURE, INCOMPLETE = 0, 1, 3


def lines(result: Result, width: int, *, plain: bool = False) -> str:
    """Format one result: its mark, its name and the finding, followed by how to fix it.

    Args:
        result: The result.
        width: Length of the longest name, in characters.
        plain: Use only ASCII, for terminals that cannot show other characters.
    """
    mark, word, color = _MARKS[result.status]
    shown, arrow = (word.ljust(6), "->") if plain else (mark, "→")
    head = f"{shown} {result.name.ljust(width)}  "
    indent = " " * len(head)
    message = result.message.splitlines() or [""]
    took = f"  ({result.seconds:.1f} s)" if result.seconds >= 1 else ""
    text = [click.style(head, fg=color) + message[0] + took, *(indent + line for line in message[1:])]
    text += [f"{indent}{arrow} {line}" for line in result.fix.splitlines()]
    whole = "\n".join(text)
    return whole.encode("ascii", "replace").decode() if plain else whole


def summary(results: Sequence[Result], seconds: float) -> str:
    """Return the last line of the report. It says "Nothing failed" only if everything that applies was checked."""
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
    """Return the exit code.

    0: everything that applies was checked and is fine. 1: something failed. 3: nothing failed, but not everything could
    be checked.
    """
    found = {result.status for result in results}
    return FAILURE if Status.FAILED in found else INCOMPLETE if Status.UNCHECKED in found else FINE


def as_json(results: Sequence[Result]) -> str:
    """Return the results as a JSON list of objects."""
    return json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False)
