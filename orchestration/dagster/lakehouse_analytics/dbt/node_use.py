"""How a run uses each node of a dbt manifest, and which nodes are upstream of it.

Pure: no Dagster, no dbt. dbt's resource types: https://docs.getdbt.com/reference/artifacts/manifest-json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from lakehouse_analytics.common.names import counted
from lakehouse_analytics.dbt.dagster_meta import Ref
from lakehouse_analytics.dbt.nodes import Node

#: Resource types that are tables in the database.
TABLES = frozenset({"model", "seed", "snapshot"})
#: Resource types that lineage passes through: dbt inlines them, or they describe tables without being tables.
_LINKS = frozenset({"function", "metric", "semantic_model", "saved_query", "exposure"})
#: Reasons why a run neither builds nor checks nodes of a resource type.
_REASONS = {
    "unit_test": "they test code, not data: run them in CI with `dbt test --select test_type:unit`",
    "saved_query": "dbt Core does not run their exports",
    "analysis": "dbt only compiles them",
}


class NodeUse(StrEnum):
    """How a run uses a node."""

    BUILT = "built"
    CHECKED = "checked"
    EXTERNAL = "external"
    PASSED_THROUGH = "passed through"
    LEFT_OUT = "left out"


_USES = {
    "model": NodeUse.BUILT,
    "seed": NodeUse.BUILT,
    "snapshot": NodeUse.BUILT,
    "function": NodeUse.BUILT,
    "test": NodeUse.CHECKED,
    "source": NodeUse.EXTERNAL,
    "exposure": NodeUse.EXTERNAL,
    "metric": NodeUse.PASSED_THROUGH,
    "semantic_model": NodeUse.PASSED_THROUGH,
    "operation": NodeUse.PASSED_THROUGH,  # a hook: dbt runs it around its own commands
    "unit_test": NodeUse.LEFT_OUT,
    "saved_query": NodeUse.LEFT_OUT,
    "analysis": NodeUse.LEFT_OUT,
}


def use_of(node: Node) -> NodeUse:
    """Return how a run uses a node. Resource types added by a later dbt are left out."""
    if node.resource_type == "model":
        if node.is_foreign:
            return NodeUse.EXTERNAL
        if is_ephemeral(node):
            return NodeUse.PASSED_THROUGH
    return _USES.get(node.resource_type, NodeUse.LEFT_OUT)


def is_ephemeral(node: Node) -> bool:
    """Return whether dbt inlines the model into the models that read it."""
    return node.resource_type == "model" and node.config.materialized == "ephemeral"


def is_table(node: Node) -> bool:
    """Return whether a run builds the node as a table."""
    return node.resource_type in TABLES and use_of(node) is NodeUse.BUILT


def left_out_warning(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Return one line about the nodes that a run neither builds nor checks. Empty if there are none."""
    kinds = Counter(node.resource_type for node in nodes if use_of(node) is NodeUse.LEFT_OUT)
    if not kinds:
        return ()
    words = [
        f"{counted(number, kind.replace('_', ' '))} "
        f"({_REASONS.get(kind, 'this version does not know the resource type')})"
        for kind, number in sorted(kinds.items())
    ]
    return (f"Left out, because no run builds or checks them: {'; '.join(words)}.",)


def upstream(node: Node, nodes: Mapping[str, Node]) -> tuple[str, ...]:
    """Return the unique ids upstream of a node, up to and including the nearest tables, sources and foreign models.

    Ephemeral models, functions, semantic models and metrics are links: both they and their upstream nodes are included.

    Args:
        node: Any node.
        nodes: All nodes by unique id.
    """
    found: dict[str, None] = {}
    stack = list(reversed(node.depends_on))
    while stack:
        unique_id = stack.pop()
        parent = nodes.get(unique_id)
        if parent is None or unique_id in found or unique_id == node.unique_id:
            continue
        found[unique_id] = None
        if is_ephemeral(parent) or parent.resource_type in _LINKS:
            stack.extend(reversed(parent.depends_on))
    return tuple(found)


def has_upstream_table(node: Node, nodes: Mapping[str, Node]) -> bool:
    """Return whether a table, a source or a foreign model is upstream of a node."""
    above = (nodes[unique_id] for unique_id in upstream(node, nodes))
    return any(is_table(parent) or use_of(parent) is NodeUse.EXTERNAL for parent in above)


def constant_models(nodes: Mapping[str, Node]) -> set[str]:
    """Return the unique ids of ephemeral models of constants: those with attached tests that read no table."""
    found: set[str] = set()
    for node in nodes.values():
        if node.resource_type == "test" and not has_upstream_table(node, nodes):
            tested = [unique_id for unique_id in upstream(node, nodes) if is_ephemeral(nodes[unique_id])]
            found.update([node.attached_node] if node.attached_node in tested else tested[:1])
    return found


def resolve_ref(ref: Ref, candidates: Sequence[Node], package: str) -> Node | None:
    """Return the node that `ref` in `meta.dagster` refers to, or None.

    Args:
        ref: The reference: a name, and optionally a package and a version.
        candidates: The nodes to choose from.
        package: The package that is preferred if the reference names none.

    Returns:
        For a versioned model, the latest version unless the reference names one.
    """
    found = [
        node
        for node in candidates
        if node.name == ref.name
        and (ref.package is None or node.package_name == ref.package)
        and (ref.version is None or str(node.version) == ref.version)
    ]
    return min(
        found,
        key=lambda node: (node.package_name != package, node.version != node.latest_version),
        default=None,
    )
