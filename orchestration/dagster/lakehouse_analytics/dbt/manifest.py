"""Builds the graph from dbt's manifest: tables, their contracts, and the tests attached to them.

Pure: no Dagster, no dbt. dbt inlines ephemeral models, so the edges of the graph pass through them. Format:
https://docs.getdbt.com/reference/artifacts/manifest-json
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lakehouse_analytics.checks.registry import reserved_names
from lakehouse_analytics.common.names import apart, check_name, digest, group_name, key_part
from lakehouse_analytics.contract.models import (
    LAYERS,
    ContractError,
    ModelContract,
    SourceContract,
    deep_merge,
    parse,
)
from lakehouse_analytics.dbt.contract_lines import ContractLines
from lakehouse_analytics.dbt.dagster_meta import DagsterMeta, read_meta
from lakehouse_analytics.dbt.exposure_contracts import ignored_contracts, read_contract
from lakehouse_analytics.dbt.graph import Copy, DbtTest, External, Function, Graph, Key, Source, Table
from lakehouse_analytics.dbt.lineage import externals_of, tests_of, unresolved_refs, with_lineage
from lakehouse_analytics.dbt.lint import partitioning as windows
from lakehouse_analytics.dbt.lint.findings import Finding, errors, warnings
from lakehouse_analytics.dbt.lint.suggested_yaml import asset_key_clash, unmapped_models, unread_meta
from lakehouse_analytics.dbt.node_use import TABLES, constant_models, is_table, left_out_warning
from lakehouse_analytics.dbt.nodes import Exposure, Manifest, Node, manifest_of
from lakehouse_analytics.engines.registry import ENGINES

#: Layer and group of models that have no layer by their folder or contract.
DEFAULT_LAYER = "default"

#: Returns the file and line of a key of a contract; None if it is not found.
Locate = Callable[[Sequence[object]], str | None]


def read(
    manifest: Mapping[str, Any],
    configuration: Mapping[str, Any],
    *,
    project_dir: Path | None = None,
    strict: bool = False,
) -> Graph:
    """Build the graph of a manifest.

    Args:
        manifest: dbt's `manifest.json`, loaded and checked by `manifest_shape.check`.
        configuration: `dbt_project.yml`. Contracts of folders are read from it, because in dbt a model's
            `meta.lakehouse` replaces that of its folder completely, so a gate could get lost.
        project_dir: The folder of the dbt project, where errors look for the line of a mistake. None if there is none.
        strict: Whether findings are errors instead of warnings, such as models that readers on Trino can see partially
            written.

    Raises:
        ContractError: A contract or `meta.dagster` is invalid, two resources have the same asset key, or with `strict`,
            there is a finding that the model's contract does not accept. The message has one line per mistake.
    """
    typed = manifest_of(manifest)
    del manifest  # releases its memory, unless the caller keeps a reference
    return _Reader(typed, configuration, project_dir).graph(strict=strict)


class _Reader:
    """Reads one manifest, and collects all errors and findings before it reports any."""

    def __init__(self, manifest: Manifest, configuration: Mapping[str, Any], project_dir: Path | None) -> None:
        self.manifest, self.configuration = manifest, configuration
        self.nodes = manifest.nodes
        self.constants = constant_models(self.nodes)
        self.externals = externals_of(self.nodes)
        self.root, self.adapter = manifest.project_name, manifest.adapter_type
        self.lines = ContractLines(project_dir, self.root) if project_dir else None
        self.engine = ENGINES.get(self.adapter)
        self.metas: dict[str, DagsterMeta] = {}
        self.problems: list[str] = []
        self.findings: list[Finding] = []

    def graph(self, *, strict: bool) -> Graph:
        """Return the graph of the manifest.

        Raises:
            ContractError: See `read`.
        """
        sources, tables = self._sources(), self._tables()
        exposures = self.manifest.exposures
        for node in self.manifest.of_type("exposure", "test"):
            self._meta(node)
        owners: list[Table | Source | External] = [*tables.values(), *sources.values(), *self.externals.values()]
        keys = self._exposure_keys(exposures, {owner.key for owner in owners})
        self.problems += [*self._clashes(owners, keys), *_filled_twice(sources.values())]
        copies = self._exposure_copies(exposures.values())
        self.findings += ignored_contracts(exposures.values(), self.root)
        if self.engine:
            self.findings += self.engine.lint(self.manifest)
        accepted = {(table.unique_id, name) for table in tables.values() for name in table.contract.accept}
        self.findings = [one for one in self.findings if (one.unique_id, one.accept) not in accepted]
        self.problems += errors(self.findings, strict=strict)
        if self.problems:
            raise ContractError("\n".join(self.problems))
        graph = Graph(
            tables=tables,
            sources=sources,
            tests={},
            exposures=exposures,
            adapter=self.adapter,
            group_owners=self.manifest.group_owners,
            exposure_keys=keys,
            exposure_copies=copies,
            externals=self.externals,
            functions={node.unique_id: Function(node.unique_id, node) for node in self.manifest.of_type("function")},
            project=self.root,
        )
        graph = with_lineage(graph, self.nodes)
        checks = _with_unique_names([*tests_of(graph, self.nodes)], graph)
        graph = replace(graph, tests={check.unique_id: check for check in checks})
        return replace(graph, warnings=self._warnings(graph))

    def _sources(self) -> dict[str, Source]:
        sources: dict[str, Source] = {}
        for node in self.manifest.of_type("source"):
            contract = self._collect_errors(
                partial(_source_contract, node, self.configuration, partial(self._locate, node))
            )
            meta = self._meta(node)
            if contract is not None:
                key = meta.asset_key or (key_part(node.source_name), key_part(node.name))
                sources[node.unique_id] = Source(node.unique_id, key, contract, node, meta.group or "sources")
        return sources

    def _tables(self) -> dict[str, Table]:
        source_names = {node.full_name for node in self.manifest.of_type("source")}
        groups = apart({node.group for node in self.manifest.of_type(*TABLES) if node.group}, group_name)
        tables: dict[str, Table] = {}
        for unique_id, node in self.nodes.items():
            if not is_table(node) and unique_id not in self.constants:
                continue
            meta = self._meta(node)
            contract = self._collect_errors(
                partial(_model_contract, node, self.configuration, meta, partial(self._locate, node))
            )
            if contract is None:
                continue
            layer = contract.layer or next((part for part in node.folders if part in LAYERS), None)
            self.problems += [f"{node.label}: {problem}" for problem in windows.problems(node, contract, source_names)]
            layer = layer or DEFAULT_LAYER
            key = meta.asset_key or (layer, _name(node))
            group = meta.group or groups.get(node.group or "") or layer
            if unique_id in self.constants:
                self.externals[unique_id] = External(unique_id, key, "ephemeral", node, group)
                continue
            tables[unique_id] = Table(unique_id, key, layer, contract, node, (), group)
        cut = any(table.grain for table in tables.values())
        self.findings += [one for table in tables.values() for one in _findings(table, cut=cut)]
        self.problems += [
            f"{table.node.label}: {problem}"
            for table in tables.values()
            if cut
            for problem in windows.mixed_run_problems(table.node, table.contract)
        ]
        return tables

    def _exposure_copies(self, exposures: Iterable[Exposure]) -> tuple[Copy, ...]:
        """Return the copies of tables that the contracts of the project's own exposures describe."""
        found: list[Copy] = []
        for exposure in exposures:
            raw = _with_folder_contracts(exposure, self.configuration.get("exposures"))
            if raw and exposure.package_name == self.root:
                copies, problems = read_contract(exposure, raw, self.nodes, partial(self._locate, exposure))
                found += copies
                self.problems += problems
        return tuple(found)

    def _locate(self, node: Node, keys: Sequence[object]) -> str | None:
        """Return the file and line of a key of a contract; None if it is not found."""
        return self.lines.place_of(node, keys) if self.lines else None

    def _collect_errors(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ContractError as error:
            self.problems.append(str(error))
            return None

    def _meta(self, node: Node) -> DagsterMeta:
        meta, wrong = read_meta(node)
        self.metas[node.unique_id] = meta
        self.problems += [f"{node.label}: {problem}" for problem in wrong]
        return meta

    def _exposure_keys(self, exposures: Mapping[str, Exposure], taken: Collection[Key]) -> dict[str, Key]:
        """Return the asset key of each exposure.

        It is `[exposures, name]`, or `[exposures, package, name]` if another asset has the former. Nothing is built or
        gated under the key of an exposure, so it can safely change.
        """
        short = {unique_id: ("exposures", key_part(exposure.name)) for unique_id, exposure in exposures.items()}
        claims = Counter(short.values())
        keys: dict[str, Key] = {}
        for unique_id, exposure in exposures.items():
            key: Key = short[unique_id]
            if key in taken or (claims[short[unique_id]] > 1 and exposure.package_name != self.root):
                key = ("exposures", key_part(exposure.package_name), key[-1])
            keys[unique_id] = self.metas[unique_id].asset_key or key
        return keys

    def _clashes(self, owners: Iterable[Table | Source | External], exposure_keys: Mapping[str, Key]) -> list[str]:
        """Return the errors about asset keys that more than one resource claims.

        Sources with the same key in `meta.dagster.asset_key` are allowed. They are one table with several names in dbt.
        """
        claims: dict[str, list[Node]] = defaultdict(list)
        for owner in owners:
            claims["/".join(owner.key)].append(owner.node)
        for unique_id, key in exposure_keys.items():
            claims["/".join(key)].append(self.nodes[unique_id])
        return [
            asset_key_clash(key, nodes, self.root)
            for key, nodes in claims.items()
            if len(nodes) > 1
            and not all(n.resource_type == "source" and self.metas[n.unique_id].asset_key for n in nodes)
        ]

    def _warnings(self, graph: Graph) -> tuple[str, ...]:
        found = warnings([*self.findings, *unresolved_refs(graph)])
        if self.engine and self.engine.queries_outlive_client and not _query_comment_names_run(self.configuration):
            found.append(
                f"dbt_project.yml: no query-comment names the run, so queries in {self.engine.title} cannot be traced "
                "to it, or canceled if its dbt process dies: see docs/your-project.md"
            )
        unmapped = unmapped_models(graph.tables.values())
        return (*found, *unmapped, *unread_meta(self.metas.values()), *left_out_warning(self.nodes.values()))


def _filled_twice(sources: Iterable[Source]) -> Iterator[str]:
    """Yield the errors about sources that are one asset, but are filled or counted in different ways."""
    by_key: dict[Key, list[Source]] = defaultdict(list)
    for source in sources:
        if source.contract.arrives or source.contract.airbyte:
            by_key[source.key].append(source)
    for key, filled in by_key.items():
        ways = [(source.contract.arrives, source.contract.airbyte) for source in filled]
        names = " and ".join(f"{source.node.source_name}.{source.node.name}" for source in filled)
        what = f"{names} are the asset {'/'.join(key)} (meta.dagster.asset_key), but their meta.lakehouse"
        if any(way != ways[0] for way in ways) and any(arrives for arrives, _ in ways):
            yield (
                f"{what} fills it in different ways: remove one of the keys arrives and airbyte, or give one of the "
                "sources another key"
            )
        elif any(source.contract.rows != filled[0].contract.rows for source in filled):
            yield f"{what} has different rows: write the same rules for all, or give one of the sources another key"


def _name(node: Node) -> str:
    return key_part(node.name if node.version is None else f"{node.name}_v{node.version}")


def _findings(table: Table, *, cut: bool) -> Iterator[Finding]:
    node, contract = table.node, table.contract

    def finding(problem: str, accept: str | None = None) -> Finding:
        policy = accept is not None
        return Finding(node.unique_id, node.label, node.name, problem, accept, policy, node.resource_type)

    for accept, problem in windows.policies(node, contract):
        yield finding(problem, accept)
    for problem in windows.warnings(node, contract, cut=cut):
        yield finding(problem)
    for key in contract.ineffective_keys():
        yield finding(f"meta.lakehouse.{key} has no effect in this version")


def _with_unique_names(tests: Iterable[DbtTest], graph: Graph) -> list[DbtTest]:
    """Give the checks of each asset unique names, even after Dagster has replaced their dots with `_`.

    dbt distinguishes tests of the same name by a hash at the end of their unique id. The first test keeps the name, and
    the hash is appended to the names of the others.
    """
    taken: dict[Key, set[str]] = {}
    named: dict[str, DbtTest] = {}
    for test in sorted(tests, key=lambda test: (test.name != test.node.name, test.unique_id)):
        owner = graph.resource(test.attached)
        names = taken.get(owner.key) or taken.setdefault(owner.key, reserved_names(owner))
        name = test.name
        if name.replace(".", "_") in names:
            name = f"{name}_{check_name(test.unique_id.rsplit('.', 1)[-1])}"
        if name.replace(".", "_") in names:
            name = f"{test.name}_{digest(test.unique_id)}"
        names.add(name.replace(".", "_"))
        named[test.unique_id] = test if name == test.name else replace(test, name=name)
    return [named[test.unique_id] for test in tests]


def _query_comment_names_run(configuration: Mapping[str, Any]) -> bool:
    comment = str(configuration.get("query-comment", ""))
    return "query_comment(" in comment or "LAKEHOUSE_RUN_ID" in comment


def _model_contract(node: Node, configuration: Mapping[str, Any], meta: DagsterMeta, locate: Locate) -> ModelContract:
    raw = _with_folder_contracts(node, configuration.get(f"{node.resource_type}s"))
    if meta.eager and (raw is None or isinstance(raw, Mapping)):
        raw = {"automation": "eager", **(raw or {})}
    resource = f"{node.resource_type} {node.name}"
    return parse(ModelContract, raw, resource=resource, files=node.files, locate=locate)


def _source_contract(node: Node, configuration: Mapping[str, Any], locate: Locate) -> SourceContract:
    # A source's own `meta` reaches its tables as `source_meta`; the table's wins.
    whole = node.source_meta.get("lakehouse")
    own = _with_folder_contracts(node, configuration.get("sources"))
    raw = deep_merge(whole, own) if isinstance(whole, Mapping) and isinstance(own, Mapping) else own or whole
    resource = f"source {node.full_name}"
    return parse(SourceContract, raw, resource=resource, files=node.files, locate=locate)


def _with_folder_contracts(node: Node, folders: Any) -> Any:
    own = node.meta.get("lakehouse")
    if own is not None and not isinstance(own, Mapping):
        return own
    merged: dict[str, Any] = {}
    below: Any = folders
    for part in (None, *node.fqn):
        if part is not None:
            below = below.get(part) if isinstance(below, Mapping) else None
        if not isinstance(below, Mapping):
            break
        meta = below.get("+meta", below.get("meta"))
        if isinstance(meta, Mapping) and isinstance(meta.get("lakehouse"), Mapping):
            merged = deep_merge(merged, meta["lakehouse"])
    merged = deep_merge(merged, own or {})
    return merged or None
