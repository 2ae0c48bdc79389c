"""Writes the differences between two states of a table: as text, JSON, or Markdown for a comment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lakehouse_analytics.common.names import counted, joined
from lakehouse_analytics.diff.compare import KINDS, Difference, Sample, described_columns

#: Version of the JSON format.
VERSION = 1
#: Maximum number of characters of a value in text and Markdown.
_WIDTH = 60


def as_json(difference: Difference) -> str:
    """Return the differences as a JSON object. Values in samples are texts or null."""
    found = {"version": VERSION, "equal": difference.is_empty, **asdict(difference)}
    found["samples"] = [
        {"kind": sample.kind, "key": dict(sample.key), "rows": sample.rows, "values": _json_values(sample)}
        for sample in difference.samples
    ]
    found["types"] = {name: {"base": base, "head": head} for name, (base, head) in difference.types.items()}
    return json.dumps(found, indent=2, ensure_ascii=False)


def as_text(difference: Difference) -> str:
    """Return the differences as text for a terminal."""
    lines = [f"{difference.table}: {difference.base} → {difference.head}", _matching(difference), ""]
    lines += [
        f"  {'rows':<10} {difference.base_rows:>14,} → {difference.head_rows:,}",
        *(f"  {kind:<10} {getattr(difference, kind):>14,}" for kind in (*KINDS, "unchanged")),
    ]
    changed = _changed(difference)
    if changed:
        width = max(map(len, changed))
        lines += ["", "Changed values per column:"]
        lines += [
            f"  {name:<{width}} {number:>10,}  ({_share(number, difference)})" for name, number in changed.items()
        ]
    lines += [f"\n{line}" if n == 0 else line for n, line in enumerate(_structure(difference, "{}"))]
    lines += [f"\n{note}" if n == 0 else note for n, note in enumerate(difference.notes)]
    for kind in KINDS:
        samples = [sample for sample in difference.samples if sample.kind == kind]
        if samples:
            lines += ["", f"Examples of {kind} rows:"]
            lines += [f"  {_described(sample, '{}')}" for sample in samples]
    return "\n".join(lines)


def as_markdown(difference: Difference) -> str:
    """Return the differences as Markdown, for a comment on a pull request."""
    heading = f"### {_code(difference.table)}: {_code(difference.base)} → {_code(difference.head)}"
    if difference.is_empty:
        return "\n".join(
            [heading, "", f"No differences in {counted(difference.head_rows, 'row')}.", *_details(difference)]
        )
    lines = [
        heading, "", "| | rows |", "|---|---:|",
        f"| before | {difference.base_rows:,} |", f"| after | {difference.head_rows:,} |",
        *(f"| {kind} | {getattr(difference, kind):,} |" for kind in (*KINDS, "unchanged")),
    ]  # fmt: skip
    changed = _changed(difference)
    if changed:
        lines += ["", "| column | changed values | of matched rows |", "|---|---:|---:|"]
        lines += [f"| {_cell(name)} | {number:,} | {_share(number, difference)} |" for name, number in changed.items()]
    return "\n".join([*lines, *_details(difference)])


def _details(difference: Difference) -> Iterator[str]:
    """Yield the lines of Markdown below the tables."""
    for line in (_matching(difference, "`{}`"), *_structure(difference, "`{}`"), *difference.notes):
        yield from ("", line)
    for kind in KINDS:
        samples = [sample for sample in difference.samples if sample.kind == kind]
        if samples:
            yield from ("", f"<details><summary>Examples of {kind} rows</summary>", "")
            yield from (f"- {_described(sample, '`{}`')}" for sample in samples)
            yield from ("", "</details>")


def _matching(difference: Difference, quoted: str = "{}") -> str:
    condition = f" Only rows with {quoted.format(difference.where)}." if difference.where else ""
    if not difference.key:
        return f"There is no key, so equal rows are counted: a changed row is removed and added.{condition}"
    columns = joined([quoted.format(name) for name in difference.key])
    return f"Rows are matched by {columns} ({difference.key_origin}).{condition}"


def _structure(difference: Difference, quoted: str) -> Iterator[str]:
    """Yield lines about columns and types."""
    for columns, state in ((difference.only_base, difference.base), (difference.only_head, difference.head)):
        if columns:
            yield f"Only in {quoted.format(state)}: {described_columns(columns)}."
    for name, (base, head) in difference.types.items():
        yield f"Type of {quoted.format(name)}: {base} → {head}."
    if difference.excluded:
        yield f"Not compared: {', '.join(quoted.format(name) for name in difference.excluded)}."


def _changed(difference: Difference) -> dict[str, int]:
    """Return the columns with changed values, most changes first."""
    changed = {name: number for name, number in difference.columns.items() if number}
    return dict(sorted(changed.items(), key=lambda item: (-item[1], item[0])))


def _share(number: int, difference: Difference) -> str:
    percent = 100 * number / (difference.changed + difference.unchanged)
    return "< 0.1 %" if percent < 0.1 else f"{percent:.1f} %"


def _described(sample: Sample, quoted: str) -> str:
    """Return an example in one line."""
    key = _assignments(sample.key, quoted)
    if sample.kind == "changed":
        changes = [
            f"{name} {_quoted(old, quoted)} → {_quoted(new, quoted)}" for name, (old, new) in sample.values.items()
        ]
        return f"{key}: {'; '.join(changes)}"
    several = f" ({sample.rows} rows)" if sample.rows > 1 else ""
    return ": ".join(filter(None, [key, _assignments(sample.values, quoted)])) + several


def _assignments(values: Mapping[str, Any], quoted: str) -> str:
    return ", ".join(f"{name} {_quoted(value, quoted)}" for name, value in values.items())


def _quoted(value: str | None, quoted: str) -> str:
    """Return a value in one line: null in words, and a text as the engine writes it."""
    if value is None:
        return "null"
    text = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in value)
    text = text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
    return _code(text) if quoted == "`{}`" else text if text and text == text.strip() else f"'{text}'"


def _code(text: str) -> str:
    """Return text as code in Markdown, also if it has backticks."""
    fence = "`" * (max((len(run) for run in _runs(text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _runs(text: str) -> Sequence[str]:
    return ["`" * len(part) for part in "".join(char if char == "`" else " " for char in text).split()]


def _cell(text: str) -> str:
    return _code(text).replace("|", "\\|")


def _json_values(sample: Sample) -> dict[str, Any]:
    if sample.kind == "changed":
        return {name: {"base": old, "head": new} for name, (old, new) in sample.values.items()}
    return dict(sample.values)
