"""Mistakes in a contract name the line of the file."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.manifest import read
from manifests import Manifest

PROPERTIES = """\
models:
  - name: other
    config: {meta: {lakehouse: {layer: gold}}}
  - name: orders
    columns:
      - name: orders
    config:
      meta:
        lakehouse:
          layer: gold
          rows: {min: 1,
                 max_dorp: 0.1}
          serve:
            - {to: pg, table: a}
            - {to: pg, tables: b}
sources:
  - name: shop
    meta:
      lakehouse: {freshness: {within: 1x}}
    tables:
      - name: orders
        meta: {lakehouse: {arrives: {database: shop,
                                     moed: full}}}
"""
PROJECT_FILE = """\
name: shop
models:
  shop:
    gold:
      +meta:
        lakehouse:
          owner: growth
          rows:
            mni: 5
"""


def mistakes(folder: Path, manifest: Manifest, project_file: str = "name: shop\n") -> list[str]:
    (folder / "dbt_project.yml").write_text(project_file)
    with pytest.raises(ContractError) as caught:
        read(manifest.build(), yaml.safe_load(project_file), project_dir=folder)
    return [line.partition("; ")[0] for line in str(caught.value).splitlines()]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """A manifest of these properties."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/gold.yml").write_text(PROPERTIES)
    made = Manifest()
    properties: dict[str, Any] = yaml.safe_load(PROPERTIES)
    orders = made.model("orders", folder="gold", lakehouse=properties["models"][1]["config"]["meta"]["lakehouse"])
    made.nodes[orders]["patch_path"] = "shop://models/gold.yml"
    return made


def test_a_key_of_a_model_has_its_line(tmp_path: Path, manifest: Manifest) -> None:
    assert mistakes(tmp_path, manifest) == [
        "models/gold.yml:12: model orders: unknown key meta.lakehouse.rows.max_dorp",
        "models/gold.yml:15: model orders: meta.lakehouse.serve.1.table is missing",
        "models/gold.yml:15: model orders: unknown key meta.lakehouse.serve.1.tables",
    ]


def test_a_key_of_a_source_or_of_its_table_has_its_line(tmp_path: Path, manifest: Manifest) -> None:
    manifest.nodes.clear()
    source = yaml.safe_load(PROPERTIES)["sources"][0]
    table = source["tables"][0]["meta"]["lakehouse"]
    orders = manifest.source("shop", "orders", lakehouse=table, whole=source["meta"]["lakehouse"])
    manifest.sources[orders]["original_file_path"] = "models/gold.yml"
    assert mistakes(tmp_path, manifest) == [
        "models/gold.yml:23: source shop.orders: unknown key meta.lakehouse.arrives.moed",
        "models/gold.yml:19: source shop.orders: meta.lakehouse.freshness.within is '1x': expected a duration such as "
        "30m, 26h or 7d",
    ]


def test_a_key_of_a_folder_has_its_line_in_the_project_file(tmp_path: Path, manifest: Manifest) -> None:
    found = mistakes(tmp_path, manifest, PROJECT_FILE)
    assert "dbt_project.yml:9: model orders: unknown key meta.lakehouse.rows.mni" in found
    assert (
        "dbt_project.yml:7: model orders: meta.lakehouse.owner is 'growth': expected an email address or team:<name>"
        in found
    )
    assert "models/gold.yml:12: model orders: unknown key meta.lakehouse.rows.max_dorp" in found


@pytest.mark.parametrize(
    "text",
    [
        "models: [{name: other}]",
        "models: {name: orders}",
        "models: [orders, 1, {name: [orders]}]",
        "models: [{name: orders, config: {meta: &m {lakehouse: {layer: gold}}}}]",
        "models: [",
        "",
        "- a",
    ],
)
def test_without_a_line_the_files_are_named(tmp_path: Path, manifest: Manifest, text: str) -> None:
    """Such as a contract that is set in SQL."""
    (tmp_path / "models/gold.yml").write_text(textwrap.dedent(text))
    [first, *_] = mistakes(tmp_path, manifest)
    assert first.startswith("models/gold.yml or models/gold/orders.sql or dbt_project.yml: model orders: unknown key")


def test_a_package_and_a_missing_file_have_no_line(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "models/gold.yml").unlink()
    [first, *_] = mistakes(tmp_path, manifest)
    assert first.startswith("models/gold.yml or models/gold/orders.sql or dbt_project.yml: model orders")


NO_LINE = "models/gold.yml or models/gold/orders.sql or dbt_project.yml: model orders"


@pytest.mark.parametrize("code", ['{{ config(meta={"lakehouse": {"rows": {"max_dorp": 1}}}) }} select 1', None])
def test_a_model_whose_code_may_set_the_key_has_no_line(tmp_path: Path, manifest: Manifest, code: str | None) -> None:
    """The same key may be in a file as well, which the code replaces."""
    [orders] = manifest.nodes.values()
    orders["raw_code"] = code
    [first, *_] = mistakes(tmp_path, manifest, PROJECT_FILE)
    assert first.startswith(NO_LINE) == (code is not None)


def test_a_version_has_no_line(tmp_path: Path, manifest: Manifest) -> None:
    """Each version may have a `config` of its own."""
    [orders] = manifest.nodes.values()
    orders["version"] = 2
    assert all(line.startswith(NO_LINE) for line in mistakes(tmp_path, manifest))


def test_each_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest()
    for number in range(20):
        manifest.model(f"m{number}", folder="gold")
    parsed, compose = [], yaml.compose

    def counted(text: str, **options: Any) -> Any:
        parsed.append(text)
        return compose(text, **options)

    monkeypatch.setattr(yaml, "compose", counted)
    assert len(mistakes(tmp_path, manifest, PROJECT_FILE)) == 40
    assert parsed == [PROJECT_FILE]
