"""Lineage of a manifest: what is upstream of each table, test and exposure, and what a test is attached to.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from lakehouse_analytics.common.names import check_name, key_part
from lakehouse_analytics.dbt.dagster_meta import read_meta
from lakehouse_analytics.dbt.graph import DbtTest, External, Graph
from lakehouse_analytics.dbt.lint.findings import Finding
from lakehouse_analytics.dbt.node_use import has_upstream_table, is_ephemeral, resolve_ref, upstream
from lakehouse_analytics.dbt.nodes import Node

#: First part of the key of the asset to which a project's own tests are attached.
PROJECT = "dbt_project"


def externals_of(nodes: Mapping[str, Node]) -> dict[str, External]:
    """Return the externals of a manifest by unique id.

    These are models of other projects, and the project itself if it has tests that neither read a table nor belong to a
    model.
    """
    found = {}
    for unique_id, node in nodes.items():
        if node.is_foreign:
            name = node.name if node.version is None else f"{node.name}_v{node.version}"
            found[unique_id] = External(unique_id, (key_part(node.package_name), key_part(name)), "model", node)
        elif node.resource_type == "test" and _belongs_to_the_project(node, nodes):
            project = project_of(node)
            package = _package(node)
            about = Node(project, "project", package, package, (package,), "dbt_project.yml")
            found[project] = External(project, (PROJECT, key_part(package)), "project", about, PROJECT)
    return found


def project_of(test: Node) -> str:
    """Return the unique id of the project to which a test that reads no table is attached."""
    return f"project.{_package(test)}"


def _package(node: Node) -> str:
    return node.unique_id.split(".")[1]


def _belongs_to_the_project(test: Node, nodes: Mapping[str, Node]) -> bool:
    return not has_upstream_table(test, nodes) and not any(is_ephemeral(nodes[u]) for u in upstream(test, nodes))


def known_upstream(node: Node, nodes: Mapping[str, Node], *known: Collection[str]) -> tuple[str, ...]:
    """Return the unique ids upstream of a node that are among the known ones."""
    return _among(upstream(node, nodes), *known)


def _among(found: Iterable[str], *known: Collection[str]) -> tuple[str, ...]:
    return tuple(unique_id for unique_id in found if any(unique_id in ids for ids in known))


def upstream_functions(node: Node, nodes: Mapping[str, Node]) -> tuple[str, ...]:
    """Return the functions that a node calls, and the functions that those call."""
    return _functions(upstream(node, nodes), nodes)


def _functions(found: Iterable[str], nodes: Mapping[str, Node]) -> tuple[str, ...]:
    return tuple(unique_id for unique_id in found if nodes[unique_id].resource_type == "function")


def tests_of(graph: Graph, nodes: Mapping[str, Node]) -> Iterator[DbtTest]:
    """Yield all tests of the manifest, each attached to a table, a source or an external."""
    for node in nodes.values():
        if node.resource_type == "test":
            yield _test(node, nodes, graph)


def _test(node: Node, nodes: Mapping[str, Node], graph: Graph) -> DbtTest:
    found = upstream(node, nodes)
    parents = _among(found, graph.tables, graph.unbuilt)
    attached = node.attached_node
    named = _referenced_id(node, parents, graph)
    if named:
        # Even if the test does not read it, it is a parent, so that the test waits until it is built.
        attached, parents = named, parents if named in parents else (*parents, named)
    elif attached not in parents:
        # A singular test is attached to the table that is built last, because it cannot be evaluated earlier.
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


def _referenced_id(test: Node, parents: Collection[str], graph: Graph) -> str | None:
    """Return the unique id that `meta.dagster.ref` of a test names: of its parents, or else of any table."""
    ref = read_meta(test)[0].ref
    if ref is None:
        return None
    for candidates in (parents, graph.tables):
        node = resolve_ref(ref, [graph.resource(unique_id).node for unique_id in candidates], graph.project)
        if node:
            return node.unique_id
    return None


def unresolved_refs(graph: Graph) -> Iterator[Finding]:
    """Yield a finding for each test whose `meta.dagster.ref` names no table."""
    for test in graph.tests.values():
        ref = read_meta(test.node)[0].ref
        if ref and _referenced_id(test.node, test.parents, graph) is None:
            where = f"{test.node.original_file_path}: test {test.node.name}"
            key = "/".join(graph.resource(test.attached).key)
            problem = (
                f"meta.dagster.ref names {ref.label}, which is not a model of this project, so the test is attached to "
                f"{key}"
            )
            yield Finding(test.unique_id, where, test.node.name, problem, noun="test")


def with_lineage(graph: Graph, nodes: Mapping[str, Node]) -> Graph:
    """Return the graph with the upstream nodes of its tables and exposures."""
    known = (graph.tables, graph.unbuilt)
    tables = {
        unique_id: replace(
            table, parents=known_upstream(table.node, nodes, *known), functions=upstream_functions(table.node, nodes)
        )
        for unique_id, table in graph.tables.items()
    }
    return replace(
        graph,
        tables=tables,
        exposure_parents={u: known_upstream(exposure, nodes, *known) for u, exposure in graph.exposures.items()},
    )
