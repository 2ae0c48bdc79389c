"""dbt's manifest → graph: which nodes are tables, what their contracts say, what their tests hold.

Pure: no Dagster, no dbt. Ephemeral models are inlined by dbt, so edges go through them.
Format: https://docs.getdbt.com/reference/artifacts/manifest-json
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from lakehouse_analytics import atomic, windows
from lakehouse_analytics.contract import (
    LAYERS,
    ContractError,
    ModelContract,
    SourceContract,
    deep_merge,
    is_owner,
    parse,
)
from lakehouse_analytics.graph import DbtTest, External, Function, Graph, Key, Source, Table, fqn_of
from lakehouse_analytics.lineage import externals_of, refs_to_nothing, tests_of, with_lineage
from lakehouse_analytics.names import DRIFT, ROW_COUNT, check_name, key_part
from lakehouse_analytics.nodes import TABLES, constants, every_node, is_table, left_out

#: Group of models that no folder and no contract puts into a layer.
DEFAULT_LAYER = "default"
#: Resource types that dbt's `--select` could mean in our commands.
_SELECTABLE = frozenset({*TABLES, "test", "function"})


def read(manifest: Mapping[str, Any], configuration: Mapping[str, Any]) -> Graph:
    """Turn a manifest into a graph.

    Args:
        manifest: dbt's `manifest.json`.
        configuration: `dbt_project.yml`: contracts of folders are taken from it, because dbt lets a
            model's `meta.lakehouse` replace its folder's as a whole, and a gate would be lost that way.

    Raises:
        ContractError: one line for every mistake in every `meta.lakehouse`, and for every model whose settings would
            show a half-written table to readers on Trino.
    """
    problems: list[str] = []
    warnings: list[str] = []

    def checked(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ContractError as error:
            problems.append(str(error))
            return None

    every = dict(every_node(manifest))
    of_constants = constants(every)
    externals = externals_of(every)
    sources = {
        unique_id: Source(unique_id, (key_part(node["source_name"]), key_part(node["name"])), contract, node)
        for unique_id, node in manifest["sources"].items()
        if (contract := checked(partial(_source_contract, node, configuration))) is not None
    }
    source_names = {f"{node['source_name']}.{node['name']}" for node in manifest["sources"].values()}
    tables: dict[str, Table] = {}
    for unique_id, node in manifest["nodes"].items():
        if not is_table(node) and unique_id not in of_constants:
            continue
        contract = checked(partial(_model_contract, node, configuration))
        if contract is None:
            continue
        layer = contract.layer or next((part for part in _folders(node) if part in LAYERS), None)
        if layer is None and unique_id not in of_constants:
            warnings.append(
                f"{node['original_file_path']}: {node['name']} is in no layer and lands in group `{DEFAULT_LAYER}`; "
                f"set meta.lakehouse.layer on it or on its folder in dbt_project.yml ({', '.join(LAYERS)})"
            )
        where = f"{' or '.join(_files(node))}: {node['resource_type']} {node['name']}"
        wrong = [owner for owner in _listed(_dagster_meta(node).get("owners")) if not is_owner(owner)]
        problems += [
            f"{where}: meta.dagster.owners has {owner!r}: expected an e-mail address or team:<name>" for owner in wrong
        ]
        problems += [f"{where}: {problem}" for problem in windows.problems(node, contract, source_names)]
        warnings += [f"{where}: {warning}" for warning in windows.warnings(node, contract)]
        for key in contract.without_effect():
            warnings.append(f"{node['original_file_path']}: meta.lakehouse.{key} has no effect in this version")
        key = (layer or DEFAULT_LAYER, _name(node))
        if unique_id in of_constants:
            externals[unique_id] = External(unique_id, key, "ephemeral", node)
        else:
            tables[unique_id] = Table(unique_id, key, key[0], contract, node, ())
    problems += _twice([*tables.values(), *sources.values(), *externals.values()])
    atomicity = atomic.lint(manifest)
    problems += atomicity.errors
    warnings += atomicity.warnings
    if manifest["metadata"].get("adapter_type") == "trino" and not _tells_the_run(configuration):
        warnings.append(
            "dbt_project.yml: no query-comment names the run, so that queries in Trino cannot be traced to it, nor "
            "ended when its dbt dies: see docs/your-project.md"
        )
    if problems:
        raise ContractError("\n".join(problems))
    graph = Graph(
        tables=tables,
        sources=sources,
        tests={},
        exposures=manifest["exposures"],
        adapter=manifest["metadata"].get("adapter_type") or "dbt",
        warnings=tuple(warnings),
        selectable=tuple(fqn_of(node) for node in every.values() if node["resource_type"] in _SELECTABLE),
        group_owners={
            group["name"]: (group.get("owner") or {}).get("email") for group in manifest.get("groups", {}).values()
        },
        externals=externals,
        functions={u: Function(u, node) for u, node in every.items() if node["resource_type"] == "function"},
        project=str(manifest["metadata"].get("project_name") or ""),
    )
    graph = with_lineage(graph, every)
    graph = replace(graph, tests={test.unique_id: test for test in _named_apart(tests_of(graph, every))})
    return replace(graph, warnings=(*warnings, *refs_to_nothing(graph), *left_out(manifest)))


def _name(node: Mapping[str, Any]) -> str:
    version = node.get("version")
    return key_part(f"{node['name']}_v{version}" if version is not None else str(node["name"]))


def _folders(node: Mapping[str, Any]) -> list[str]:
    # `fqn` is package, folders, name and, of versioned models, the version.
    return list(node["fqn"][1 : -1 if node.get("version") is None else -2])


def _twice(owners: Iterable[Table | Source | External]) -> list[str]:
    by_key: dict[Key, list[str]] = defaultdict(list)
    for owner in owners:
        by_key[owner.key].append(f"{owner.unique_id} ({owner.node['original_file_path']})")
    return [
        f"asset key {'/'.join(key)} is claimed by {' and by '.join(claims)}: rename one, or put it into another layer"
        for key, claims in by_key.items()
        if len(claims) > 1
    ]


def _named_apart(tests: Iterable[DbtTest]) -> Iterator[DbtTest]:
    # dbt tells tests of one name apart by a hash in their unique id; Dagster by nothing.
    taken: set[tuple[str, str]] = set()
    for test in tests:
        name = test.name
        if name in (ROW_COUNT, DRIFT) or (test.attached, name) in taken:
            name = f"{name}_{check_name(test.unique_id.rsplit('.', 1)[-1])}"
        taken.add((test.attached, name))
        yield replace(test, name=name)


def _tells_the_run(configuration: Mapping[str, Any]) -> bool:
    said = str(configuration.get("query-comment", ""))
    return "query_comment(" in said or "LAKEHOUSE_RUN_ID" in said


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


def _dagster_meta(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return (node["config"].get("meta") or {}).get("dagster") or {}


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value] if value is not None else []
