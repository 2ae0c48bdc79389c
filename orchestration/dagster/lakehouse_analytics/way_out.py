"""Messages that end with YAML for `dbt_project.yml`, which also configures what a package brings.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lakehouse_analytics.contract import LAYERS
from lakehouse_analytics.dagster_meta import DagsterMeta
from lakehouse_analytics.graph import Table
from lakehouse_analytics.names import counted, key_part, some

#: What the names of folders say of the layer, in the order of the layers: a suggestion that people review.
_HINTS = (
    ("bronze", ("raw", "stg", "staging", "base", "source", "landing", "seed")),
    ("silver", ("int", "intermediate", "core", "prep", "transform", "snapshot")),
    ("gold", ("mart", "dim", "fact", "fct", "report", "analytic", "export", "extract")),
    ("metrics", ("metric", "kpi", "agg")),
)
#: Folders that a snippet holds at most; a longer one is not read.
_MOST = 12


def clash(key: str, nodes: Sequence[Mapping[str, Any]], root: str) -> str:
    """Resources that claim one asset key, and how each of them gets another."""
    claims = " and by ".join(_named(node, root) for node in nodes)
    # The first keeps its key; packages come last, since the project's own resources can be renamed.
    _, *others = sorted(nodes, key=lambda node: (node["package_name"] != root, node["unique_id"]))
    snippet: dict[str, Any] = {}
    for node in others:
        source = [node["source_name"]] if node["resource_type"] == "source" else []
        own = [key_part(str(part)) for part in (node["package_name"], *source, node["name"])]
        _put(snippet, [f"{node['resource_type']}s", *node["fqn"]], {"dagster": {"asset_key": own}})
    layer = (
        "put one of them into another layer (+meta: {lakehouse: {layer: ...}}), or "
        if any(node["resource_type"] in ("model", "seed", "snapshot") for node in nodes)
        else ""
    )
    way_out = f"{layer}give one a key of its own, in dbt_project.yml:\n{_yaml(snippet)}"
    return f"asset key {key} is claimed by {claims}: {way_out}"


def unmapped_models(unmapped: Sequence[Mapping[str, Any]], tables: Iterable[Table]) -> list[str]:
    """One line for all models that are in no layer, with the YAML that maps their folders."""
    if not unmapped:
        return []
    inside = {table.unique_id for table in tables} - {node["unique_id"] for node in unmapped}
    snippet: dict[str, Any] = {}
    places = _folders(unmapped, [table.node for table in tables if table.unique_id in inside])
    for kind, path in places[:_MOST]:
        _put(snippet, [f"{kind}s", *path], {"lakehouse": {"layer": _suggested(kind, path)}})
    more = f"\n# and {len(places) - _MOST} more folders" if len(places) > _MOST else ""
    names = some([str(node["name"]) for node in unmapped])
    kinds = Counter(str(node["resource_type"]) for node in unmapped)
    what = " and ".join(counted(number, kind) for kind, number in kinds.items())
    verb, land = ("is", "lands") if len(unmapped) == 1 else ("are", "land")
    return [
        f"{what} {verb} in no layer and {land} in `default`: {names}. Review the layers ({', '.join(LAYERS)}) and add "
        f"this to dbt_project.yml:\n{_yaml(snippet)}{more}"
    ]


def unread_meta(metas: Iterable[DagsterMeta]) -> list[str]:
    """One line for all keys of `meta.dagster` that have no effect."""
    keys = Counter(key for meta in metas for key in meta.unread)
    if not keys:
        return []
    listed = ", ".join(f"{key} ({number})" for key, number in keys.most_common())
    return [f"meta.dagster has keys without an effect here, as in dagster-dbt's own translator: {listed}"]


def _named(node: Mapping[str, Any], root: str) -> str:
    package = "" if node["package_name"] == root else f" in package {node['package_name']}"
    return f"{node['unique_id']} ({node['original_file_path']}{package})"


def _put(snippet: dict[str, Any], path: Iterable[object], meta: Mapping[str, Any]) -> None:
    for part in path:
        snippet = snippet.setdefault(str(part), {})
    snippet["+meta"] = meta


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False)).rstrip()


def _folders(
    unmapped: Sequence[Mapping[str, Any]], mapped: Sequence[Mapping[str, Any]]
) -> list[tuple[str, tuple[str, ...]]]:
    """The fewest folders, below a package's own, that hold every unmapped node and none of the others."""
    taken = {place for node in mapped for place in _places(node)}
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for node in unmapped:
        places = _places(node)
        free = [place for place in places if place not in taken] or places[-1:]
        # A whole package is one place only where it has no folders: staging and marts are different layers.
        outer = free[0] if len(free[0][1]) > 1 or len(places) <= 2 else free[1]
        found.setdefault(outer)
    return [*found]


def _places(node: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """A node's package, folders and name, from the outermost on."""
    parts = [str(part) for part in node["fqn"]]
    parts = parts if node.get("version") is None else parts[:-1]
    return [(str(node["resource_type"]), tuple(parts[: length + 1])) for length in range(len(parts))]


def _suggested(kind: str, path: Sequence[str]) -> str:
    if kind == "seed":
        return "bronze"
    if kind == "snapshot":
        return "silver"
    words = [word for part in path[1:] for word in part.lower().replace("-", "_").split("_") if word]
    for word in words:
        for layer, hints in _HINTS:
            if any(word == hint or (len(hint) > 3 and word.startswith(hint)) for hint in hints):
                return layer
    return "bronze"
