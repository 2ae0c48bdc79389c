"""The YAML of docs/arrivals.md and docs/exports.md, as it is there, in dbt projects that this code location loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lakehouse_analytics.components import FileLanding
from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.contract.models import ModelContract, SourceContract, parse
from lakehouse_analytics.settings import repository_root
from lakehouse_analytics.user_defs import load_user_defs
from tests.docs_examples import block, blocks, with_serve
from tests.own_defs import own_defs

from .conftest import environment

MODEL = "{{ config(materialized='table') }} select date '2026-01-01' as order_date"
#: A dbt project of the blocks that begin so, the models that it needs, and assets that it has.
PROJECTS = {
    "arrivals": (
        [("arrivals.md", "sources:\n  - name: landing"), ("exports.md", "models:\n  - name: daily_revenue")],
        ["daily_revenue"],
        {"landing/day_ahead_prices", "shop/customers", "shop/orders", "clickhouse/reporting/daily_revenue"},
    ),
    "exports": (
        [("arrivals.md", "sources:\n  - name: shop\n    tables:"), ("exports.md", "exposures:")],
        ["daily_revenue", "dim_customer"],
        {
            "shop/customers",
            "clickhouse/reporting/daily_revenue",
            "clickhouse/reporting/customers",
            "exposures/revenue_dashboard",
        },
    ),
    "webhook": ([("arrivals.md", "sources:\n  - name: shop\n    config:")], [], {"shop/orders"}),
}


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_with_the_yaml_is_loaded(name: str, tmp_path: Path, local: Any) -> None:
    shown, models, assets = PROJECTS[name]
    files = {
        "dbt_project.yml": "name: shop\nversion: '1.0'\nprofile: lakehouse\n",
        **{f"models/gold/{model}.sql": MODEL for model in models},
        **{f"models/example_{number}.yml": block(*of, "yaml") for number, of in enumerate(shown)},
    }
    folder = tmp_path / "dbt"
    variables = {
        "LAKEHOUSE_DBT_PROJECT_DIR": str(folder),
        "LAKEHOUSE_DBT_PROFILES_DIR": str(repository_root() / "dbt"),
        "LAKEHOUSE_DUCKDB_PATH": str(tmp_path / "shop.duckdb"),
    }
    graph = type(local).written(folder, files, variables).load().resolve_asset_graph()
    assert assets <= {key.to_user_string() for key in graph.get_all_asset_keys()}


def test_every_block_is_in_a_test() -> None:
    here = [of for shown, _, _ in PROJECTS.values() for of in shown]
    others = [("arrivals.md", "lakehouse:"), ("arrivals.md", "type: "), ("exports.md", " ")]
    for page in ("arrivals.md", "exports.md"):
        starts = [start for of, start in (*here, *others) if of == page]
        assert len(blocks(page, "yaml")) == len(starts)
        assert [sum(text.startswith(start) for start in starts) for text in blocks(page, "yaml")] == [1] * len(starts)


def test_rows_of_a_source_are_valid() -> None:
    raw = yaml.safe_load(block("arrivals.md", "lakehouse:", "yaml"))["lakehouse"]
    contract = parse(SourceContract, raw, resource="source landing.prices", files=["docs/arrivals.md"])
    assert contract.rows is not None
    assert contract.rows.min == 1000


def test_serve_of_the_demo_fits_below_the_line_that_the_page_names() -> None:
    """A longer test builds it (integration/test_docs_commands.py)."""
    served = with_serve((repository_root() / "dbt/models/gold/models.yml").read_text())
    contracts = {model["name"]: model["config"]["meta"]["lakehouse"] for model in yaml.safe_load(served)["models"]}
    raw = contracts.pop("revenue_daily")
    assert not any("serve" in other for other in contracts.values())
    contract = parse(ModelContract, raw, resource="model revenue_daily", files=["docs/exports.md"])
    assert [serve.table for serve in contract.serve] == ["reporting.revenue_daily"]


def test_the_component_is_loaded(tmp_path: Path) -> None:
    with (
        own_defs(tmp_path, {"day_ahead_prices/defs.yaml": block("arrivals.md", "type: ", "yaml")}),
        environment({"LANDING_BUCKET": "landing"}),
    ):
        tree = load_user_defs().tree
        assert tree is not None
        [component] = tree.get_all_components(FileLanding)
    assert component.source == "landing.day_ahead_prices"
    assert isinstance(component.arrival, FileArrival)
    assert component.arrival.files == "s3://landing/dam/{date:%Y-%m-%d}_*.csv"
