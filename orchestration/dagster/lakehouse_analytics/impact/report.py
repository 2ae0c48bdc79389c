"""The result of a comparison as text, Markdown or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lakehouse_analytics.common.names import counted, some
from lakehouse_analytics.impact.breaking import Break, breaks_of, label
from lakehouse_analytics.impact.changes import ColumnChange, ModelChange, compare_sides
from lakehouse_analytics.impact.reach import Reach, reach_of
from lakehouse_analytics.impact.side import Side

#: Maximum number of columns that a line of text lists, and of characters of an expression.
_MOST_COLUMNS = 8
_MAX_EXPRESSION = 100


@dataclass(frozen=True)
class Impact:
    """What changed, and for each change what it reaches and breaks.

    Attributes:
        base: What the project is compared with, for the heading.
        changes: The changes; those of columns that only follow a change upstream are not included.
        reaches: What each change reaches, in the same order.
        breaks: What breaks.
        total: What all changes together reach.
        unknown: The reasons why the lineage of columns is not known, by the unique id of a model.
    """

    base: str
    changes: tuple[ModelChange, ...]
    reaches: tuple[Reach, ...]
    breaks: tuple[Break, ...]
    total: Reach
    unknown: dict[str, str]


def impact_of(base: Side, current: Side, name: str) -> Impact:
    """Compare two sides.

    Args:
        base: The project before the change.
        current: The project after it.
        name: What the project is compared with.
    """
    changes = compare_sides(base, current)
    own = tuple(change for change in changes if change.kind != "upstream")
    return Impact(
        name,
        own,
        tuple(reach_of([change], base, current) for change in own),
        tuple(breaks_of(changes, base, current)),
        reach_of(changes, base, current),
        {unique_id: query.problem for unique_id, query in current.queries.items() if query.problem},
    )


def as_json(impact: Impact) -> dict[str, Any]:
    """Return the result as data for JSON."""
    return {
        "base": impact.base,
        "breaking": bool(impact.breaks),
        "changes": [
            {**asdict(change), "reaches": _reach_as_json(reach)}
            for change, reach in zip(impact.changes, impact.reaches, strict=True)
        ],
        "breaks": [asdict(item) for item in impact.breaks],
        "reaches": _reach_as_json(impact.total),
        "unknown": impact.unknown,
    }


def _reach_as_json(reach: Reach) -> dict[str, Any]:
    return {
        "models": {
            name: {"columns": sorted(reach.columns.get(name, ())), "rows": name in reach.rows}
            for name in sorted(reach.models)
        },
        "exposures": sorted(reach.exposures),
        "metrics": sorted(reach.metrics),
        "owners": sorted(reach.owners),
    }


def as_text(impact: Impact) -> str:
    """Return the result as text for a terminal."""
    lines = [_summary(impact)]
    for change, reach in zip(impact.changes, impact.reaches, strict=True):
        lines += ["", f"{label(change.unique_id)}: {_kind(change)}"]
        lines += [f"  {line}" for line in _column_lines(change)]
        if change.rows:
            lines.append(f"  {change.rows}")
        lines += [f"  reaches {line}" for line in _reach_lines(change, reach)]
    if impact.breaks:
        lines += ["", "Breaking:"]
        lines += [f"  ✘ {line}" for line in _break_lines(impact.breaks)]
    if impact.unknown:
        lines += ["", *_unknown_lines(impact)]
    if impact.total.owners:
        lines += ["", f"Owners: {', '.join(sorted(impact.total.owners))}"]
    return "\n".join(lines)


def as_markdown(impact: Impact) -> str:
    """Return the result as Markdown, for the comment of a pull request."""
    lines = ["### What this change reaches", "", _summary(impact)]
    if impact.breaks:
        lines += ["", "**Breaking**", "", *(f"- ✘ {_escaped(line)}" for line in _break_lines(impact.breaks))]
    if impact.changes:
        lines += ["", "| changed | what | reaches |", "|---|---|---|"]
    for change, reach in zip(impact.changes, impact.reaches, strict=True):
        what = "<br>".join(
            [_kind(change), *_column_lines(change), *([change.rows] if change.rows else [])],
        )
        reached = "<br>".join(_reach_lines(change, reach)) or "nothing else"
        lines.append(f"| {_escaped(label(change.unique_id))} | {_escaped(what)} | {_escaped(reached)} |")
    if impact.unknown:
        lines += ["", *(_escaped(line) for line in _unknown_lines(impact))]
    if impact.total.owners:
        lines += ["", f"Owners: {', '.join(sorted(impact.total.owners))}"]
    return "\n".join(lines)


def _summary(impact: Impact) -> str:
    if not impact.changes:
        return f"Compared with {impact.base}, nothing has changed."
    changed = {change.unique_id for change in impact.changes}
    others = len(impact.total.models - changed)
    exposures = counted(len(impact.total.exposures), "exposure")
    breaking = counted(len(impact.breaks), "breaking change") if impact.breaks else "nothing breaks"
    return (
        f"Compared with {impact.base}: {len(changed)} changed, {others} more reached, {exposures} reached; {breaking}."
    )


def _kind(change: ModelChange) -> str:
    return f"{change.kind} ({', '.join(change.reasons)})" if change.reasons else change.kind


def _column_lines(change: ModelChange) -> Iterator[str]:
    if change.kind == "added":
        yield f"columns: {some([column.column for column in change.columns], _MOST_COLUMNS)}"
        return
    if change.unknown:
        yield f"column lineage is not known: {change.unknown}"
    for column in change.columns:
        yield f"{column.column}: {_column(column)}"


def _column(column: ColumnChange) -> str:
    if column.kind == "renamed":
        return f"renamed to {column.after}"
    if column.kind == "retyped":
        return f"{column.how} from {column.before} to {column.after}"
    if column.kind == "changed":
        return f"was {_short(column.before)}, is {_short(column.after)}"
    return column.kind


def _short(expression: str) -> str:
    text = " ".join(expression.split())
    return text if len(text) <= _MAX_EXPRESSION else f"{text[: _MAX_EXPRESSION - 1]}…"


def _reach_lines(change: ModelChange, reach: Reach) -> Iterator[str]:
    for unique_id in sorted(reach.models - {change.unique_id}):
        columns = sorted(reach.columns.get(unique_id, ()))
        if unique_id in reach.rows:
            yield f"{label(unique_id)} (all columns)"
        elif columns:
            yield f"{label(unique_id)} ({some(columns, _MOST_COLUMNS)})"
    for unique_id in (*sorted(reach.metrics), *sorted(reach.exposures)):
        yield label(unique_id)


def _break_lines(breaks: Iterable[Break]) -> Iterator[str]:
    for item in breaks:
        name = f"{label(item.unique_id)}.{item.column}" if item.column else label(item.unique_id)
        yield f"{name} ({item.what}): {item.why}"


def _unknown_lines(impact: Impact) -> Sequence[str]:
    return [
        f"Column lineage is not known: {label(unique_id)} ({problem}). All that it reads counts as reaching all of it."
        for unique_id, problem in sorted(impact.unknown.items())
    ]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
