"""What differs between two sides: models, columns and rows. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from lakehouse_analytics.column_lineage.query import Output, Query
from lakehouse_analytics.column_lineage.type_changes import compare
from lakehouse_analytics.dbt.macro_calls import MacroCalls
from lakehouse_analytics.impact.names import names_of
from lakehouse_analytics.impact.nodes import CompiledNode
from lakehouse_analytics.impact.side import Side

#: Configurations that do not change a table: they are compared by themselves, or only describe it.
_NOT_COMPARED = frozenset({"contract", "description", "docs", "enabled", "packages", "quoting", "column_types"})
#: Configurations that only say how a table is built or described, not which rows it has.
_WITHOUT_ROWS = frozenset({
    "access", "batch_size", "concurrent_batches", "database", "schema", "alias", "freshness", "full_refresh", "grants",
    "group", "indexes", "loaded_at_field", "loaded_at_query", "materialized", "meta", "on_configuration_change",
    "on_schema_change", "partition_by", "persist_docs", "properties", "quote_columns", "static_analysis", "tags",
    "table_type", "unlogged",
})  # fmt: skip

Kind = Literal["added", "removed", "renamed", "retyped", "changed"]


@dataclass(frozen=True)
class ColumnChange:
    """A change of one column.

    Attributes:
        kind: What changed; `changed` is the expression.
        column: The name of the column before the change, or of the new column.
        before: The expression, the type or the name before the change.
        after: The same after it.
        how: For a type: widened, narrowed, or changed.
    """

    kind: Kind
    column: str
    before: str = ""
    after: str = ""
    how: str = ""


@dataclass
class ModelChange:
    """A change of a model, seed, snapshot or source.

    Attributes:
        unique_id: dbt's unique id.
        kind: Whether it is new, removed, or modified; `upstream` if only its columns changed, by a `*`.
        reasons: What was modified: SQL, macros, configurations, and so on.
        columns: The changes of its columns.
        rows: The reason why its rows may differ, or an empty string.
        unknown: The reason why its columns cannot be compared, or an empty string.
    """

    unique_id: str
    kind: Literal["added", "removed", "modified", "upstream"]
    reasons: list[str] = field(default_factory=list)
    columns: list[ColumnChange] = field(default_factory=list)
    rows: str = ""
    unknown: str = ""

    @property
    def code_differs(self) -> bool:
        """Whether its SQL or a macro that it calls was modified."""
        return any(reason == "SQL" or reason.startswith("macro ") for reason in self.reasons)


def compare_sides(base: Side, current: Side) -> list[ModelChange]:
    """Return the changes, in the order of the unique ids."""
    found = []
    for unique_id in sorted(base.nodes.keys() | current.nodes.keys()):
        if unique_id not in base.nodes:
            outputs = current.queries[unique_id].outputs
            found.append(ModelChange(unique_id, "added", columns=[ColumnChange("added", o.name) for o in outputs]))
        elif unique_id not in current.nodes:
            found.append(ModelChange(unique_id, "removed", rows="it was removed"))
        elif change := _compare(unique_id, base, current):
            found.append(change)
    return found


def _compare(unique_id: str, base: Side, current: Side) -> ModelChange | None:
    reasons = reasons_of(base.nodes[unique_id], current.nodes[unique_id], base.macro_calls, current.macro_calls)
    change = ModelChange(unique_id, "modified" if reasons else "upstream", reasons)
    old, new = base.queries[unique_id], current.queries[unique_id]
    if old.problem or new.problem:
        change.unknown = new.problem or old.problem
        if change.code_differs:
            change.rows = f"column lineage is not known: {change.unknown}"
    else:
        change.columns = compare_columns(old, new, current.dialect)
        if old.open:
            change.columns += _not_passed_on(unique_id, old, new, current)
        if old.row_fingerprint != new.row_fingerprint:
            change.rows = "other rows: joins, filters, groups or limits changed"
        elif _incremental_differs(unique_id, base, current, code_differs=change.code_differs):
            change.rows = "other rows: what an incremental build reads changed"
    if not reasons and (change.rows or any(column.kind == "changed" for column in change.columns)):
        reasons.append("compiled SQL")  # by a variable, or the environment
        change.kind = "modified"
    if not change.rows:
        change.rows = _rows_of_reasons(reasons)
    return change if change.reasons or change.columns or change.rows else None


def _not_passed_on(unique_id: str, old: Query, new: Query, current: Side) -> list[ColumnChange]:
    """Return the columns that a `*` passed on from a table whose columns are not known, and that something names."""
    names = sorted(names_of(unique_id, current) - old.by_name.keys())
    return [ColumnChange("removed", name, name) for name in names if old.may_have(name) and not new.may_have(name)]


def _incremental_differs(unique_id: str, base: Side, current: Side, *, code_differs: bool) -> bool:
    old, new = base.incremental.get(unique_id, Query()), current.incremental.get(unique_id, Query())
    if old.problem or new.problem or bool(old.row_fingerprint) != bool(new.row_fingerprint):
        return code_differs
    return old.row_fingerprint != new.row_fingerprint


def compare_columns(old: Query, new: Query, dialect: str) -> list[ColumnChange]:
    """Return the changes of a query's columns: renamed if the same value has another name."""
    removed = {o.name: o for o in old.outputs if o.name not in new.by_name}
    added = {o.name: o for o in new.outputs if o.name not in old.by_name}
    found: list[ColumnChange] = []
    for name, output in removed.items():
        same = [o for o in added.values() if o.fingerprint == output.fingerprint]
        if same:
            del added[same[0].name]
            found.append(ColumnChange("renamed", name, name, same[0].name))
            found += _retyped(output, same[0], dialect)
        else:
            found.append(ColumnChange("removed", name, output.expression))
    for output in new.outputs:
        before = old.by_name.get(output.name)
        if output.name in added:
            found.append(ColumnChange("added", output.name, after=output.expression))
        elif before is not None:
            found += _retyped(before, output, dialect)
            if before.fingerprint != output.fingerprint:
                found.append(ColumnChange("changed", output.name, before.expression, output.expression))
    return found


