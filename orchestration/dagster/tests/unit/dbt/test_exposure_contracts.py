"""Which table an exposure's `serve` copies, and mistakes in its contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.manifest import read
from manifests import Manifest

SERVE = {"to": "clickhouse", "table": "reporting.days"}
FILES = "models/exposures.yml or dbt_project.yml"


def exposure(manifest: Manifest, *parents: str, serve: Any = SERVE, name: str = "sales", **more: Any) -> str:
    return manifest.exposure(name, *parents, config={"meta": {"lakehouse": {"serve": serve}}}, **more)


def copies(manifest: Manifest) -> list[tuple[str, str]]:
    return [(copy.table, copy.serve.table) for copy in manifest.graph().exposure_copies]


def mistakes(manifest: Manifest) -> list[str]:
    with pytest.raises(ContractError) as caught:
        manifest.graph()
    return str(caught.value).splitlines()


def test_the_only_model_of_an_exposure_is_copied() -> None:
    m = Manifest()
    days = m.model("days", m.source("raw", "a"), folder="gold")
    m.model("names", folder="bronze", materialized="ephemeral")
    sales = exposure(m, "source.shop.raw.a", days, "model.shop.names")
    graph = m.graph()
    assert [(copy.table, copy.serve.to, copy.exposure) for copy in graph.copies] == [
        (days, "clickhouse", graph.exposures[sales])
    ]


@pytest.mark.parametrize("kind", ["seed", "snapshot"])
def test_a_seed_or_a_snapshot_is_copied_as_well(kind: str) -> None:
    m = Manifest()
    days = m.model("days", folder="gold")
    m.nodes[days] |= {"resource_type": kind, "config": {"materialized": kind}}
    exposure(m, days)
    assert copies(m) == [(days, "reporting.days")]


def test_of_several_models_each_copy_names_one() -> None:
    m = Manifest()
    days = m.model("days", folder="gold")
    first, second = (m.model("customers", folder="gold", version=version) for version in (1, 2))
    exposure(
        m,
        *(days, first, second),
        serve=[
            {"to": "ch", "table": "days", "model": "days"},
            {"to": "ch", "table": "customers", "model": "customers.v2"},
        ],
    )
    assert copies(m) == [(days, "days"), (second, "customers")]


def test_the_version_may_be_left_out_if_there_is_one() -> None:
    m = Manifest()
    days, second = m.model("days", folder="gold"), m.model("customers", folder="gold", version=2)
    exposure(m, days, second, serve=SERVE | {"model": "customers"})
    assert copies(m) == [(second, "reporting.days")]


def test_models_of_one_name_are_named_with_their_package() -> None:
    m = Manifest()
    own, other = m.model("days", folder="gold"), m.model("days", folder="gold", package="addon")
    exposure(m, own, other, serve=SERVE | {"model": "addon.days"})
    m.nodes[other]["config"] |= {"meta": {"dagster": {"asset_key": ["addon", "days"]}}}
    assert copies(m) == [(other, "reporting.days")]


def test_several_models_without_a_name_are_one_clear_mistake() -> None:
    m = Manifest()
    days, hours = m.model("days", folder="gold"), m.model("hours", folder="gold")
    exposure(m, days, hours)
    assert mistakes(m) == [
        f"{FILES}: exposure sales: meta.lakehouse.serve.model is missing, and the exposure depends on several models "
        "(days, hours). Add the one whose table is copied to reporting.days, such as `model: days`"
    ]


@pytest.mark.parametrize("model", [{}, {"model": "days"}])
def test_an_exposure_of_no_model_cannot_be_copied(model: dict[str, str]) -> None:
    m = Manifest()
    exposure(m, m.source("raw", "a"), serve=SERVE | model)
    assert mistakes(m) == [
        f"{FILES}: exposure sales: meta.lakehouse.serve needs the table of a model, and the exposure depends on none; "
        "add ref('<model>') to its depends_on"
    ]


@pytest.mark.parametrize(
    ("model", "hint"),
    [("dais", "did you mean `days`?"), ("x", "it depends on: customers.v1, customers.v2, days"), ("customers", "d")],
)
def test_a_model_that_the_exposure_does_not_depend_on_is_named(model: str, hint: str) -> None:
    m = Manifest()
    days = m.model("days", folder="gold")
    versions = [m.model("customers", folder="gold", version=version) for version in (1, 2)]
    m.model("other", folder="gold")
    exposure(m, days, *versions, serve=SERVE | {"model": model})
    [line] = mistakes(m)
    assert line.startswith(
        f"{FILES}: exposure sales: meta.lakehouse.serve.model is '{model}', which the exposure does not depend on; "
        f"{hint}"
    )


def test_other_keys_than_serve_are_refused() -> None:
    m = Manifest()
    revenue = m.model("daily_revenue", folder="gold")
    m.exposure("sales", revenue, config={"meta": {"lakehouse": {"serve": SERVE, "layer": "gold", "serv": 1}}})
    m.exposure("finance", meta={"lakehouse": {"owner": "team:growth"}})
    m.exposure("other", revenue, config={"meta": {"lakehouse": {}, "team": "sales"}})
    m.exposure("text", revenue, config={"meta": {"lakehouse": "gold"}})
    assert mistakes(m) == [
        f"{FILES}: exposure sales: meta.lakehouse.layer has no effect on an exposure; remove it, or move it to a model "
        "that it reads (daily_revenue)",
        f"{FILES}: exposure sales: unknown key meta.lakehouse.serv; did you mean `serve`?",
        f"{FILES}: exposure finance: meta.lakehouse.owner has no effect on an exposure; remove it, or move it to the "
        "model",
        f"{FILES}: exposure text: meta.lakehouse must be a mapping, not str",
    ]


def test_a_contract_of_an_exposure_of_a_package_is_a_warning() -> None:
    """Users cannot edit a package."""
    m = Manifest()
    for name in ("weekly", "monthly"):
        exposure(m, m.model(name, folder="gold"), name=name, package="addon")
    m.exposure("own", meta={"lakehouse": {}})
    graph = m.graph(strict=True)
    found = [line for line in graph.warnings if "exposure" in line]
    assert found == ["2 exposures (weekly, monthly): meta.lakehouse has no effect on exposures of packages"]
    assert not list(graph.copies)


def test_a_mistake_has_the_line_of_its_copy(tmp_path: Path) -> None:
    text = """\
exposures:
  - name: sales
    config:
      meta:
        lakehouse:
          rows: {min: 1}
          serve:
            - {to: ch, table: a, model: days}
            - {to: ch, table: b}
            - {to: ch, tabel: c}
  - name: finance
    config: {meta: {lakehouse: {
      serve: {to: ch, table: d}}}}
"""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/exposures.yml").write_text(text)
    (tmp_path / "dbt_project.yml").write_text("name: shop\n")

    def places(text: str) -> list[str]:
        m = Manifest()
        days, hours = m.model("days", folder="gold"), m.model("hours", folder="gold")
        for entry in yaml.safe_load(text)["exposures"]:
            m.exposure(entry["name"], days, hours, config=entry["config"])
        with pytest.raises(ContractError) as caught:
            read(m.build(), {}, project_dir=tmp_path)
        return [line.partition(": ")[0] for line in str(caught.value).splitlines()]

    missing, unknown = "models/exposures.yml:10", "models/exposures.yml:10"
    rows, several = "models/exposures.yml:6", "models/exposures.yml:13"
    assert places(text) == [rows, missing, unknown, several]
    assert places(text.replace("tabel: c", "model: days, table: c")) == [rows, "models/exposures.yml:9", several]
