"""Small dbt manifests, by hand and at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from lakehouse_analytics.contract.models import LAYERS
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.manifest import read

PROJECT = "shop"


class Manifest:
    """Builds what `graph.read` takes; every method that adds a node returns its unique id."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}
        self.sources: dict[str, Any] = {}
        self.exposures: dict[str, Any] = {}
        #: Further sections, such as `metrics`.
        self.sections: dict[str, dict[str, Any]] = {}

    def model(
        self,
        name: str,
        *parents: str,
        folder: str = "",
        lakehouse: Any = None,
        dagster: Any = None,
        kind: str = "model",
        package: str = PROJECT,
        version: int | str | None = None,
        **config: Any,
    ) -> str:
        folders = [part for part in folder.split("/") if part]
        unique_id = f"{kind}.{package}.{name}" + (f".v{version}" if version is not None else "")
        self.nodes[unique_id] = {
            "unique_id": unique_id,
            "resource_type": kind,
            "name": name,
            "package_name": package,
            "version": version,
            "fqn": [package, *folders, name, *([f"v{version}"] if version is not None else [])],
            "original_file_path": "/".join([f"{kind}s", *folders, f"{name}.sql"]),
            "patch_path": None,
            "database": "lake",
            "schema": "main",
            "alias": name,
            "relation_name": f'"lake"."main"."{name}"',
            "config": {
                "materialized": "table",
                "meta": {
                    **({"lakehouse": lakehouse} if lakehouse is not None else {}),
                    **({"dagster": dagster} if dagster is not None else {}),
                },
                **config,
            },
            "depends_on": {"nodes": list(parents)},
        }
        return unique_id

    def source(self, source: str, table: str, *, lakehouse: Any = None, whole: Any = None, dagster: Any = None) -> str:
        unique_id = f"source.{PROJECT}.{source}.{table}"
        self.sources[unique_id] = {
            "unique_id": unique_id,
            "resource_type": "source",
            "source_name": source,
            "package_name": PROJECT,
            "name": table,
            "fqn": [PROJECT, source, table],
            "original_file_path": "models/sources.yml",
            "database": "lake",
            "schema": source,
            "identifier": table,
            "source_meta": {"lakehouse": whole} if whole is not None else {},
            "config": {
                "meta": {
                    **({"lakehouse": lakehouse} if lakehouse is not None else {}),
                    **({"dagster": dagster} if dagster is not None else {}),
                }
            },
        }
        return unique_id

    def test(
        self,
        name: str,
        *parents: str,
        attached: str | None = None,
        severity: str = "ERROR",
        hashed: str = "0a1b2c",
        meta: Mapping[str, Any] | None = None,
    ) -> str:
        unique_id = f"test.{PROJECT}.{name}" + (f".{hashed}" if attached else "")
        self.nodes[unique_id] = {
            "unique_id": unique_id,
            "resource_type": "test",
            "name": name,
            "fqn": [PROJECT, name],
            "original_file_path": f"tests/{name}.sql",
            "config": {"severity": severity, "meta": dict(meta or {})},
            "depends_on": {"nodes": list(parents)},
            "attached_node": attached,
        }
        return unique_id

    def foreign(self, name: str, *parents: str, package: str = "platform", version: int | None = None) -> str:
        """A model that a plugin injected from another project, as dbt-loom does: without a file."""
        unique_id = self.model(name, *parents, package=package, version=version)
        self.nodes[unique_id] |= {"original_file_path": "", "path": ""}
        return unique_id

    def node(self, section: str, kind: str, name: str, *parents: str, **more: Any) -> str:
        """A node of any resource type in any section."""
        unique_id = f"{kind}.{PROJECT}.{name}"
        nodes = self.nodes if section == "nodes" else self.sections.setdefault(section, {})
        nodes[unique_id] = {
            "unique_id": unique_id,
            "resource_type": kind,
            "name": name,
            "package_name": PROJECT,
            "fqn": [PROJECT, name],
            "path": f"{name}.yml",
            "original_file_path": f"{section}/{name}.yml",
            "config": {},
            "depends_on": {"nodes": list(parents)},
            **more,
        }
        return unique_id

    def function(self, name: str, *parents: str) -> str:
        return self.node("functions", "function", name, *parents)

    def exposure(self, name: str, *parents: str, package: str = PROJECT, **more: Any) -> str:
        unique_id = f"exposure.{package}.{name}"
        self.exposures[unique_id] = {
            "unique_id": unique_id,
            "resource_type": "exposure",
            "name": name,
            "package_name": package,
            "fqn": [package, name],
            "original_file_path": "models/exposures.yml",
            "type": "dashboard",
            "owner": {"name": "Finance"},
            "depends_on": {"nodes": list(parents)},
            **more,
        }
        return unique_id

    def build(self) -> dict[str, Any]:
        return {
            "metadata": {"adapter_type": "duckdb", "project_name": PROJECT},
            "nodes": self.nodes,
            "sources": self.sources,
            "exposures": self.exposures,
            **self.sections,
        }

    def graph(self, configuration: Mapping[str, Any] | None = None, *, strict: bool = False) -> Graph:
        return read(self.build(), configuration or {}, strict=strict)


def medallion() -> Manifest:
    """Two branches that meet in gold: raw → stg_a → dim_a ↘ fct, raw → stg_b → dim_b ↗; only_a below dim_a."""
    m = Manifest()
    raw_a, raw_b = m.source("raw", "a"), m.source("raw", "b")
    stg_a = m.model("stg_a", raw_a, folder="bronze")
    stg_b = m.model("stg_b", raw_b, folder="bronze")
    dim_a = m.model("dim_a", stg_a, folder="silver")
    dim_b = m.model("dim_b", stg_b, folder="silver")
    m.model("fct", dim_a, dim_b, folder="gold")
    m.model("only_a", dim_a, folder="gold")
    m.model("only_b", dim_b, folder="metrics")
    return m


@st.composite
def manifests(draw: st.DrawFn, *, tests: bool = False) -> Manifest:
    """Any acyclic project: layers in any order, models without one, ephemeral models, seeds, snapshots, sources."""
    m = Manifest()
    nodes = [m.source("raw", f"t{i}") for i in range(draw(st.integers(0, 2)))]
    for i in range(draw(st.integers(1, 9))):
        parents = draw(st.lists(st.sampled_from(nodes), unique=True, max_size=3)) if nodes else []
        layer = draw(st.sampled_from([*LAYERS, None]))
        kind = draw(st.sampled_from(["model", "model", "model", "snapshot", "seed"]))
        ephemeral = kind == "model" and draw(st.integers(0, 4)) == 0
        nodes.append(
            m.model(
                # Names whose order says nothing of the order of the graph.
                f"m{(i * 7) % 10}",
                *(parents if kind != "seed" else []),
                kind=kind,
                lakehouse={
                    **({"layer": layer} if layer else {}),
                    **({"rows": {"not_empty": True}} if tests and not ephemeral and draw(st.booleans()) else {}),
                },
                materialized="ephemeral" if ephemeral else "table",
            )
        )
    if tests:
        for i in range(draw(st.integers(0, 6))):
            parents = draw(st.lists(st.sampled_from(nodes), unique=True, min_size=1, max_size=3))
            m.test(
                f"test_{i}",
                *parents,
                attached=draw(st.sampled_from([None, parents[0]])),
                severity=draw(st.sampled_from(["ERROR", "error", "warn"])),
            )
    return m
