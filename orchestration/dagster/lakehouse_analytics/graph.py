"""The dbt manifest as a graph of tables and tests, and the stages in which a run builds it.

Pure: no Dagster, no dbt. Ephemeral models are inlined by dbt, so edges go through them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from lakehouse_analytics.contract import LAYERS, ContractError, ModelContract, SourceContract, deep_merge, parse
from lakehouse_analytics.names import DRIFT, ROW_COUNT, check_name, key_part

#: Group of models that no folder and no contract puts into a layer.
DEFAULT_LAYER = "default"
BUILT = frozenset({"model", "seed", "snapshot"})

Key = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A model, seed or snapshot that a run builds."""

    unique_id: str
    key: Key
    layer: str
    contract: ModelContract
    node: Mapping[str, Any] = field(repr=False, compare=False)
    parents: tuple[str, ...] = field(compare=False)  # tables and sources, through ephemeral models

    @property
    def selector(self) -> str:
        """How dbt's `--select` names it."""
        return "fqn:" + ".".join(self.node["fqn"])


@dataclass(frozen=True)
class Source:
    """A table that somebody else fills; `[source, table]`."""

    unique_id: str
    key: Key
    contract: SourceContract
    node: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Test:
    """A dbt data test and the table or source whose check it is."""

    unique_id: str
    name: str
    attached: str
    parents: tuple[str, ...]
    blocking: bool
    node: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def selector(self) -> str:
        """How dbt's `--select` names it."""
        return "fqn:" + ".".join(self.node["fqn"])


@dataclass(frozen=True)
class Graph:
    """Everything of a manifest that becomes an asset or a check."""

    tables: Mapping[str, Table]
    sources: Mapping[str, Source]
    tests: Mapping[str, Test]
    exposures: Mapping[str, Mapping[str, Any]]
    adapter: str
    project_name: str
    warnings: tuple[str, ...] = ()

    @cached_property
    def children(self) -> Mapping[str, tuple[str, ...]]:
        """Direct children of each table and source."""
        found: dict[str, list[str]] = defaultdict(list)
        for table in self.tables.values():
            for parent in table.parents:
                found[parent].append(table.unique_id)
        return {parent: tuple(children) for parent, children in found.items()}

    @cached_property
    def tests_of(self) -> Mapping[str, tuple[Test, ...]]:
        """Tests by the table or source they are attached to."""
        found: dict[str, list[Test]] = defaultdict(list)
        for test in self.tests.values():
            found[test.attached].append(test)
        return {unique_id: tuple(tests) for unique_id, tests in found.items()}

    @cached_property
    def by_key(self) -> Mapping[Key, Table]:
        """Tables by asset key."""
        return {table.key: table for table in self.tables.values()}

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Every table's place in a topological order; Dagster takes results in such an order only."""
        return {unique_id: place for place, unique_id in enumerate(_topological(self.tables))}

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """The stage each table belongs to.

        A table's rank is its layer's place, or later when a parent of another layer ranks as high:
        an edge between layers always crosses a stage, whatever the project's shape.
        """
        ranks: dict[str, int] = {}
        for unique_id in self.order:
            table = self.tables[unique_id]
            own = LAYERS.index(table.layer) if table.layer in LAYERS else 0
            above = (
                ranks[parent] + (self.tables[parent].layer != table.layer)
                for parent in table.parents
                if parent in self.tables
            )
            ranks[unique_id] = max([own, *above])
        return ranks

    def stages(self, selected: Collection[str]) -> list[list[Table]]:
        """The selected tables, stage by stage; one dbt invocation each."""
        staged: dict[int, list[Table]] = defaultdict(list)
        for unique_id in sorted(selected, key=self.order.__getitem__):
            staged[self.ranks[unique_id]].append(self.tables[unique_id])
        return [staged[rank] for rank in sorted(staged)]

    def descendants(self, unique_ids: Iterable[str]) -> set[str]:
        """Every table downstream of the given ones, without themselves unless reached."""
        found: set[str] = set()
        stack = [child for unique_id in unique_ids for child in self.children.get(unique_id, ())]
        while stack:
            unique_id = stack.pop()
            if unique_id not in found:
                found.add(unique_id)
                stack.extend(self.children.get(unique_id, ()))
        return found


