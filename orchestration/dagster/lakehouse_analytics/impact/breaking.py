"""Which changes break something: a reader, a test, a contract, an exposure. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lakehouse_analytics.column_lineage.query import Ref
from lakehouse_analytics.column_lineage.type_changes import compare
from lakehouse_analytics.impact.changes import ColumnChange, ModelChange, contract_of
from lakehouse_analytics.impact.names import mentions, reads_of_test, settings_of, tests_of, unit_tests_of
from lakehouse_analytics.impact.nodes import CompiledNode
from lakehouse_analytics.impact.reach import expressions_of
from lakehouse_analytics.impact.side import Side


@dataclass(frozen=True)
class Break:
    """Something that does not work anymore.

    Attributes:
        unique_id: The changed node.
        column: The changed column, or an empty string for the node as a whole.
        what: What happened to it.
        why: What breaks.
    """

    unique_id: str
    column: str
    what: str
    why: str


def breaks_of(changes: Iterable[ModelChange], base: Side, current: Side) -> list[Break]:
    """Return what breaks, in the order of the changes."""
    found: dict[Break, None] = {}
    for change in changes:
        for item in _breaks_of(change, base, current):
            found.setdefault(item)
    return [*found]


def _breaks_of(change: ModelChange, base: Side, current: Side) -> Iterator[Break]:
    if change.kind == "removed":
        for why in _readers_of_table(change.unique_id, current):
            yield Break(change.unique_id, "", "removed", why)
        return
    if "relation" in change.reasons:
        for why in _exposures(change.unique_id, current):
            yield Break(change.unique_id, "", "another name or schema", f"{why} by its old name")
    if change.unknown and change.code_differs and not _has_same_contract(change.unique_id, base, current):
        for why in (*_table_readers(change.unique_id, current), *_exposures(change.unique_id, current)):
            yield Break(change.unique_id, "", "its columns cannot be compared", why)
    for column in change.columns:
        for why in _breaks_of_column(change, column, current):
            yield Break(change.unique_id, column.column, _what(column), why)
    if change.kind != "upstream" or change.columns:
        for name, what, why in _contract_breaks(change.unique_id, base, current):
            yield Break(change.unique_id, name, what, why)


def _has_same_contract(unique_id: str, base: Side, current: Side) -> bool:
    """Return whether the same contract is enforced on both sides: dbt then ensures the columns."""
    old, new = base.nodes[unique_id], current.nodes[unique_id]
    return new.is_contract_enforced and contract_of(old) == contract_of(new)


def _what(column: ColumnChange) -> str:
    if column.kind == "retyped":
        return f"type {column.how} from {column.before} to {column.after}"
    return f"renamed to {column.after}" if column.kind == "renamed" else column.kind


def _breaks_of_column(change: ModelChange, column: ColumnChange, current: Side) -> Iterator[str]:
    unique_id = change.unique_id
    if column.kind in ("removed", "renamed"):
        yield from _readers_of_column(unique_id, column.column, current)
        yield from _exposures(unique_id, current)
        yield from _own_names(unique_id, column.column, current)
    elif column.kind == "retyped" and column.how in ("narrowed", "changed"):
        # A change that reaches further tables is reported for those that read it.
        exposures = [*_exposures(unique_id, current)]
        readers = [*_readers_of_column(unique_id, column.column, current)]
        if column.how == "narrowed" and change.kind != "upstream":
            yield exposures[0] if exposures else (readers[0] if readers else "values may not fit")
        elif exposures or readers:
            yield [*exposures, *readers][0]


def _readers_of_table(unique_id: str, side: Side) -> Iterator[str]:
    yield from _table_readers(unique_id, side)
    for name, _ in tests_of(unique_id, side):
        yield f"{label(name)} reads it"
    yield from _exposures(unique_id, side)


def _table_readers(unique_id: str, side: Side) -> Iterator[str]:
    """Yield the models, semantic models and metrics that read a table."""
    for child in sorted(side.children.get(unique_id, ())):
        yield f"{label(child)} reads it"
    for name, node in _others(side):
        if unique_id in node.parents:
            yield f"{label(name)} reads it"


def _readers_of_column(unique_id: str, column: str, side: Side) -> Iterator[str]:
    ref = Ref(unique_id, column)
    for child in sorted(side.named.get(ref, set()) - {unique_id}):
        yield f"{label(child)} reads it"
    for child in sorted(side.children.get(unique_id, ())):
        if (problem := side.queries[child].problem) and mentions(side.nodes[child].code, column):
            yield f"{label(child)} may read it (column lineage is not known: {problem})"
    for name, node in tests_of(unique_id, side):
        if _test_reads(node, ref, side):
            yield f"{label(name)} reads it"
    for name, model in side.manifest.semantic_models.items():
        if unique_id in model.parents and any(mentions(text, column) for text in expressions_of(model)):
            metrics = sorted(_metrics_of(name, side))
            yield f"semantic model {model.name} reads it" + (f" (metrics {', '.join(metrics)})" if metrics else "")


def _test_reads(node: CompiledNode, ref: Ref, side: Side) -> bool:
    if ref in reads_of_test(node, side):
        return True
    sql = node.compiled_code
    return bool(not sql or side.lineage(sql).problem) and mentions(node.code, ref.column)


def _others(side: Side) -> Iterator[tuple[str, CompiledNode]]:
    yield from sorted(side.manifest.semantic_models.items())
    yield from sorted(side.manifest.metrics.items())


def _metrics_of(semantic_model: str, side: Side) -> set[str]:
    metrics = side.manifest.metrics
    found = {name for name, metric in metrics.items() if semantic_model in metric.parents}
    while more := {n for n, m in metrics.items() if n not in found and not found.isdisjoint(m.parents)}:
        found |= more
    return {metrics[name].name for name in found}


def _exposures(unique_id: str, side: Side) -> Iterator[str]:
    for exposure in side.manifest.exposures.values():
        if unique_id in exposure.parents:
            yield f"exposure {exposure.name} may read it"
    for connection in _exports(side.nodes[unique_id]) if unique_id in side.nodes else ():
        yield f"its copy in {connection} may be read"


def _exports(node: CompiledNode) -> Iterator[str]:
    """Yield the connections that have a copy of the table (docs/exports.md)."""
    copies = node.lakehouse.get("serve")
    for copy in copies if isinstance(copies, list) else [copies]:
        if isinstance(copy, Mapping) and copy.get("to"):
            yield str(copy["to"])


def _own_names(unique_id: str, column: str, side: Side) -> Iterator[str]:
    """Yield the settings and unit tests of a node that name a column that it does not have anymore."""
    for setting, names in settings_of(side.nodes[unique_id]):
        if column.lower() in names:
            yield f"{setting} names it"
    for name in unit_tests_of(unique_id, column, side):
        yield f"{label(name)} has it in its rows"


def _contract_breaks(unique_id: str, base: Side, current: Side) -> Iterator[tuple[str, str, str]]:
    """Yield the column, what happened, and why it breaks an enforced contract."""
    old, new = base.nodes.get(unique_id), current.nodes[unique_id]
    if old is not None and old.is_contract_enforced and not new.is_contract_enforced:
        yield "", "contract not enforced anymore", "its readers rely on the contract"
    if old is not None and old.is_contract_enforced and new.is_contract_enforced:
        for constraint in sorted(_constraints(old) - _constraints(new)):
            yield "", f"constraint {constraint} removed", "its readers rely on the contract"
    if not new.is_contract_enforced or new.is_python:
        return
    declared, query = current.contract_columns(unique_id), current.queries[unique_id]
    if query.problem or query.open:
        return
    for name in sorted(declared.keys() - query.by_name.keys()):
        yield name, "not in the SQL", "the enforced contract has it"
    for name in sorted(query.by_name.keys() - declared.keys()):
        yield name, "in the SQL", "the enforced contract does not have it"
    cast = current.casts.get(unique_id, {})
    for name in sorted(declared.keys() & cast.keys()):
        if compare(declared[name], cast[name], current.dialect) not in ("same", "widened") or (
            compare(cast[name], declared[name], current.dialect) != "same"
        ):
            yield name, f"has the type {cast[name]}", f"the enforced contract has {declared[name]}"


def _constraints(node: CompiledNode) -> set[str]:
    found = {str(item.get("type")) for item in node.constraints or ()}
    for name, column in node.columns.items():
        found |= {f"{item.get('type')} of {name}" for item in column.constraints}
    return found


def label(unique_id: str) -> str:
    """Return the kind and the name of a node, as messages have it."""
    kind, _, rest = unique_id.partition(".")
    parts = rest.split(".")
    if kind == "test":
        return f"test {parts[1] if len(parts) > 1 else rest}"
    if kind == "source":
        return f"source {'.'.join(parts[1:])}"
    return f"{kind.replace('_', ' ')} {'.'.join(parts[1:]) or rest}"
