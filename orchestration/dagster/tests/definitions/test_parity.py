"""What stock dagster-dbt says of the same manifest, ours says too."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import dagster as dg
import pytest
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, DbtProject
from dagster_dbt.asset_utils import get_asset_check_key_for_test
from lakehouse_analytics.assets.specs import LAYER_TAG
from packaging.version import Version

BUILT = ("model", "seed", "snapshot")


class Stock:
    """dagster-dbt's own translator on the same manifest, its keys mapped to ours."""

    def __init__(self, location: Any, ours: dg.Definitions) -> None:
        self.manifest: Mapping[str, Any] = location.project.manifest()
        self.translator = DagsterDbtTranslator(DagsterDbtTranslatorSettings(enable_code_references=True))
        self.project = DbtProject(
            location.project.project_dir, target_path=location.project.target_path, target=location.project.target
        )
        self.ours = {
            spec.metadata["dagster_dbt/unique_id"]: spec
            for spec in ours.resolve_all_asset_specs()
            if "dagster_dbt/unique_id" in spec.metadata
        }
        self.tables = sorted(u for u, n in self.manifest["nodes"].items() if n["resource_type"] in BUILT)
        sources = {self.spec(u).key: self.spec(u).key for u in self.manifest["sources"]}
        self.keys = {self.spec(u).key: self.ours[u].key for u in self.tables} | sources

    def spec(self, unique_id: str) -> dg.AssetSpec:
        return self.translator.get_asset_spec(self.manifest, unique_id, self.project)

    def of(self, key: dg.AssetKey) -> dg.AssetSpec:
        """Stock's spec of the asset that has this key with us."""
        nodes = [*self.tables, *self.manifest["sources"]]
        return next(spec for spec in map(self.spec, nodes) if self.keys[spec.key] == key)

    def pairs(self) -> list[tuple[dg.AssetSpec, dg.AssetSpec]]:
        """Stock's spec and ours of every model, seed and snapshot."""
        return [(self.spec(unique_id), self.ours[unique_id]) for unique_id in self.tables]


@pytest.fixture(scope="module")
def stock(local: Any, definitions: dg.Definitions) -> Stock:
    return Stock(local, definitions)


def test_every_model_seed_and_snapshot_is_an_asset_and_nothing_else_claims_to_be(stock: Stock) -> None:
    assert sorted(stock.ours) == stock.tables
    assert len(stock.keys) == len(set(stock.keys.values())) == len(stock.tables) + len(stock.manifest["sources"])


def test_lineage_is_the_same(stock: Stock) -> None:
    for theirs, ours in stock.pairs():
        assert {dep.asset_key for dep in ours.deps} == {stock.keys[dep.asset_key] for dep in theirs.deps}, ours.key


#: Ours is that of the newest dagster-dbt; 0.29.0 records none.
STORAGE_KIND = pytest.mark.skipif(Version(version("dagster-dbt")) < Version("0.29.27"), reason="an older dagster-dbt")


@pytest.mark.parametrize(
    "entry",
    [
        "dagster/table_name",
        "dagster/column_schema",
        pytest.param("dagster/storage_kind", marks=STORAGE_KIND),
        "dagster/code_references",
        "dagster-dbt/materialization_type",
        "dagster_dbt/unique_id",
    ],
)
def test_metadata_is_the_same(stock: Stock, entry: str) -> None:
    seen = [(ours.key, theirs.metadata.get(entry), ours.metadata.get(entry)) for theirs, ours in stock.pairs()]
    assert any(value for _, value, _ in seen)
    assert [(key, value) for key, value, _ in seen] == [(key, value) for key, _, value in seen]


@pytest.mark.parametrize("attribute", ["kinds", "skippable"])
def test_attributes_are_the_same(stock: Stock, attribute: str) -> None:
    for theirs, ours in stock.pairs():
        assert getattr(ours, attribute) == getattr(theirs, attribute), ours.key


def test_tags_are_the_same_but_for_the_layer(stock: Stock) -> None:
    for theirs, ours in stock.pairs():
        assert ours.tags == {**theirs.tags, LAYER_TAG: ours.group_name}, ours.key


def test_descriptions_are_the_same_up_to_the_layout_of_the_sql(stock: Stock) -> None:
    def parts(description: str | None) -> tuple[str, list[str]]:
        text, _, sql = (description or "").partition("#### Raw SQL:")
        return text.strip(), [line.strip() for line in sql.splitlines() if line.strip() and "```" not in line]

    for theirs, ours in stock.pairs():
        assert parts(ours.description) == parts(theirs.description), ours.key


def test_every_stock_check_is_a_check_of_ours(stock: Stock, definitions: dg.Definitions) -> None:
    ours = definitions.resolve_asset_graph().asset_check_keys
    tests = [u for u, n in stock.manifest["nodes"].items() if n["resource_type"] == "test"]
    theirs = [get_asset_check_key_for_test(stock.manifest, stock.translator, test, stock.project) for test in tests]
    known = [dg.AssetCheckKey(stock.keys[key.asset_key], key.name) for key in theirs if key]
    assert known
    assert set(known) <= set(ours)


def test_every_dbt_test_is_a_check_even_where_stock_gives_up(stock: Stock, definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    built = [spec for node in graph.assets_defs for spec in node.check_specs]
    tests = sorted(u for u, n in stock.manifest["nodes"].items() if n["resource_type"] == "test")
    assert sorted(s.metadata["dagster_dbt/unique_id"] for s in built if "dagster_dbt/unique_id" in s.metadata) == tests


def test_checks_know_what_else_they_read(stock: Stock, definitions: dg.Definitions) -> None:
    built = [spec for node in definitions.resolve_asset_graph().assets_defs for spec in node.check_specs]
    seen = 0
    for ours in built:
        unique_id = ours.metadata.get("dagster_dbt/unique_id")
        theirs = unique_id and stock.translator.get_asset_check_spec(
            stock.of(ours.asset_key),
            stock.manifest,
            unique_id,
            stock.project,
        )
        if theirs:
            seen += 1
            mapped = {stock.keys[dep.asset_key] for dep in theirs.additional_deps}
            assert {dep.asset_key for dep in ours.additional_deps} == mapped
    assert seen
