"""Messages that suggest YAML for `dbt_project.yml`, which can also configure the nodes of packages.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lakehouse_analytics.common.names import counted, key_part, some
from lakehouse_analytics.common.text import MAX_TEXT, brief
from lakehouse_analytics.contract.models import LAYERS
from lakehouse_analytics.dbt.dagster_meta import DagsterMeta
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.dbt.node_use import TABLES
from lakehouse_analytics.dbt.nodes import Node

#: Words in the names of folders and models that indicate a layer. Users review the resulting suggestion.
_HINTS = (
    ("bronze", ("raw", "stg", "staging", "base", "source", "landing")),
    ("silver", ("int", "intermediate", "prep", "transform")),
    ("gold", ("mart", "dim", "dimension", "fact", "fct", "report", "analytics", "analysis", "export", "extract")),
    ("metrics", ("metric", "kpi", "agg")),
)
_OF_KIND = {"seed": "bronze", "snapshot": "silver"}
#: Maximum number of lines of YAML in a warning.
_MAX_LINES = 20
#: The command that prints the YAML in full.
COMMAND = "lakehouse layers"

Place = tuple[str, ...]


def asset_key_clash(key: str, nodes: Sequence[Node], root: str) -> str:
    """Return the message about resources with the same asset key, and how to give the others another key."""
    claims = " and by ".join(_claim(node, root) for node in nodes)
    # The first resource keeps its key. The project's own come first, because they can also be renamed.
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
    hint = f"{layer}give one of them another key in dbt_project.yml:\n{as_yaml(snippet)}"
    return f"asset key {brief(key, MAX_TEXT)} is claimed by {claims}: {hint}"


def unmapped_models(tables: Iterable[Table]) -> list[str]:
    """Return one line about all tables without a layer, with the YAML that maps their folders if it is short."""
    tables = [*tables]
    nodes = [table.node for table in _unmapped(tables)]
    if not nodes:
        return []
    names = some([node.name for node in nodes])
    kinds = Counter(node.resource_type for node in nodes)
    what = " and ".join(counted(number, kind) for kind, number in kinds.items())
    verb = "has" if len(nodes) == 1 else "have"
    summary = f"{what} {verb} no layer, so `default` is used: {names}. "
    layers = ", ".join(LAYERS)
    snippet = as_yaml(suggested_layers(tables))
    if snippet.count("\n") >= _MAX_LINES:
        return [
            f"{summary}Map their folders to layers ({layers}) in dbt_project.yml: `{COMMAND}` prints suggested lines, "
            f"and `{COMMAND} --write` adds them."
        ]
    return [
        f"{summary}Review these layers (of {layers}) and merge the lines into dbt_project.yml, as `{COMMAND} --write` "
        f"does:\n{snippet}"
    ]


def suggested_layers(tables: Iterable[Table]) -> dict[str, Any]:
    """Return the keys of `dbt_project.yml` that give every table a layer. Empty if each has one."""
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
    """Return the layer of each table by its position in the graph.

    A table that reads no other model is bronze, one that no other model reads is gold, and the others are silver.
    """
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
    """Return one line about all keys of `meta.dagster` that have no effect."""
    keys = Counter(key for meta in metas for key in meta.unread)
    if not keys:
        return []
    listed = some([f"{key} ({number})" for key, number in keys.most_common()], _MAX_LINES)
    return [f"meta.dagster has keys without effect, here and in dagster-dbt's own translator: {listed}"]


def _claim(node: Node, root: str) -> str:
    package = "" if node.package_name == root else f" in package {node.package_name}"
    return f"{node.unique_id} ({node.original_file_path}{package})"


def _put(snippet: dict[str, Any], path: Iterable[object], meta: Mapping[str, Any]) -> None:
    for part in path:
        snippet = snippet.setdefault(str(part), {})
    snippet["+meta"] = meta


def as_yaml(snippet: Mapping[str, Any], indent: str = "") -> str:
    """Render nested keys as lines of YAML, each `+meta` on a single line."""
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


def _suggestions(unmapped: Iterable[Node], mapped: Iterable[Node], by_lineage: Mapping[str, str]) -> dict[Place, str]:
    """Return a layer for every unmapped node, by folder if the folder contains no mapped node.

    If the folders inside a folder suggest other layers, the layer of the folder is that of its own models.
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
                # Folders inside a mixed one have their own lines, which take precedence.
                own = [node for node in inside[place] if len(of_node[node.unique_id]) == len(place)]
                found[place] = _layer(own if mixed else inside[place], by_lineage)
            break
    return found


def _layer(nodes: Sequence[Node], by_lineage: Mapping[str, str]) -> str:
    """Return the layer that a folder suggests, or else the most frequent layer of the nodes by name or lineage."""
    if suggested := _OF_KIND.get(nodes[0].resource_type) or _hint(nodes[0].fqn[1:-1]):
        return suggested
    votes = Counter(_of_prefix(node.name) or by_lineage[node.unique_id] for node in nodes)
    return max(LAYERS, key=lambda layer: votes[layer])


def _of_prefix(name: str) -> str | None:
    prefix = name.lower().partition("_")[0]
    return next((layer for layer, hints in _HINTS if prefix in hints), None)


def _places(node: Node) -> list[Place]:
    """Return the paths at which `dbt_project.yml` can configure a node: package, folders and name, outermost first."""
    parts = node.fqn if node.version is None else node.fqn[:-1]
    return [(f"{node.resource_type}s", *parts[: length + 1]) for length in range(len(parts))]


def _hint(folders: Sequence[str]) -> str | None:
    """Return the layer that the innermost folder with a meaningful name suggests."""
    for folder in reversed(folders):
        for word in folder.lower().replace("-", "_").split("_"):
            for layer, hints in _HINTS:
                if word in hints or any(len(hint) > 3 and word.startswith(hint) for hint in hints):
                    return layer
    return None
