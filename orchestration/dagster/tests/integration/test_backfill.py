"""Backfills as users launch them, on the real daemon: from the UI's API, `dagster job backfill` and `dg launch`."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from textwrap import dedent
from typing import Any

import pytest

from tests.dagster_ui import poll

from . import prices, shop
from .daemon import CODE, Dev, Lake, dagster_dev
from .databases import new_database

BEGIN = "2026-03-20"
FIVE = ["2026-03-21", "2026-03-22", "2026-03-23", "2026-03-24", "2026-03-25"]
NEXT_FIVE = ["2026-03-26", "2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30"]
MARCH = [f"2026-03-{day}" for day in range(20, 32)]
MODULE = ("--module-name", "lakehouse_analytics.definitions")
WORKSPACE = str(CODE / "dagster_workspace.yaml")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Dev]:
    root = tmp_path_factory.mktemp("backfill")
    variables = {"LAKEHOUSE_MAX_PARTITIONS_PER_RUN": "1", "LAKEHOUSE_DBT_PROFILES_DIR": str(shop.MACROS.parent)}
    lake = Lake(root, new_database(engine, root / "shop.duckdb"), variables)
    for name, text in {**shop.files(BEGIN), **prices.files(BEGIN)}.items():
        path = lake.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip())
    lake.sql("create schema raw")
    lake.sql("create table raw.orders (id bigint, ordered_at timestamp(6), customer bigint, amount bigint)")
    rows = [(day * 10 + n, f"2026-03-{day} {n:02}:00:00") for day in range(20, 32) for n in range(4)]
    lake.sql("insert into raw.orders values " + ", ".join(f"({n}, timestamp '{at}', {n}, 5)" for n, at in rows))
    prices.fill(lake, MARCH)
    lake.command("lakehouse", "manifest")
    lake.command("lakehouse", "init")
    with dagster_dev(lake) as running:
        yield running


def unbounded(dev: Dev) -> Lake:
    """The same lake, where one run builds all partitions of a range."""
    return Lake(dev.lake.root, dev.lake.database, {**dev.lake.variables, "LAKEHOUSE_MAX_PARTITIONS_PER_RUN": ""})


@dataclass
class Samples:
    """The states of a backfill's runs, as polled."""

    taken: list[Counter[str]] = field(default_factory=list)

    def most(self, *statuses: str) -> int:
        return max((sum(sample[status] for status in statuses) for sample in self.taken), default=0)


def runs_of(dev: Dev, backfill: str) -> list[Mapping[str, Any]]:
    runs = dev.ask(
        "query($f: RunsFilter!) { runsOrError(filter: $f) { ... on Runs { results { "
        "runId status startTime tags { key value } } } } }",
        f={"tags": [{"key": "dagster/backfill", "value": backfill}]},
    )["results"]
    return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in runs]


