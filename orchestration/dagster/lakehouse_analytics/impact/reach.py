"""What a change reaches: it follows the lineage of columns and rows, on both sides. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakehouse_analytics.column_lineage.query import Ref
from lakehouse_analytics.impact.changes import ModelChange
from lakehouse_analytics.impact.names import mentions
from lakehouse_analytics.impact.nodes import CompiledNode
from lakehouse_analytics.impact.side import Side

#: Parts of a semantic model that name columns.
_PARTS = ("entities", "dimensions", "measures")


@dataclass
class Reach:
    """What a change reaches.

    Attributes:
        columns: The columns by unique id of the model, including the changed ones.
        rows: The models whose rows may differ, which is all of their columns.
        exposures: The unique ids of exposures.
        metrics: The unique ids of semantic models and metrics.
        owners: The owners of the models and exposures.
    """

    columns: dict[str, set[str]] = field(default_factory=dict)
    rows: set[str] = field(default_factory=set)
    exposures: set[str] = field(default_factory=set)
    metrics: set[str] = field(default_factory=set)
    owners: set[str] = field(default_factory=set)

    @property
    def models(self) -> set[str]:
        """The unique ids of the models, seeds, snapshots and sources."""
        return self.rows | self.columns.keys()


def reach_of(changes: Sequence[ModelChange], base: Side, current: Side) -> Reach:
    """Return what the changes reach, including what was changed."""
    reach = Reach()
    for change in changes:
        if change.rows:
            _add_rows(change.unique_id, reach, [])
        for column in change.columns:
            for name in {column.column, column.after if column.kind == "renamed" else column.column}:
                reach.columns.setdefault(change.unique_id, set()).add(name)
        if change.kind == "modified" or change.unknown:
            reach.columns.setdefault(change.unique_id, set())
    stack: list[Ref | str] = [*reach.rows]
    stack += [Ref(unique_id, name) for unique_id, names in reach.columns.items() for name in names]
    while stack:
        reached = stack.pop()
        for side in (base, current):
            _follow(reached, side, reach, stack)
    for unique_id in reach.rows:
        outputs = [output.name for side in (base, current) for output in _outputs(side, unique_id)]
        reach.columns.setdefault(unique_id, set()).update(outputs)
    effective = _effective(reach)
    for change in changes:  # what breaks, even if it only sorts by a column
        for name in [column.column for column in change.columns if column.kind in ("removed", "renamed")]:
            for child in current.named.get(Ref(change.unique_id, name), ()):
                reach.columns.setdefault(child, set())
    for side in (base, current):
        reach.metrics |= _metrics(side, reach, effective)
        reach.exposures |= _exposures(side, reach, effective)
    reach.owners = _owners(reach, base, current)
    return reach


def _follow(reached: Ref | str, side: Side, reach: Reach, stack: list[Ref | str]) -> None:
    if isinstance(reached, str):
        # Rows: whatever reads the table may have other rows too.
        for child in side.children.get(reached, ()):
            _add_rows(child, reach, stack)
        return
    for child, column in side.readers.get(reached, ()):
        if column is None:
            _add_rows(child, reach, stack)
        elif column not in reach.columns.setdefault(child, set()):
            reach.columns[child].add(column)
            stack.append(Ref(child, column))
    for child in side.children.get(reached.relation, ()):
        if side.queries[child].problem:
            _add_rows(child, reach, stack)


def _add_rows(unique_id: str, reach: Reach, stack: list[Ref | str]) -> None:
    if unique_id not in reach.rows:
        reach.rows.add(unique_id)
        stack.append(unique_id)


def _outputs(side: Side, unique_id: str) -> Iterable[Any]:
    query = side.queries.get(unique_id)
    return query.outputs if query else ()


def _effective(reach: Reach) -> set[str]:
    """Return the models of which values may differ: not those that only have another description or owner."""
    return {unique_id for unique_id in reach.models if unique_id in reach.rows or reach.columns.get(unique_id)}


def _metrics(side: Side, reach: Reach, effective: set[str]) -> set[str]:
    """Return the semantic models, metrics and saved queries that read what was reached."""
    found: set[str] = set()
    for unique_id, model in side.manifest.semantic_models.items():
        if any(_reads(model, parent, reach) for parent in model.parents if parent in effective):
            found.add(unique_id)
    others = {**side.manifest.metrics, **side.manifest.saved_queries}
    waiting = True
    while waiting:
        new = {n for n, m in others.items() if n not in found and not found.isdisjoint(m.parents)}
        waiting = bool(new)
        found |= new
    return found


def _reads(model: CompiledNode, parent: str, reach: Reach) -> bool:
    if parent in reach.rows:
        return True
    columns = reach.columns.get(parent, set())
    return any(mentions(expression, column) for expression in expressions_of(model) for column in columns)


def expressions_of(model: CompiledNode) -> list[str]:
    """Return the expressions of a semantic model, which are mostly names of columns."""
    return model.expressions(_PARTS)


def _exposures(side: Side, reach: Reach, effective: set[str]) -> set[str]:
    reached = effective | reach.metrics
    return {name for name, exposure in side.manifest.exposures.items() if not reached.isdisjoint(exposure.parents)}


def _owners(reach: Reach, base: Side, current: Side) -> set[str]:
    found: set[str] = set()
    for side in (base, current):
        for unique_id in reach.models:
            if node := side.nodes.get(unique_id):
                if owner := node.lakehouse.get("owner"):
                    found.add(str(owner))
                found |= _names(side.manifest.group_owners.get(node.group))
        for unique_id in reach.exposures:
            if exposure := side.manifest.exposures.get(unique_id):
                found |= _names(exposure.owner)
    return found


def _names(owner: Any) -> set[str]:
    """Return the addresses of an owner, or the name if there is none."""
    if not isinstance(owner, Mapping):
        return set()
    address = owner.get("email") or owner.get("name")
    return {str(one) for one in (address if isinstance(address, list) else [address]) if one}
