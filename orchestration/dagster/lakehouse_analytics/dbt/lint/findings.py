"""Findings about a dbt project: collected per node when the project loads, and reported once per kind.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lakehouse_analytics.common.names import counted, some

STRICT = "LAKEHOUSE_STRICT"


@dataclass(frozen=True)
class Finding:
    """A finding about one node of the manifest.

    Attributes:
        unique_id: dbt's unique id of the node.
        where: The file and the node, at the start of an error: `models/orders.sql: model orders`.
        name: The name of the node in a list.
        problem: What is wrong and what to do. Findings with the same problem are reported together.
        accept: The value of `meta.lakehouse.accept` that accepts it, or None if it cannot be accepted.
        policy: Whether it is an error under LAKEHOUSE_STRICT.
        noun: The kind of the node.
    """

    unique_id: str
    where: str
    name: str
    problem: str
    accept: str | None = None
    policy: bool = False
    noun: str = "model"


def errors(findings: Iterable[Finding], *, strict: bool) -> list[str]:
    """Return the findings that prevent the project from loading, one line each. Empty unless `strict` is set."""
    return [
        f"{one.where}: {one.problem}; to accept this, set meta.lakehouse.accept: [{one.accept}] ({STRICT} is set)"
        for one in findings
        if strict and one.policy
    ]


def warnings(findings: Iterable[Finding]) -> list[str]:
    """Return one line per kind of problem, starting with those that would be errors under LAKEHOUSE_STRICT."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.problem, one.noun), []).append(one)
    ordered = sorted(groups.values(), key=lambda group: not group[0].policy)
    return [_warning(group) for group in ordered]


def _warning(group: list[Finding]) -> str:
    first = group[0]
    way_out = ""
    if first.accept:
        way_out = f". To accept this, set meta.lakehouse.accept: [{first.accept}] on the {first.noun} or its folder"
        way_out += f"; {STRICT}=true makes it an error" if first.policy else ""
    if len(group) == 1:
        return f"{first.where}: {first.problem}{way_out}"
    return f"{counted(len(group), first.noun)} ({some([one.name for one in group])}): {first.problem}{way_out}"
