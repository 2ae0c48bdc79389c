"""What lies above each table, test and exposure of a manifest, and what a test belongs to.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from lakehouse_analytics.dbt.dagster_meta import read_meta
from lakehouse_analytics.dbt.lint.findings import Finding
from lakehouse_analytics.dbt.graph import DbtTest, External, Graph
from lakehouse_analytics.common.names import check_name, key_part
from lakehouse_analytics.dbt.node_use import has_table_above, is_ephemeral, is_foreign, named_by, upstream
from lakehouse_analytics.dbt.nodes import Node

#: First part of the key of the asset that carries a project's own tests.
PROJECT = "dbt_project"


def externals_of(nodes: Mapping[str, Node]) -> dict[str, External]:
    """Other projects' models, and this project where it has tests that read no table and belong to no model."""
    found = {}
    for unique_id, node in nodes.items():
        if is_foreign(node):
            name = node.name if node.version is None else f"{node.name}_v{node.version}"
            found[unique_id] = External(unique_id, (key_part(node.package_name), key_part(name)), "model", node)
        elif node.resource_type == "test" and _belongs_to_the_project(node, nodes):
            project = project_of(node)
            package = _package(node)
            about = Node(project, "project", package, package, (package,), "dbt_project.yml")
            found[project] = External(project, (PROJECT, key_part(package)), "project", about, PROJECT)
    return found


def project_of(test: Node) -> str:
    """Unique id of the project that carries a test which reads no table."""
    return f"project.{_package(test)}"


def _package(node: Node) -> str:
    return node.unique_id.split(".")[1]


def _belongs_to_the_project(test: Node, nodes: Mapping[str, Node]) -> bool:
    return not has_table_above(test, nodes) and not any(is_ephemeral(nodes[u]) for u in upstream(test, nodes))


def above(node: Node, nodes: Mapping[str, Node], *known: Collection[str]) -> tuple[str, ...]:
    """Unique ids above a node that are among the known ones."""
    return _among(upstream(node, nodes), *known)


def _among(found: Iterable[str], *known: Collection[str]) -> tuple[str, ...]:
    return tuple(unique_id for unique_id in found if any(unique_id in ids for ids in known))


def functions_above(node: Node, nodes: Mapping[str, Node]) -> tuple[str, ...]:
    """Functions that a node calls, and those that these call."""
    return _functions(upstream(node, nodes), nodes)


def _functions(found: Iterable[str], nodes: Mapping[str, Node]) -> tuple[str, ...]:
    return tuple(unique_id for unique_id in found if nodes[unique_id].resource_type == "function")


def tests_of(graph: Graph, nodes: Mapping[str, Node]) -> Iterator[DbtTest]:
    """Every test of the manifest, attached to a table, a source or an external."""
    for node in nodes.values():
        if node.resource_type == "test":
            yield _test(node, nodes, graph)


def _test(node: Node, nodes: Mapping[str, Node], graph: Graph) -> DbtTest:
    found = upstream(node, nodes)
    parents = _among(found, graph.tables, graph.unbuilt)
    attached = node.attached_node
    named = _named(node, parents, graph)
    if named:
        # One that the test does not read is a parent all the same: the test waits until it is built.
        attached, parents = named, parents if named in parents else (*parents, named)
    elif attached not in parents:
        # A singular test belongs to the table that is built last, because only then can it be evaluated.
        attached = max(
            parents,
            key=lambda parent: (graph.ranks.get(parent, -1), graph.order.get(parent, -1), parent),
            default=project_of(node),
        )
    severity = str(node.config.severity or "error").lower()
    return DbtTest(
        node.unique_id,
        check_name(node.name),
        str(attached),
        parents,
        severity == "error",
        node,
        _functions(found, nodes),
    )


def _named(test: Node, parents: Collection[str], graph: Graph) -> str | None:
    """What `meta.dagster.ref` names: something that the test reads, or else any table."""
    ref = read_meta(test)[0].ref
    if ref is None:
        return None
    for candidates in (parents, graph.tables):
        node = named_by(ref, [graph.known(unique_id).node for unique_id in candidates], graph.project)
        if node:
            return node.unique_id
    return None


def refs_to_nothing(graph: Graph) -> Iterator[Finding]:
    """A finding for each test whose `meta.dagster.ref` names no table."""
    for test in graph.tests.values():
        ref = read_meta(test.node)[0].ref
        if ref and _named(test.node, test.parents, graph) is None:
            where = f"{test.node.original_file_path}: test {test.node.name}"
            key = "/".join(graph.known(test.attached).key)
            problem = f"meta.dagster.ref names {ref.label}, which is no model of this project: it is a check of {key}"
            yield Finding(test.unique_id, where, test.node.name, problem, noun="test")


def with_lineage(graph: Graph, nodes: Mapping[str, Node]) -> Graph:
    """The graph with what lies above its tables and exposures."""
    known = (graph.tables, graph.unbuilt)
    tables = {
        unique_id: replace(
            table, parents=above(table.node, nodes, *known), functions=functions_above(table.node, nodes)
        )
        for unique_id, table in graph.tables.items()
    }
    return replace(
        graph,
        tables=tables,
        exposure_parents={u: above(exposure, nodes, *known) for u, exposure in graph.exposures.items()},
    )
