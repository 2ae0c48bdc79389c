"""Messages that end with YAML for `dbt_project.yml`, which also configures what a package brings.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lakehouse_analytics.common.text import MAX_TEXT, brief
from lakehouse_analytics.contract.models import LAYERS
from lakehouse_analytics.dbt.dagster_meta import DagsterMeta
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.dbt.node_use import TABLES
from lakehouse_analytics.dbt.nodes import Node
from lakehouse_analytics.common.names import counted, key_part, some

#: What the names of folders and models say of the layer: a suggestion that people review.
_HINTS = (
    ("bronze", ("raw", "stg", "staging", "base", "source", "landing")),
    ("silver", ("int", "intermediate", "prep", "transform")),
    ("gold", ("mart", "dim", "dimension", "fact", "fct", "report", "analytics", "analysis", "export", "extract")),
    ("metrics", ("metric", "kpi", "agg")),
)
_OF_KIND = {"seed": "bronze", "snapshot": "silver"}
#: Lines of YAML in a warning at most.
_MOST = 20
#: Prints all of the YAML.
COMMAND = "lakehouse layers"

Place = tuple[str, ...]


def clash(key: str, nodes: Sequence[Node], root: str) -> str:
    """Resources that claim one asset key, and how each of them gets another."""
    claims = " and by ".join(_named(node, root) for node in nodes)
    # The first keeps its key; packages come last, since the project's own resources can be renamed.
    _, *others = sorted(nodes, key=lambda node: (node.package_name != root, node.unique_id))
    snippet: dict[str, Any] = {}
    for node in others:
        source = [node.source_name] if node.resource_type == "source" else []
        own = [key_part(part) for part in (node.package_name, *source, node.name)]
        _put(snippet, [f"{node.resource_type}s", *node.fqn], {"dagster": {"asset_key": own}})
    layer = (
        "put one of them into another layer (+meta: {lakehouse: {layer: ...}}), or "
        if any(node.resource_type in TABLES for node in nodes)
        else ""
    )
    way_out = f"{layer}give one a key of its own, in dbt_project.yml:\n{as_yaml(snippet)}"
    return f"asset key {brief(key, MAX_TEXT)} is claimed by {claims}: {way_out}"


def unmapped_models(tables: Iterable[Table]) -> list[str]:
    """One line for all tables that are in no layer, with the YAML that maps their folders where it is short."""
    tables = [*tables]
    nodes = [table.node for table in _unmapped(tables)]
    if not nodes:
        return []
    names = some([node.name for node in nodes])
    kinds = Counter(node.resource_type for node in nodes)
    what = " and ".join(counted(number, kind) for kind, number in kinds.items())
    verb, land = ("is", "lands") if len(nodes) == 1 else ("are", "land")
    said = f"{what} {verb} in no layer and {land} in `default`: {names}. "
    layers = ", ".join(LAYERS)
    snippet = as_yaml(suggested_layers(tables))
    if snippet.count("\n") >= _MOST:
        return [
            f"{said}Map their folders to layers ({layers}) in dbt_project.yml: `{COMMAND}` prints suggested lines, and "
            f"`{COMMAND} --write` adds them."
        ]
    return [
        f"{said}Review these layers (of {layers}) and merge the lines into dbt_project.yml, as `{COMMAND} --write` "
        f"does:\n{snippet}"
    ]


def suggested_layers(tables: Iterable[Table]) -> dict[str, Any]:
    """What `dbt_project.yml` would have to say for every table to be in a layer; empty where each is in one."""
    tables = [*tables]
    unmapped = _unmapped(tables)
    inside = {table.unique_id for table in tables} - {table.unique_id for table in unmapped}
    places = _suggestions(
        [table.node for table in unmapped],
        [table.node for table in tables if table.unique_id in inside],
        _layers_by_lineage(tables),
    )
    snippet: dict[str, Any] = {}
    for path, layer in places.items():
        _put(snippet, path, {"lakehouse": {"layer": layer}})
    return snippet


def _unmapped(tables: Iterable[Table]) -> list[Table]:
    return [table for table in tables if table.layer not in LAYERS]


def _layers_by_lineage(tables: Sequence[Table]) -> dict[str, str]:
    """The layer of each table by its place in the graph: what reads no other model is bronze, what no other model reads
    is gold, and the rest silver."""
    models = {table.unique_id for table in tables if table.node.resource_type != "seed"}
    read = {parent for table in tables for parent in table.parents}
    return {
        table.unique_id: "bronze"
        if models.isdisjoint(table.parents)
        else "silver"
        if table.unique_id in read
        else "gold"
        for table in tables
    }


def unread_meta(metas: Iterable[DagsterMeta]) -> list[str]:
    """One line for all keys of `meta.dagster` that have no effect."""
    keys = Counter(key for meta in metas for key in meta.unread)
    if not keys:
        return []
    listed = some([f"{key} ({number})" for key, number in keys.most_common()], _MOST)
    return [f"meta.dagster has keys without an effect here, as in dagster-dbt's own translator: {listed}"]


def _named(node: Node, root: str) -> str:
    package = "" if node.package_name == root else f" in package {node.package_name}"
    return f"{node.unique_id} ({node.original_file_path}{package})"


def _put(snippet: dict[str, Any], path: Iterable[object], meta: Mapping[str, Any]) -> None:
    for part in path:
        snippet = snippet.setdefault(str(part), {})
    snippet["+meta"] = meta


def as_yaml(snippet: Mapping[str, Any], indent: str = "") -> str:
    """Nested keys as lines of YAML, each `+meta` on one line."""
    lines = []
    for key, value in snippet.items():
        if key == "+meta" or set(value) == {"+meta"} or not any(isinstance(below, Mapping) for below in value.values()):
            flow = yaml.safe_dump(
                {key: value}, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False
            )
            lines.append(indent + flow.strip()[1:-1])
        else:
            name = yaml.safe_dump(key, allow_unicode=True).splitlines()[0]
            lines += [f"{indent}{name}:", as_yaml(value, f"{indent}  ")]
    return "\n".join(lines)


def _suggestions(
    unmapped: Iterable[Node], mapped: Iterable[Node], by_lineage: Mapping[str, str]
) -> dict[Place, str]:
    """A layer for every unmapped node, by folder where no node inside is mapped already.

    Where the folders inside a folder suggest other layers, its layer is that of its own models.
    """
    taken = {place for node in mapped for place in _places(node)}
    inside: dict[Place, list[Node]] = {}
    hints: dict[Place, set[str | None]] = {}
    of_node = {node.unique_id: _places(node) for node in unmapped}
    for node in unmapped:
        for place in of_node[node.unique_id]:
            inside.setdefault(place, []).append(node)
            hints.setdefault(place, set()).add(_hint(node.fqn[1:-1]))
    # A package is one layer only if it has no folders: staging and marts are different layers.
    foldered = {places[0] for places in of_node.values() if len(places) > 2}  # package and name
    found: dict[Place, str] = {}
    for package, *others in of_node.values():
        folder = others[-2] if len(others) > 1 else None
        for place in others if package in foldered else [package, *others]:
            mixed = len(hints[place]) > 1
            if place != others[-1] and (place in taken or (mixed and place != folder)):
                continue
            if place not in found:
                # Folders inside a mixed one have lines of their own, which win.
                own = [node for node in inside[place] if len(of_node[node.unique_id]) == len(place)]
                found[place] = _layer(own if mixed else inside[place], by_lineage)
            break
    return found


def _layer(nodes: Sequence[Node], by_lineage: Mapping[str, str]) -> str:
    """What the folders of some nodes suggest; without such a folder, the layer of most nodes by name or lineage."""
    if suggested := _OF_KIND.get(nodes[0].resource_type) or _hint(nodes[0].fqn[1:-1]):
        return suggested
    votes = Counter(_of_prefix(node.name) or by_lineage[node.unique_id] for node in nodes)
    return max(LAYERS, key=lambda layer: votes[layer])


def _of_prefix(name: str) -> str | None:
    prefix = name.lower().partition("_")[0]
    return next((layer for layer, hints in _HINTS if prefix in hints), None)


def _places(node: Node) -> list[Place]:
    """Where `dbt_project.yml` can configure a node: package, folders and name, from the outermost on."""
    parts = node.fqn if node.version is None else node.fqn[:-1]
    return [(f"{node.resource_type}s", *parts[: length + 1]) for length in range(len(parts))]


def _hint(folders: Sequence[str]) -> str | None:
    """The layer that the innermost folder with a telling name suggests."""
    for folder in reversed(folders):
        for word in folder.lower().replace("-", "_").split("_"):
            for layer, hints in _HINTS:
                if word in hints or any(len(hint) > 3 and word.startswith(hint) for hint in hints):
                    return layer
    return None
