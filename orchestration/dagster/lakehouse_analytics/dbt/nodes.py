"""The answer to each node of a dbt manifest: built, checked, external, passed through, or left out.

Pure: no Dagster, no dbt. dbt's resource types: https://docs.getdbt.com/reference/artifacts/manifest-json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from lakehouse_analytics.dbt.dagster_meta import Ref
from lakehouse_analytics.common.names import counted

Node = Mapping[str, Any]

#: Resource types that are tables in the database.
TABLES = frozenset({"model", "seed", "snapshot"})
#: Sections of a manifest that hold no nodes of the graph.
NO_NODES = frozenset(
    {"metadata", "macros", "docs", "groups", "selectors", "disabled", "parent_map", "child_map", "group_map"}
)
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


def answer_to(node: Node) -> NodeUse:
    """What becomes of one node; a resource type of a later dbt is left out."""
    if node["resource_type"] == "model":
        if is_foreign(node):
            return NodeUse.EXTERNAL
        if is_ephemeral(node):
            return NodeUse.PASSED_THROUGH
    return _USES.get(node["resource_type"], NodeUse.LEFT_OUT)


def is_ephemeral(node: Node) -> bool:
    """Whether dbt inlines the model into its readers."""
    return bool(node["resource_type"] == "model" and node["config"].get("materialized") == "ephemeral")


def is_foreign(node: Node) -> bool:
    """Whether a plugin such as dbt-loom injected the model from another project: it has no file, as dbt itself asks."""
    return node["resource_type"] == "model" and not node.get("original_file_path") and not node.get("path")


def is_table(node: Node) -> bool:
    """Whether a run builds the node as a table."""
    return node["resource_type"] in TABLES and answer_to(node) is NodeUse.BUILT


def every_node(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Node]]:
    """All nodes of all sections of a manifest, those of sections that a later dbt adds included."""
    for name, section in manifest.items():
        if name in NO_NODES or not isinstance(section, Mapping):
            continue
        for unique_id, node in section.items():
            if isinstance(node, Mapping) and "resource_type" in node:
                yield unique_id, node


def left_out(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """One line that names the nodes which a run neither builds nor checks; nothing where there are none."""
    kinds = Counter(
        str(node["resource_type"]) for _, node in every_node(manifest) if answer_to(node) is NodeUse.LEFT_OUT
    )
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
        nodes: Every node by unique id, as `every_node` yields them.
    """
    found: dict[str, None] = {}
    stack = list(reversed(depends_on(node)))
    while stack:
        unique_id = stack.pop()
        parent = nodes.get(unique_id)
        if parent is None or unique_id in found or unique_id == node["unique_id"]:
            continue
        found[unique_id] = None
        if is_ephemeral(parent) or parent["resource_type"] in _LINKS:
            stack.extend(reversed(depends_on(parent)))
    return tuple(found)


def depends_on(node: Node) -> Sequence[str]:
    """Unique ids that a node reads directly; seeds have none."""
    return (node.get("depends_on") or {}).get("nodes") or []


def has_table_above(node: Node, nodes: Mapping[str, Node]) -> bool:
    """Whether a table, a source or a foreign model lies above a node."""
    above = (nodes[unique_id] for unique_id in upstream(node, nodes))
    return any(is_table(parent) or answer_to(parent) is NodeUse.EXTERNAL for parent in above)


def constants(nodes: Mapping[str, Node]) -> set[str]:
    """Unique ids of the ephemeral models to which tests belong that read no table: models made of constants."""
    found: set[str] = set()
    for node in nodes.values():
        if node["resource_type"] == "test" and not has_table_above(node, nodes):
            tested = [unique_id for unique_id in upstream(node, nodes) if is_ephemeral(nodes[unique_id])]
            attached = node.get("attached_node")
            found.update([attached] if attached in tested else tested[:1])
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
        if node["name"] == ref.name
        and (ref.package is None or node.get("package_name") == ref.package)
        and (ref.version is None or str(node.get("version")) == ref.version)
    ]
    return min(
        found,
        key=lambda node: (node.get("package_name") != package, node.get("version") != node.get("latest_version")),
        default=None,
    )
