"""Whether a manifest has the shape that this program reads: one clear error instead of a traceback somewhere.

Pure: no Dagster, no dbt. Every key of a manifest that `nodes` reads is listed here, with the JSON types that it may
have. Format: https://docs.getdbt.com/reference/artifacts/manifest-json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lakehouse_analytics.common.text import MAX_TEXT, brief
from lakehouse_analytics.dbt.node_use import TABLES
from lakehouse_analytics.dbt.nodes import NO_NODES, has_no_file

Types = frozenset[type]
#: The types of a key's value.
Spec = Mapping[str, Types]


class _Missing:
    """The type of what a key that is not there has."""


_MISSING = _Missing()
_NULL = type(None)
_TEXT: Types = frozenset({str})
_OBJECT: Types = frozenset({dict})
_LIST: Types = frozenset({list})
_OR_NULL: Types = frozenset({_NULL, _Missing})
_TEXT_OR_NULL, _OBJECT_OR_NULL, _LIST_OR_NULL = _TEXT | _OR_NULL, _OBJECT | _OR_NULL, _LIST | _OR_NULL
_ANYTHING: Types = frozenset({str, int, float, bool, list, dict}) | _OR_NULL
_VERSION: Types = frozenset({str, int, float}) | _OR_NULL
_WORDS = {str: "a text", dict: "an object", list: "a list", int: "a number", _NULL: "null"}

_NODE: Spec = {
    "unique_id": _TEXT,
    "resource_type": _TEXT,
    "name": _TEXT,
    "depends_on": _OBJECT_OR_NULL,
}
_RESOURCE: Spec = {
    **_NODE,
    "package_name": _TEXT,
    "fqn": _LIST,
    "original_file_path": _TEXT,
    "description": _TEXT_OR_NULL,
    "meta": _OBJECT_OR_NULL,
    "config": _OBJECT,
    "group": _TEXT_OR_NULL,
    "tags": _LIST | {_Missing},
    "patch_path": _TEXT_OR_NULL,
}
_RELATION: Spec = {"schema": _TEXT, "columns": _OBJECT | {_Missing}}
_TABLE: Spec = {
    **_RESOURCE,
    **_RELATION,
    "database": _TEXT,
    "alias": _TEXT,
    "version": _VERSION,
    "latest_version": _VERSION,
    "relation_name": _TEXT_OR_NULL,
    "language": _TEXT_OR_NULL,
    "raw_code": _TEXT_OR_NULL,
    "checksum": _OBJECT_OR_NULL,
}
#: Three for each table, or more: what they have in common with tables and is not read is not listed.
_TEST: Spec = {
    **_NODE,
    "original_file_path": _TEXT,
    "description": _TEXT_OR_NULL,
    "meta": _OBJECT_OR_NULL,
    "patch_path": _TEXT_OR_NULL,
    "config": _OBJECT,
    "group": _TEXT_OR_NULL,
    "attached_node": _TEXT_OR_NULL,
}
#: Of another project, which a plugin injects: it has no file.
_FOREIGN: Spec = {**_NODE, "package_name": _TEXT, "fqn": _LIST, "config": _OBJECT, "group": _TEXT_OR_NULL,
                  "description": _TEXT_OR_NULL, "meta": _OBJECT_OR_NULL, "version": _VERSION,
                  "latest_version": _VERSION, "original_file_path": _TEXT_OR_NULL}  # fmt: skip
_SOURCE: Spec = {
    **_RESOURCE,
    **_RELATION,
    "database": _TEXT_OR_NULL,
    "source_name": _TEXT,
    "identifier": _TEXT_OR_NULL,
    "source_meta": _OBJECT_OR_NULL,
    "freshness": _OBJECT_OR_NULL,
}
_EXPOSURE: Spec = {
    **_RESOURCE,
    "config": _OBJECT_OR_NULL,
    "type": _TEXT,
    "label": _TEXT_OR_NULL,
    "url": _TEXT_OR_NULL,
    "owner": _OBJECT_OR_NULL,
    "maturity": _TEXT_OR_NULL,
}
#: By resource type; other types are `_NODE`.
_SPECS: Mapping[str, Spec] = {
    **dict.fromkeys(TABLES, _TABLE),
    "test": _TEST,
    "function": {**_NODE, "fqn": _LIST, "original_file_path": _TEXT},
    "source": _SOURCE,
    "exposure": _EXPOSURE,
}
#: The keys of `config` that are read.
CONFIG: Spec = {
    "meta": _OBJECT_OR_NULL,
    "group": _TEXT_OR_NULL,
    "materialized": _TEXT_OR_NULL,
    "incremental_strategy": _TEXT_OR_NULL,
    "on_table_exists": _TEXT_OR_NULL,
    "event_time": _TEXT_OR_NULL,
    "contract": _OBJECT_OR_NULL,
    "post-hook": _LIST_OR_NULL,
    **dict.fromkeys(("batch_size", "begin", "full_refresh", "on_schema_change", "severity", "unique_key"), _ANYTHING),
}
_COLUMN: Spec = {
    "name": _TEXT,
    "data_type": _TEXT_OR_NULL,
    "description": _TEXT_OR_NULL,
    "tags": _LIST_OR_NULL,
}
_METADATA: Spec = {"adapter_type": _TEXT_OR_NULL, "project_name": _TEXT_OR_NULL}
_GROUP: Spec = {"name": _TEXT, "owner": _OBJECT_OR_NULL}
_HOOK: Spec = {"sql": _TEXT}
_DEPENDS_ON: Spec = {"nodes": _LIST_OR_NULL}
_FRESHNESS: Spec = {"warn_after": _OBJECT_OR_NULL, "error_after": _OBJECT_OR_NULL}
_CHECKSUM: Spec = {"checksum": _TEXT_OR_NULL}
_MACRO_META: Spec = {"lakehouse": _OBJECT_OR_NULL}
_MACRO: Spec = {"name": _TEXT, "package_name": _TEXT, "meta": _OBJECT_OR_NULL}
_SECTIONS: Spec = {
    **dict.fromkeys(("metadata", "nodes", "sources", "exposures"), _OBJECT),
    **dict.fromkeys(
        ("macros", "functions", "metrics", "semantic_models", "saved_queries", "unit_tests"), _OBJECT_OR_NULL
    ),
    "groups": _OBJECT | {_Missing},
}
#: The package and the name, at least.
_PARTS_OF_FQN = 2
#: Sections that hold what is no node.
_OTHERS: Mapping[str, Spec] = {"groups": _GROUP, "macros": _MACRO}
#: Sections without a key that is read.
_NOT_READ = NO_NODES - _OTHERS.keys()


class ShapeError(ValueError):
    """A value of another type than dbt writes: the node, the key and what was expected, as a sentence."""


def check(manifest: Any) -> None:
    """Refuse a manifest that cannot be read.

    Args:
        manifest: dbt's `manifest.json`, loaded.

    Raises:
        ShapeError: of the first value of another type than dbt writes.
    """
    if not isinstance(manifest, dict):
        raise ShapeError(f"it is {_quoted(manifest)}: expected an object")
    _keys(manifest, _SECTIONS)
    _keys(manifest["metadata"], _METADATA, "metadata.")
    for section, entries in manifest.items():
        if section in _NOT_READ or not isinstance(entries, dict):
            continue
        for unique_id, entry in entries.items():
            try:
                _entry(section, unique_id, entry)
            except ShapeError as error:
                raise ShapeError(f"{brief(unique_id, MAX_TEXT)} in `{brief(section)}`: {error}") from None


def _entry(section: str, unique_id: str, entry: Any) -> None:
    if type(entry) is not dict:
        raise ShapeError(f"it is {_quoted(entry)}: expected an object")
    if section in _OTHERS:
        _keys(entry, _OTHERS[section])
        if meta := entry.get("meta"):
            _keys(meta, _MACRO_META, "meta.")
    elif section in _SECTIONS or "resource_type" in entry:  # a section of a later dbt need not hold nodes
        _node(entry, spec_of(entry))
        if entry["unique_id"] != unique_id or "." not in unique_id:
            raise ShapeError(f"`unique_id` is {_quoted(entry['unique_id'])}: expected the key of the entry")


def spec_of(node: Mapping[str, Any]) -> Spec:
    """The keys of a node that are read, by its resource type."""
    kind = node.get("resource_type")
    spec = _SPECS.get(kind) if isinstance(kind, str) else None
    if kind == "model" and has_no_file(node):
        return _FOREIGN
    return spec or _NODE


def _node(node: Mapping[str, Any], spec: Spec) -> None:
    _keys(node, spec)
    if parents := node.get("depends_on"):
        _keys(parents, _DEPENDS_ON, "depends_on.")  # its macros are not read
        _texts(parents, "nodes", "depends_on.")
    if "tags" in spec:
        _texts(node, "tags")
    if "fqn" in spec:
        _texts(node, "fqn")
    if "fqn" in spec and len(node["fqn"]) < _PARTS_OF_FQN:
        raise ShapeError(f"`fqn` is {_quoted(node['fqn'])}: expected at least the package and the name")
    if "config" in spec and (config := node.get("config")):
        _keys(config, CONFIG, "config.")
        for hook in config.get("post-hook") or ():
            if isinstance(hook, dict):
                _keys(hook, _HOOK, "config.post-hook.")
    if "checksum" in spec:
        _keys(node.get("checksum") or {}, _CHECKSUM, "checksum.")
    if "freshness" in spec:
        _keys(node.get("freshness") or {}, _FRESHNESS, "freshness.")
    if "columns" in spec:
        for name, column in node.get("columns", {}).items():
            try:
                _column(column)
            except ShapeError as error:
                raise ShapeError(f"column {brief(name)}: {error}") from None


def _column(column: Any) -> None:
    if type(column) is not dict:
        raise ShapeError(f"it is {_quoted(column)}: expected an object")
    _keys(column, _COLUMN)
    _texts(column, "tags")


def _keys(entry: Mapping[str, Any], spec: Spec, where: str = "") -> None:
    get = entry.get
    for key, types in spec.items():
        if type(value := get(key, _MISSING)) not in types:
            raise ShapeError(_sentence(f"{where}{key}", value, types))


def _texts(entry: Mapping[str, Any], key: str, where: str = "") -> None:
    if (items := entry.get(key)) and not _TEXT.issuperset(map(type, items)):
        odd = next(item for item in items if type(item) is not str)
        raise ShapeError(f"`{where}{key}` has {_quoted(odd)}: expected texts alone")


def _sentence(path: str, value: object, types: Types) -> str:
    said = "is missing" if value is _MISSING else f"is {_quoted(value)}"
    expected = " or ".join(word for kind, word in _WORDS.items() if kind in types)
    return f"`{path}` {said}: expected {expected}"


def _quoted(value: object) -> str:
    return brief(json.dumps(value))
