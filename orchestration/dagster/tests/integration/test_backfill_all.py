"""Backfills of a model by day and market, and of the month above, with as many partitions per run as there are."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from textwrap import dedent

import pytest

from . import prices, shop
from .daemon import Dev, Lake, dagster_dev
from .databases import new_database
from .test_backfill import WORKSPACE, launched, runs_of, watched

pytestmark = [pytest.mark.engine("duckdb"), pytest.mark.nightly]

TODAY = dt.datetime.now(dt.UTC).date()
#: The last three days of a month that has ended, so that the month has few days.
BEGIN = TODAY.replace(day=1) - dt.timedelta(days=3)
DAYS = [(BEGIN + dt.timedelta(days=n)).isoformat() for n in range((TODAY - BEGIN).days)]
ASSET = [{"path": prices.PRICES.split("/")}]


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    root = tmp_path_factory.mktemp("all")
    variables = {"LAKEHOUSE_DBT_PROFILES_DIR": str(shop.MACROS.parent)}
    lake = Lake(root, new_database("duckdb", root / "shop.duckdb"), variables)
    begin = BEGIN.isoformat()
    for name, text in {**shop.files(begin), **prices.files(begin)}.items():
        path = lake.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip())
    lake.sql("create schema raw")
    lake.sql("create table raw.orders (id bigint, ordered_at timestamp(6), customer bigint, amount bigint)")
    prices.fill(lake, DAYS)
    lake.command("lakehouse", "manifest")
    lake.command("lakehouse", "init")
    with dagster_dev(lake) as running:
        yield running


def range_of(tags: dict[str, str]) -> tuple[str, str]:
    start, end = (tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end"))
    return start, end


def test_all_days_of_all_markets_are_filled_from_the_ui(dev: Dev) -> None:
    backfill = launched(dev, assetSelection=ASSET, allPartitions=True)
    watched(dev, backfill, len(prices.MARKETS))  # Dagster makes a range of days per market
    runs = runs_of(dev, backfill)
    assert {run["status"] for run in runs} == {"SUCCESS"}
    assert sorted(range_of(run["tags"]) for run in runs) == [
        (f"{DAYS[0]}|{market}", f"{DAYS[-1]}|{market}") for market in prices.MARKETS
    ]
    everything = prices.keys(DAYS, *prices.MARKETS)
    assert prices.built(dev.lake) == {*everything}
    assert prices.rows(dev.lake) == dict.fromkeys(everything, (10, 10))


def test_a_range_of_days_of_one_market_is_one_run(dev: Dev) -> None:
    prices.correct(dev.lake, 20)
    before = prices.rows(dev.lake)
    chosen = prices.keys(DAYS[:3], "IT")
    backfill = launched(dev, assetSelection=ASSET, partitionNames=chosen)
    watched(dev, backfill, 1)
    [run] = runs_of(dev, backfill)
    assert (run["status"], range_of(run["tags"])) == ("SUCCESS", (chosen[0], chosen[-1]))
    assert prices.rows(dev.lake) == before | dict.fromkeys(chosen, (20, 20))


def test_a_backfill_of_the_job_builds_single_days_of_markets(dev: Dev) -> None:
    prices.correct(dev.lake, 30)
    before = prices.rows(dev.lake)
    chosen = [f"{DAYS[1]}|DE", f"{DAYS[2]}|IT"]
    said = dev.lake.command(
        *("dagster", "job", "backfill", "-w", WORKSPACE, "-j", "daily_market_refresh"),
        *("--partitions", ",".join(chosen), "--noprompt"),
    )
    assert "Launched backfill job" in said
    question = "{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results { id } } } }"
    [newest] = dev.ask(question)["results"]
    watched(dev, str(newest["id"]), len(chosen))
    assert prices.rows(dev.lake) == before | dict.fromkeys(chosen, (30, 30))


def test_all_months_above_are_filled_from_the_ui(dev: Dev) -> None:
    backfill = launched(dev, assetSelection=[{"path": prices.MONTHS.split("/")}], allPartitions=True)
    watched(dev, backfill, 1)
    [run] = runs_of(dev, backfill)
    assert run["status"] == "SUCCESS"
    month, table = BEGIN.replace(day=1), prices.rows(dev.lake)
    assert prices.built(dev.lake, prices.MONTHS) == {month.isoformat()}  # the current one has not ended
    assert prices.months(dev.lake) == [
        (month, market, sum(sum(table[key]) for key in prices.keys(DAYS[:3], market))) for market in prices.MARKETS
    ]
