"""What a run does with each node of a dbt manifest: build it, check it, … and which nodes lie above it.

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
#: Nodes through which lineage goes: dbt inlines them, or they describe tables without being one.
_LINKS = frozenset({"function", "metric", "semantic_model", "saved_query", "exposure"})
#: Why a run neither builds nor checks nodes of a type that dbt knows.
_REASONS = {
    "unit_test": "they test code, not data: run them in CI with `dbt test --select test_type:unit`",
    "saved_query": "dbt Core does not run their exports",
    "analysis": "dbt only compiles them",
}


class NodeUse(StrEnum):
    """What becomes of a node."""

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
    """What becomes of one node; a resource type of a later dbt is left out."""
    if node.resource_type == "model":
        if is_foreign(node):
            return NodeUse.EXTERNAL
        if is_ephemeral(node):
            return NodeUse.PASSED_THROUGH
    return _USES.get(node.resource_type, NodeUse.LEFT_OUT)


def is_ephemeral(node: Node) -> bool:
    """Whether dbt inlines the model into its readers."""
    return node.resource_type == "model" and node.config.materialized == "ephemeral"


def is_foreign(node: Node) -> bool:
    """Whether a plugin such as dbt-loom injected the model from another project: it has no file."""
    return node.resource_type == "model" and not node.original_file_path


def is_table(node: Node) -> bool:
    """Whether a run builds the node as a table."""
    return node.resource_type in TABLES and use_of(node) is NodeUse.BUILT


def left_out(nodes: Iterable[Node]) -> tuple[str, ...]:
    """One line that names the nodes which a run neither builds nor checks; nothing where there are none."""
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
    """Unique ids of everything above a node up to, and with, the nearest tables, sources and foreign models.

    Ephemeral models, functions, semantic models and metrics are links: they are named, and so is what lies above them.

    Args:
        node: Any node.
        nodes: Every node by unique id.
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


def has_table_above(node: Node, nodes: Mapping[str, Node]) -> bool:
    """Whether a table, a source or a foreign model lies above a node."""
    above = (nodes[unique_id] for unique_id in upstream(node, nodes))
    return any(is_table(parent) or use_of(parent) is NodeUse.EXTERNAL for parent in above)


def constants(nodes: Mapping[str, Node]) -> set[str]:
    """Unique ids of the ephemeral models to which tests belong that read no table: models made of constants."""
    found: set[str] = set()
    for node in nodes.values():
        if node.resource_type == "test" and not has_table_above(node, nodes):
            tested = [unique_id for unique_id in upstream(node, nodes) if is_ephemeral(nodes[unique_id])]
            found.update([node.attached_node] if node.attached_node in tested else tested[:1])
    return found


def named_by(ref: Ref, candidates: Sequence[Node], package: str) -> Node | None:
    """The node that a `ref` in `meta.dagster` names.

    Args:
        ref: A name, and perhaps a package and a version.
        candidates: Nodes that may be meant.
        package: The package that is meant where the reference names none; others of that name come after it.

    Returns:
        Of a versioned model without a version in the reference, the latest one.
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