def read(manifest: Mapping[str, Any], configuration: Mapping[str, Any]) -> Graph:
    """Turn a manifest into a graph.

    Args:
        manifest: dbt's `manifest.json`.
        configuration: `dbt_project.yml`: contracts of folders are taken from it, because dbt lets a
            model's `meta.lakehouse` replace its folder's as a whole, and a gate would be lost that way.

    Raises:
        ContractError: one line for every mistake in every `meta.lakehouse`.
    """
    problems: list[str] = []
    warnings: list[str] = []

    def checked(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ContractError as error:
            problems.append(str(error))
            return None

    nodes = manifest["nodes"]
    sources = {
        unique_id: Source(unique_id, (key_part(node["source_name"]), key_part(node["name"])), contract, node)
        for unique_id, node in manifest["sources"].items()
        if (contract := checked(partial(_source_contract, node, configuration))) is not None
    }
    tables: dict[str, Table] = {}
    for unique_id, node in nodes.items():
        if node["resource_type"] not in BUILT or node["config"].get("materialized") == "ephemeral":
            continue
        contract = checked(partial(_model_contract, node, configuration))
        if contract is None:
            continue
        layer = contract.layer or next((part for part in _folders(node) if part in LAYERS), None)
        if layer is None:
            warnings.append(
                f"{node['original_file_path']}: {node['name']} is in no layer and lands in group `{DEFAULT_LAYER}`; "
                f"set meta.lakehouse.layer on it or on its folder in dbt_project.yml ({', '.join(LAYERS)})"
            )
        for key in contract.without_effect():
            warnings.append(f"{node['original_file_path']}: meta.lakehouse.{key} has no effect in this version")
        key = (layer or DEFAULT_LAYER, _name(node))
        tables[unique_id] = Table(unique_id, key, key[0], contract, node, _parents(node, nodes))
    problems += _twice([*tables.values(), *sources.values()])
    if problems:
        raise ContractError("\n".join(problems))
    graph = Graph(
        tables=tables,
        sources=sources,
        tests={},
        exposures=manifest["exposures"],
        adapter=manifest["metadata"].get("adapter_type") or "dbt",
        project_name=manifest["metadata"].get("project_name") or "",
        warnings=tuple(warnings),
    )
    tests = [test for node in nodes.values() if node["resource_type"] == "test" and (test := _test(node, nodes, graph))]
    return replace(graph, tests={test.unique_id: test for test in _named_apart(tests)})


def exposure_parents(exposure: Mapping[str, Any], manifest_nodes: Mapping[str, Any]) -> tuple[str, ...]:
    """Tables and sources an exposure reads."""
    return _parents(exposure, manifest_nodes)


def _name(node: Mapping[str, Any]) -> str:
    version = node.get("version")
    return key_part(f"{node['name']}_v{version}" if version is not None else str(node["name"]))


def _folders(node: Mapping[str, Any]) -> list[str]:
    # `fqn` is package, folders, name and, of versioned models, the version.
    return list(node["fqn"][1 : -1 if node.get("version") is None else -2])


def _twice(owners: Iterable[Table | Source]) -> list[str]:
    by_key: dict[Key, list[str]] = defaultdict(list)
    for owner in owners:
        by_key[owner.key].append(f"{owner.unique_id} ({owner.node['original_file_path']})")
    return [
        f"asset key {'/'.join(key)} is claimed by {' and by '.join(claims)}: rename one, or put it into another layer"
        for key, claims in by_key.items()
        if len(claims) > 1
    ]


def _named_apart(tests: Iterable[Test]) -> Iterator[Test]:
    # dbt tells tests of one name apart by a hash in their unique id; Dagster by nothing.
    taken: set[tuple[str, str]] = set()
    for test in tests:
        name = test.name
        if name in (ROW_COUNT, DRIFT) or (test.attached, name) in taken:
            name = f"{name}_{check_name(test.unique_id.rsplit('.', 1)[-1])}"
        taken.add((test.attached, name))
        yield replace(test, name=name)


def _model_contract(node: Mapping[str, Any], configuration: Mapping[str, Any]) -> ModelContract:
    raw = _with_folders(node, configuration.get(f"{node['resource_type']}s"))
    resource = f"{node['resource_type']} {node['name']}"
    return parse(ModelContract, raw, resource=resource, files=_files(node))


def _source_contract(node: Mapping[str, Any], configuration: Mapping[str, Any]) -> SourceContract:
    # A source's own `meta` reaches its tables as `source_meta`; the table's wins.
    whole = (node.get("source_meta") or {}).get("lakehouse")
    own = _with_folders(node, configuration.get("sources"))
    raw = deep_merge(whole, own) if isinstance(whole, Mapping) and isinstance(own, Mapping) else own or whole
    resource = f"source {node['source_name']}.{node['name']}"
    return parse(SourceContract, raw, resource=resource, files=_files(node))


def _with_folders(node: Mapping[str, Any], folders: Any) -> Any:
    own = (node["config"].get("meta") or node.get("meta") or {}).get("lakehouse")
    if own is not None and not isinstance(own, Mapping):
        return own
    merged: dict[str, Any] = {}
    below: Any = folders
    for part in (None, *node["fqn"]):
        if part is not None:
            below = below.get(part) if isinstance(below, Mapping) else None
        if not isinstance(below, Mapping):
            break
        meta = below.get("+meta", below.get("meta"))
        if isinstance(meta, Mapping) and isinstance(meta.get("lakehouse"), Mapping):
            merged = deep_merge(merged, meta["lakehouse"])
    merged = deep_merge(merged, own or {})
    return merged or None


def _files(node: Mapping[str, Any]) -> list[str]:
    patch = (node.get("patch_path") or "").split("://")[-1]
    files = [patch, node["original_file_path"]] if patch else [node["original_file_path"]]
    return [*files, "dbt_project.yml"]


def _parents(node: Mapping[str, Any], nodes: Mapping[str, Any]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    stack = list(reversed(_depends_on(node)))
    while stack:
        unique_id = stack.pop()
        parent = nodes.get(unique_id)
        if unique_id.startswith("source.") or (
            parent and parent["resource_type"] in BUILT and parent["config"].get("materialized") != "ephemeral"
        ):
            found.setdefault(unique_id)
        elif parent and parent["resource_type"] == "model":
            stack.extend(reversed(_depends_on(parent)))
    return tuple(u for u in found if u != node["unique_id"])


def _depends_on(node: Mapping[str, Any]) -> list[str]:
    return (node.get("depends_on") or {}).get("nodes") or []  # seeds have no `nodes`


def _test(node: Mapping[str, Any], nodes: Mapping[str, Any], graph: Graph) -> Test | None:
    parents = tuple(p for p in _parents(node, nodes) if p in graph.tables or p in graph.sources)
    if not parents:
        return None
    attached = node.get("attached_node")
    if attached not in parents:
        # A singular test: the table built last, since only then can it be judged.
        attached = max(parents, key=lambda parent: (graph.ranks.get(parent, -1), graph.order.get(parent, -1), parent))
    severity = str(node["config"].get("severity") or "error").lower()
    return Test(node["unique_id"], check_name(node["name"]), attached, parents, severity == "error", node)


def _topological(tables: Mapping[str, Table]) -> list[str]:
    order: list[str] = []
    seen: set[str] = set()
    for root in sorted(tables):
        stack = [(root, False)]
        while stack:
            unique_id, done = stack.pop()
            if done:
                order.append(unique_id)
            elif unique_id not in seen:
                seen.add(unique_id)
                stack.append((unique_id, True))
                stack.extend((p, False) for p in tables[unique_id].parents if p in tables and p not in seen)
    return order
