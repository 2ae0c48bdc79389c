"""Remarks about a dbt project when it loads: found node by node, and reported once for each kind.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lakehouse_analytics.common.names import counted, some

STRICT = "LAKEHOUSE_STRICT"


@dataclass(frozen=True)
class Finding:
    """One remark about one node of the manifest.

    Attributes:
        unique_id: The node.
        where: File and node, as an error begins: `models/orders.sql: model orders`.
        name: The node, as it is listed among others.
        problem: What is wrong and what to do. Findings with the same problem are reported together.
        accept: What `meta.lakehouse.accept` calls it; None if it cannot be accepted.
        policy: Whether it is an error under LAKEHOUSE_STRICT.
        noun: What the node is.
    """

    unique_id: str
    where: str
    name: str
    problem: str
    accept: str | None = None
    policy: bool = False
    noun: str = "model"


def errors(findings: Iterable[Finding], *, strict: bool) -> list[str]:
    """The findings that refuse the project, one line each; none unless `strict`."""
    return [
        f"{one.where}: {one.problem}; to accept this, set meta.lakehouse.accept: [{one.accept}] ({STRICT} is set)"
        for one in findings
        if strict and one.policy
    ]


def warnings(findings: Iterable[Finding]) -> list[str]:
    """One line for each kind of problem, those that could refuse the project first."""
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