def window_of(run: Mapping[str, Any]) -> str:
    """The one window of a run: a backfill of assets gives it as a range, one of a job as a partition."""
    tags = run["tags"]
    first, last = (tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
    assert first == last
    return str(tags.get("dagster/partition") or first)


def launched(dev: Dev, **params: Any) -> str:
    answer = dev.ask(
        "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename "
        "... on LaunchBackfillSuccess { backfillId } ... on PythonError { message stack } "
        "... on InvalidSubsetError { message } } }",
        p=params,
    )
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    return str(answer["backfillId"])


def backfill_status(dev: Dev, backfill: str) -> str:
    question = (
        "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
    )
    return str(dev.ask(question, id=backfill)["status"])


def watched(dev: Dev, backfill: str, runs: int, meanwhile: Callable[[Samples], None] = lambda _: None) -> Samples:
    """Look at the runs until all have ended."""
    samples = Samples()

    def ended() -> bool:
        found = runs_of(dev, backfill)
        samples.taken.append(Counter(run["status"] for run in found))
        meanwhile(samples)
        return len(found) == runs and all(run["status"] in ("SUCCESS", "FAILURE") for run in found)

    poll(ended, seconds=400, what=f"the end of backfill {backfill}", because=dev.child.tail)
    finished = ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED")
    poll(lambda: backfill_status(dev, backfill) in finished, seconds=90, what="its own end", because=dev.child.tail)
    return samples


def days_there(dev: Dev) -> list[str]:
    return sorted(str(day) for (day,) in dev.lake.sql("select distinct day from silver.days"))


@pytest.mark.engine("duckdb", "trino")
@pytest.mark.nightly("trino")
def test_the_ui_fills_five_days_one_run_after_the_other_while_the_rest_is_queued(dev: Dev) -> None:
    assert dev.finished(dev.launch("__ASSET_JOB", assets=["bronze/orders"])).status == "SUCCESS"
    # The table does not exist yet: the first run creates it, and no other run replaces it.
    backfill = launched(dev, assetSelection=[{"path": ["silver", "days"]}], partitionNames=FIVE)
    samples = watched(dev, backfill, 5)
    runs = runs_of(dev, backfill)
    print("run states, in samples:", Counter(tuple(sorted(s.items())) for s in samples.taken).most_common())
    assert {window_of(run) for run in runs} == {*FIVE}
    assert [run["status"] for run in runs] == ["SUCCESS"] * 5
    assert samples.most("STARTED", "STARTING") == 1
    assert samples.most("QUEUED") >= 3
    assert days_there(dev) == FIVE
    assert backfill_status(dev, backfill) == "COMPLETED_SUCCESS"


@pytest.mark.engine("duckdb")
def test_the_command_line_does_so_too_and_lets_a_scheduled_run_go_first(dev: Dev) -> None:
    day = NEXT_FIVE[0], NEXT_FIVE[-1]
    said = dev.lake.command(
        *("dagster", "job", "backfill", "-w", WORKSPACE, "-j", "daily_backfill"),
        *("--from", day[0], "--to", day[1], "--noprompt"),
    )
    assert "Launched backfill job" in said
    question = "{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results { id } } } }"
    [newest] = dev.ask(question)["results"]
    backfill = str(newest["id"])
    scheduled: list[str] = []

    def when_it_has_begun(samples: Samples) -> None:
        if not scheduled and samples.taken[-1]["STARTED"] and samples.taken[-1]["QUEUED"] >= 2:
            tags = {"dagster/priority": "1", "dagster/partition": "2026-03-31"}
            scheduled.append(dev.launch("__ASSET_JOB", assets=["silver/days"], tags=tags))

    samples = watched(dev, backfill, 5, when_it_has_begun)
    runs = runs_of(dev, backfill)
    assert {run["status"] for run in runs} == {"SUCCESS"}
    assert samples.most("STARTED", "STARTING") == 1
    urgent = dev.finished(scheduled[0])
    assert urgent.status == "SUCCESS"
    assert sum(run["startTime"] > urgent.start for run in runs) >= 2, "the scheduled run had to wait for the backfill"
    assert days_there(dev) == [*FIVE, *NEXT_FIVE, "2026-03-31"]


@pytest.mark.engine("duckdb")
def test_the_window_that_failed_is_retried_alone(dev: Dev) -> None:
    # More than the model's type can hold.
    dev.lake.sql("insert into raw.orders values (999, timestamp '2026-03-22 12:00:00', 1, 3000000000)")
    assert dev.finished(dev.launch("__ASSET_JOB", assets=["bronze/orders"])).status == "SUCCESS"
    backfill = launched(dev, assetSelection=[{"path": ["silver", "days"]}], partitionNames=FIVE[:3])
    watched(dev, backfill, 3)
    assert {window_of(run): run["status"] for run in runs_of(dev, backfill)} == {
        "2026-03-21": "SUCCESS",
        "2026-03-22": "FAILURE",
        "2026-03-23": "SUCCESS",
    }

    assert len(dev.lake.sql("select * from silver.days where day = date '2026-03-22'")) == 4

    dev.lake.sql("delete from raw.orders where id = 999")
    assert dev.finished(dev.launch("__ASSET_JOB", assets=["bronze/orders"])).status == "SUCCESS"
    answer = dev.ask(
        "mutation($p: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $p) { __typename "
        "... on LaunchBackfillSuccess { backfillId } ... on PythonError { message stack } } }",
        p={"parentRunId": backfill, "strategy": "FROM_FAILURE"},
    )
    watched(dev, answer["backfillId"], 1)
    [again] = runs_of(dev, answer["backfillId"])
    assert (window_of(again), again["status"]) == ("2026-03-22", "SUCCESS")


@pytest.mark.engine("duckdb")
def test_dg_launch_builds_a_range_in_one_run_with_an_event_a_partition(dev: Dev) -> None:
    # `dg launch` takes a range only where one run builds all of it: without LAKEHOUSE_MAX_PARTITIONS_PER_RUN.
    unbounded(dev).command(
        *("dg", "launch", *MODULE, "--assets", "key:gold/day_sums", "--partition-range", f"{FIVE[0]}...{NEXT_FIVE[-1]}")
    )
    run = dev.finished(dev.run_ids()[0])
    assert run.status == "SUCCESS"
    assert run.tags["dagster/asset_partition_range_start"] == FIVE[0]
    question = (
        "query($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode { "
        "partitionStats { numMaterialized numFailed } } } }"
    )
    stats = dev.ask(question, k={"path": ["gold", "day_sums"]})["partitionStats"]
    assert (stats["numMaterialized"], stats["numFailed"]) == (10, 0)
    days = dev.lake.sql("select day, orders from gold.day_sums order by day")
    assert days == [(dt.date.fromisoformat(day), 4) for day in [*FIVE, *NEXT_FIVE]]


@pytest.mark.engine("duckdb")
def test_the_ui_fills_one_day_of_a_market_and_a_range_of_days(dev: Dev) -> None:
    asset = [{"path": prices.PRICES.split("/")}]
    one = prices.keys(["2026-03-21"], "IT")
    watched(dev, launched(dev, assetSelection=asset, partitionNames=one), 1)
    assert prices.built(dev.lake) == {*one}
    assert prices.rows(dev.lake) == {one[0]: (10, 10)}

    # The days on both sides of the first one: the market's row of the UI, without the day that is there.
    prices.correct(dev.lake, 20)
    others = prices.keys(["2026-03-20", "2026-03-22"], "IT")
    backfill = launched(dev, assetSelection=asset, partitionNames=others)
    watched(dev, backfill, 2)
    assert {window_of(run) for run in runs_of(dev, backfill)} == {*others}
    assert prices.built(dev.lake) == {*one, *others}
    assert prices.rows(dev.lake) == {one[0]: (10, 10), **dict.fromkeys(others, (20, 20))}


@pytest.mark.engine("duckdb")
@pytest.mark.nightly
def test_dg_launch_builds_days_of_a_market_and_the_month_above(dev: Dev) -> None:
    before = prices.rows(dev.lake)
    prices.correct(dev.lake, 30)
    launch = ("dg", "launch", *MODULE, "--assets")
    dev.lake.command(*launch, f"key:{prices.PRICES}", "--partition", "2026-03-31|DE")
    assert prices.rows(dev.lake) == before | {"2026-03-31|DE": (30, 30)}
    assert prices.built(dev.lake) == prices.rows(dev.lake).keys()

    prices.correct(dev.lake, 40)
    unbounded(dev).command(*launch, f"key:{prices.PRICES}", "--partition-range", "2026-03-20|DE...2026-03-30|DE")
    germany = dict.fromkeys(prices.keys(MARCH[:-1], "DE"), (40, 40))
    assert prices.rows(dev.lake) == before | {"2026-03-31|DE": (30, 30)} | germany
    assert prices.built(dev.lake) == prices.rows(dev.lake).keys()

    # A range from one market to the other one has the days of both.
    unbounded(dev).command(*launch, f"key:{prices.PRICES}", "--partition-range", "2026-03-20|DE...2026-03-31|IT")
    assert prices.rows(dev.lake) == dict.fromkeys(prices.keys(MARCH, "DE", "IT"), (40, 40))
    dev.lake.command(*launch, f"key:{prices.MONTHS}", "--partition", "2026-03-01")
    march = dt.date(2026, 3, 1)
    assert prices.months(dev.lake) == [(march, market, 2 * 40 * len(MARCH)) for market in prices.MARKETS]
    assert prices.built(dev.lake, prices.MONTHS) == {"2026-03-01"}


@pytest.mark.engine("duckdb")
def test_the_partitioned_assets_are_listed(dev: Dev) -> None:
    module = ("-m", "lakehouse_analytics.definitions")
    said = dev.lake.command("dagster", "asset", "list", *module, "--select", "group:silver")
    assert said.splitlines()[-1] == "silver/days"


@pytest.mark.engine("duckdb")
def test_a_run_that_is_killed_gives_its_place_back(dev: Dev) -> None:
    run = dev.launch("daily_backfill", tags={"dagster/partition": FIVE[0]})
    other = dev.launch("daily_backfill", tags={"dagster/partition": FIVE[1]})
    poll(lambda: dev.status(run) == "STARTED", seconds=60, what="the start", because=dev.child.tail)
    began = time.monotonic()
    assert dev.status(other) in ("QUEUED", "NOT_STARTED")
    os.kill(worker_of(dev, run), signal.SIGKILL)
    assert dev.finished(other, seconds=400).status == "SUCCESS"
    print(f"the place of a killed run was free, and the next one done, after {time.monotonic() - began:.0f} s")


def worker_of(dev: Dev, run: str) -> int:
    """The process of a run, which it tells in its log."""
    question = (
        "query($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection(limit: 100) { events { "
        "... on MessageEvent { message } } } } } }"
    )
    messages = " ".join(e.get("message", "") for e in dev.ask(question, id=run)["eventConnection"]["events"])
    found = re.search(r"\(pid: (\d+)\)", messages)
    assert found, messages
    return int(found[1])
