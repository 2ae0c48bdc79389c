"""Verifies that a manifest has the expected structure, so that there is one clear error instead of a traceback.

Pure: no Dagster, no dbt. Every key of a manifest that `nodes` reads is listed here, with the JSON types that its value
may have. Format: https://docs.getdbt.com/reference/artifacts/manifest-json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lakehouse_analytics.common.text import MAX_TEXT, brief
from lakehouse_analytics.dbt.node_use import TABLES
from lakehouse_analytics.dbt.nodes import NO_NODES, has_no_file

Types = frozenset[type]
#: The allowed types of the values, by key.
Spec = Mapping[str, Types]


class _Missing:
    """The type of the value of a missing key."""


_MISSING = _Missing()
_NULL = type(None)
_TEXT: Types = frozenset({str})
_OBJECT: Types = frozenset({dict})
_LIST: Types = frozenset({list})
_OR_NULL: Types = frozenset({_NULL, _Missing})
_TEXT_OR_NULL, _OBJECT_OR_NULL, _LIST_OR_NULL = _TEXT | _OR_NULL, _OBJECT | _OR_NULL, _LIST | _OR_NULL
_ANYTHING: Types = frozenset({str, int, float, bool, list, dict}) | _OR_NULL
_VERSION: Types = frozenset({str, int, float}) | _OR_NULL
_WORDS = {str: "a string", dict: "an object", list: "a list", int: "a number", _NULL: "null"}

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
#: There are at least three tests per table, so the keys that they share with tables but that are not read are left out.
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
_MODEL: Spec = {**_TABLE, "path": _TEXT_OR_NULL}
#: A model of another project, injected by a plugin. It has no file.
_FOREIGN: Spec = {**_NODE, "package_name": _TEXT, "fqn": _LIST, "config": _OBJECT, "group": _TEXT_OR_NULL,
                  "description": _TEXT_OR_NULL, "meta": _OBJECT_OR_NULL, "version": _VERSION,
                  "latest_version": _VERSION, "original_file_path": _TEXT_OR_NULL, "path": _TEXT_OR_NULL}  # fmt: skip
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
#: The keys by resource type. Other types have `_NODE`.
_SPECS: Mapping[str, Spec] = {
    **dict.fromkeys(TABLES, _TABLE),
    "model": _MODEL,
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
#: Minimum length of `fqn`: the package and the name.
_PARTS_OF_FQN = 2
#: Sections whose entries are not nodes.
_OTHERS: Mapping[str, Spec] = {"groups": _GROUP, "macros": _MACRO}
#: Sections that are not read.
_NOT_READ = NO_NODES - _OTHERS.keys()


class ShapeError(ValueError):
    """A value has another type than dbt writes. The message names the node, the key and the expected type."""


def check(manifest: Any) -> None:
    """Raise an error if a manifest cannot be read.

    Args:
        manifest: dbt's `manifest.json`, loaded.

    Raises:
        ShapeError: A value has another type than dbt writes. Only the first one is reported.
    """
    if not isinstance(manifest, dict):
        raise ShapeError(f"it is {_quoted(manifest)}: expected an object")
    _check_keys(manifest, _SECTIONS)
    _check_keys(manifest["metadata"], _METADATA, "metadata.")
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
        _check_keys(entry, _OTHERS[section])
        if meta := entry.get("meta"):
            _check_keys(meta, _MACRO_META, "meta.")
    elif section in _SECTIONS or "resource_type" in entry:  # sections added by a later dbt may not contain nodes
        _node(entry, spec_of(entry))
        if entry["unique_id"] != unique_id or "." not in unique_id:
            raise ShapeError(f"`unique_id` is {_quoted(entry['unique_id'])}: expected the key of the entry")


def spec_of(node: Mapping[str, Any]) -> Spec:
    """Return the keys of a node that are read, by its resource type."""
    kind = node.get("resource_type")
    spec = _SPECS.get(kind) if isinstance(kind, str) else None
    if kind == "model" and has_no_file(node):
        return _FOREIGN
    return spec or _NODE


def _node(node: Mapping[str, Any], spec: Spec) -> None:
    _check_keys(node, spec)
    if parents := node.get("depends_on"):
        _check_keys(parents, _DEPENDS_ON, "depends_on.")  # its macros are not read
        _check_strings(parents, "nodes", "depends_on.")
    if "tags" in spec:
        _check_strings(node, "tags")
    if "fqn" in spec:
        _check_strings(node, "fqn")
    if "fqn" in spec and len(node["fqn"]) < _PARTS_OF_FQN:
        raise ShapeError(f"`fqn` is {_quoted(node['fqn'])}: expected at least the package and the name")
    if "config" in spec and (config := node.get("config")):
        _check_keys(config, CONFIG, "config.")
        for hook in config.get("post-hook") or ():
            if isinstance(hook, dict):
                _check_keys(hook, _HOOK, "config.post-hook.")
    if "checksum" in spec:
        _check_keys(node.get("checksum") or {}, _CHECKSUM, "checksum.")
    if "freshness" in spec:
        _check_keys(node.get("freshness") or {}, _FRESHNESS, "freshness.")
    if "columns" in spec:
        for name, column in node.get("columns", {}).items():
            try:
                _column(column)
            except ShapeError as error:
                raise ShapeError(f"column {brief(name)}: {error}") from None


def _column(column: Any) -> None:
    if type(column) is not dict:
        raise ShapeError(f"it is {_quoted(column)}: expected an object")
    _check_keys(column, _COLUMN)
    _check_strings(column, "tags")


def _check_keys(entry: Mapping[str, Any], spec: Spec, where: str = "") -> None:
    get = entry.get
    for key, types in spec.items():
        if type(value := get(key, _MISSING)) not in types:
            raise ShapeError(_sentence(f"{where}{key}", value, types))


def _check_strings(entry: Mapping[str, Any], key: str, where: str = "") -> None:
    if (items := entry.get(key)) and not _TEXT.issuperset(map(type, items)):
        odd = next(item for item in items if type(item) is not str)
        raise ShapeError(f"`{where}{key}` has {_quoted(odd)}: expected only strings")


def _sentence(path: str, value: object, types: Types) -> str:
    actual = "is missing" if value is _MISSING else f"is {_quoted(value)}"
    expected = " or ".join(word for kind, word in _WORDS.items() if kind in types)
    return f"`{path}` {actual}: expected {expected}"


def _quoted(value: object) -> str:
    return brief(json.dumps(value))
