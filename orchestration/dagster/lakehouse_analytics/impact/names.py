"""What names a column other than the SQL of models: tests, unit tests and settings. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lakehouse_analytics.column_lineage.query import Ref
from lakehouse_analytics.impact.nodes import CompiledNode, mapping
from lakehouse_analytics.impact.side import Side

#: Configurations of models and snapshots that name columns of the model itself.
_NAMING = ("unique_key", "updated_at", "check_cols", "event_time")
#: A name in Trino's `partitioning`, such as `ARRAY['month(ordered_at)', 'region']`, other than of a function.
_PARTITIONED_BY = re.compile(r"\b(?!array\b)[a-z_]\w*\b(?!\s*\()")
_NAME = re.compile(r"[^\W\d]\w*")


def mentions(text: str, column: str) -> bool:
    """Return whether an expression has the name of a column."""
    return re.search(rf"(?<![\w$]){re.escape(column)}(?![\w$])", text, re.IGNORECASE) is not None


def names_of(unique_id: str, side: Side) -> set[str]:
    """Return the columns of a node that the SQL of models and tests and the settings of the node name."""
    found = {*side.names_read.get(unique_id, ())}
    for _, node in tests_of(unique_id, side):
        found |= {ref.column for ref in reads_of_test(node, side) if ref.relation == unique_id}
    settings = (name for _, names in settings_of(side.nodes[unique_id]) for name in names)
    return found | {name for name in settings if _NAME.fullmatch(name)}


def tests_of(unique_id: str, side: Side) -> Iterator[tuple[str, CompiledNode]]:
    """Yield the tests that depend on a node."""
    for name, node in side.manifest.tests.items():
        if unique_id in node.parents:
            yield name, node


def reads_of_test(node: CompiledNode, side: Side) -> frozenset[Ref]:
    """Return the columns that a test is known to read."""
    attached, name = node.attached_node, side.column_name(node.tested_column)
    own = frozenset({Ref(attached, name)}) if attached and name else frozenset[Ref]()
    return own | side.lineage(node.compiled_code).reads if node.compiled_code else own


def settings_of(node: CompiledNode) -> Iterator[tuple[str, list[str]]]:
    """Yield the settings of a node that name its own columns, and the columns."""
    config = node.config
    for name in _NAMING:
        if config.get(name) != "all":  # of `check_cols`
            yield f"its `{name}`", _listed(config.get(name))
    properties = mapping(config.get("properties"))
    partitioned = _PARTITIONED_BY.findall(str(properties.get("partitioning") or "").lower())
    yield "`partitioning` of its `properties`", partitioned
    lakehouse = node.lakehouse
    yield "`distinct` of its `meta.lakehouse`", _listed(lakehouse.get("distinct"))
    # The text of `partition` is the length of a window of the `event_time`.
    for key, name in (("partition", "by"), ("freshness", "column")):
        yield f"`{key}.{name}` of its `meta.lakehouse`", _listed(mapping(lakehouse.get(key)).get(name))


def unit_tests_of(unique_id: str, column: str, side: Side) -> Iterator[str]:
    """Yield the unit tests of which the rows have a column of a node."""
    for name, test in sorted(side.manifest.unit_tests.items()):
        rows = [given.get("rows") for given in test.given if _is_input(given, test, unique_id, side)]
        if unique_id in test.parents:
            rows.append(test.expected_rows)
        if any(_has_column(item, column) for item in rows):
            yield name


def _is_input(given: Mapping[str, Any], test: CompiledNode, unique_id: str, side: Side) -> bool:
    """Return whether an input, such as `ref('orders')`, is a node."""
    call = str(given.get("input") or "")
    if call.strip() == "this":
        return unique_id in test.parents
    node, names = side.nodes[unique_id], re.findall(r"""["']([^"']+)["']""", call)
    if node.resource_type == "source":
        return call.lstrip().startswith("source") and names == [node.source_name, node.name]
    # dbt lists the tested model only, so that its inputs are among the parents of that model.
    tested = {parent for model in test.parents if model in side.nodes for parent in side.nodes[model].parents}
    return call.lstrip().startswith("ref") and names[-1:] == [node.name] and unique_id in tested


def _has_column(rows: Any, column: str) -> bool:
    if isinstance(rows, str):
        return mentions(rows, column)
    return any(str(name).lower() == column.lower() for row in rows or () for name in row)


def _listed(value: Any) -> list[str]:
    return [str(one).lower() for one in (value if isinstance(value, list) else [value]) if one]