def _retyped(old: Output, new: Output, dialect: str) -> list[ColumnChange]:
    how = compare(old.type, new.type, dialect)
    return [ColumnChange("retyped", old.name, old.type, new.type, how)] if how != "same" else []


def reasons_of(old: CompiledNode, new: CompiledNode, base: MacroCalls, current: MacroCalls) -> list[str]:
    """Return what was modified, in the manner of dbt's `state:modified`.

    Args:
        old, new: The node before and after the change.
        base, current: The macros of both sides.
    """
    reasons = []
    if new.resource_type == "seed":
        if old.checksum != new.checksum:
            reasons.append("seed")
    elif old.raw_code.strip() != new.raw_code.strip():
        reasons.append("SQL")
    reasons += [f"macro {name}" for name in _changed_macros(old, new, base, current)]
    reasons += [f"config {name}" for name in _changed_config(old, new)]
    if old.relation != new.relation:
        reasons.append("relation")
    if contract_of(old) != contract_of(new):
        reasons.append("contract")
    if old.resource_type == "source" and _column_types(old) != _column_types(new):
        reasons.append("columns")
    return reasons


def _rows_of_reasons(reasons: list[str]) -> str:
    for reason in reasons:
        if reason in ("seed", "relation") or (
            reason.startswith("config ") and reason.removeprefix("config ") not in _WITHOUT_ROWS
        ):
            return "other rows: the file of the seed changed" if reason == "seed" else f"other rows: {reason} changed"
    return ""


def _changed_macros(old: CompiledNode, new: CompiledNode, base: MacroCalls, current: MacroCalls) -> list[str]:
    both = base.of([old.entry]) & current.of([new.entry])
    return sorted(current.name(macro) for macro in both if base.code(macro).strip() != current.code(macro).strip())


def _changed_config(old: CompiledNode, new: CompiledNode) -> list[str]:
    before, after = old.config, new.config
    names = sorted((before.keys() | after.keys()) - _NOT_COMPARED)
    changed = [name for name in names if _plain(before.get(name)) != _plain(after.get(name))]
    return [name.replace("-", "_") for name in changed]


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def contract_of(node: CompiledNode) -> str:
    """Return what the enforced contract of a node has, for comparisons."""
    columns = {name: (column.data_type, column.constraints) for name, column in node.columns.items()}
    return _plain([True, columns, node.constraints] if node.is_contract_enforced else [False])


def _column_types(node: CompiledNode) -> dict[str, Any]:
    return {name: column.data_type for name, column in node.columns.items()}
