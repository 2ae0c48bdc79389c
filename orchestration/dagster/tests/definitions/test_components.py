"""The components, loaded from `defs.yaml` files as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from lakehouse_analytics.components import with_components
from lakehouse_analytics.contract.arrivals import FileArrival, TableArrival
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.user_defs import UserDefsError, load_user_defs
from manifests import Manifest
from tests.own_defs import own_defs

pytestmark = pytest.mark.definitions

LANDING = """
type: lakehouse_analytics.components.FileLanding
attributes:
  source: landing.prices
  files: "s3://{{ env.BUCKET }}/dam/{date}_*.csv"
  begin: 2026-01-31
  split_by: market
"""
SYNC = """
type: lakehouse_analytics.TableSync
attributes:
  source: shop.orders
  database: shop
  mode: incremental
  update_key: updated_at
  primary_key: [id]
  lag: 10m
  deletes: soft(deleted_at)
"""
PUBLISH = """
type: lakehouse_analytics.Publish
attributes:
  model: stg_orders
  to: clickhouse
  table: reporting.orders
  key: order_date
"""


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "landing")


def graph(**contracts: object) -> Graph:
    m = Manifest()
    for source, table in (("landing", "prices"), ("shop", "orders")):
        m.model(f"stg_{table}", m.source(source, table, lakehouse=contracts.get(table)), folder="bronze")
    return m.graph()


def load(folder: Path, *files: str, of: Graph | None = None) -> Graph:
    with own_defs(folder, {f"c{number}/defs.yaml": text for number, text in enumerate(files)}):
        return with_components(of or graph(), load_user_defs().tree)


def test_a_component_has_the_meaning_of_the_contract(tmp_path: Path) -> None:
    loaded = load(tmp_path, LANDING, SYNC)
    arrivals = {source.node.name: source.contract.arrives for source in loaded.sources.values()}
    prices, orders = arrivals["prices"], arrivals["orders"]
    assert isinstance(prices, FileArrival)
    assert isinstance(orders, TableArrival)
    assert prices.files == "s3://landing/dam/{date}_*.csv"
    assert prices == FileArrival(files=prices.files, begin="2026-01-31", split_by="market")  # type: ignore[arg-type]
    assert (orders.lag.total_seconds(), orders.deleted_column, orders.primary_key) == (600, "deleted_at", ("id",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LANDING.replace("split_by", "splitby"), r"defs\.yaml(.|\n)*splitby"),
        (LANDING.replace("landing.prices", "landing.price"), "did you mean 'landing.prices'"),
        (SYNC.replace("  update_key: updated_at\n", ""), "update_key is missing"),
        (SYNC.replace("10m", "soon"), "expected a duration such as 30m"),
        (PUBLISH.replace("stg_orders", "stg_order"), "model is 'stg_order'.*did you mean 'stg_orders'"),
        (PUBLISH.replace("reporting.orders", "a.b.c"), "expected <table> or <schema>.<table>"),
    ],
)
def test_a_mistake_names_what_is_wrong(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises((ContractError, UserDefsError), match=expected):
        load(tmp_path, text)


def test_exports_are_added_to_those_of_the_contract(tmp_path: Path) -> None:
    loaded = load(tmp_path, PUBLISH, PUBLISH.replace("reporting.orders", "other"))
    [table] = [table for table in loaded.tables.values() if table.name == "stg_orders"]
    assert [(serve.to, serve.table, serve.key) for serve in table.contract.serve] == [
        ("clickhouse", "reporting.orders", ("order_date",)),
        ("clickhouse", "other", ("order_date",)),
    ]


def test_a_source_is_filled_once(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"source landing\.prices is filled already"):
        load(tmp_path, LANDING, of=graph(prices={"arrives": {"webhook": True}}))
    with pytest.raises(ContractError, match=r"source shop\.orders is filled already"):
        load(tmp_path / "twice", SYNC, SYNC)
