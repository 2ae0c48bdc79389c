"""`LAKEHOUSE_MAX_PARTITIONS_PER_RUN`: which ways to launch a backfill follow it, as docs/time.md says."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from textwrap import dedent
from typing import Any

import pytest

from tests.dagster_ui import poll

from . import shop
from .daemon import CODE, Dev, Lake, dagster_dev
from .databases import new_database

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

FIVE = ["2026-03-21", "2026-03-22", "2026-03-23", "2026-03-24", "2026-03-25"]
#: The command of docs/time.md.
MUTATION = (
    "mutation { launchPartitionBackfill(backfillParams: {partitionsByAssets: [{assetKey: {path: "
    '["silver", "days"]}, partitions: {range: {start: "2026-03-21", end: "2026-03-25"}}}]}) '
    "{ __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"
)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    root = tmp_path_factory.mktemp("partitions")
    variables = {"LAKEHOUSE_MAX_PARTITIONS_PER_RUN": "3", "LAKEHOUSE_DBT_PROFILES_DIR": str(shop.MACROS.parent)}
    lake = Lake(root, new_database("duckdb", root / "shop.duckdb"), variables)
    for name, text in shop.files("2026-03-20").items():
        path = lake.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip())
    lake.sql("create schema raw")
    lake.sql("create table raw.orders (id bigint, ordered_at timestamp(6), customer bigint, amount bigint)")
    lake.command("lakehouse", "manifest")
    lake.command("lakehouse", "init")
    with dagster_dev(lake) as running:
        yield running


def windows_of(dev: Dev, backfill: str, runs: int) -> list[tuple[str, str]]:
    """First and last partition of each of its runs, once there are so many."""
    found: list[Mapping[str, Any]] = []

    def there() -> bool:
        found[:] = dev.ask(
            "query($f: RunsFilter!) { runsOrError(filter: $f) { ... on Runs { results { tags { key value } } } } }",
            f={"tags": [{"key": "dagster/backfill", "value": backfill}]},
        )["results"]
        return len(found) >= runs

    poll(there, seconds=400, what=f"{runs} runs of backfill {backfill}", because=dev.child.tail)
    all_tags = [{tag["key"]: tag["value"] for tag in run["tags"]} for run in found]
    whole = [(tags.get("dagster/partition"), tags) for tags in all_tags]
    ends = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    return sorted((day, day) if day else (tags[ends[0]], tags[ends[1]]) for day, tags in whole)


PACKED = [("2026-03-21", "2026-03-23"), ("2026-03-24", "2026-03-25")]


def test_a_backfill_of_assets_follows_it(dev: Dev) -> None:
    url = dev.url.removesuffix("/graphql")
    said = dev.lake.command("dagster-graphql", "-r", url, "-t", MUTATION)
    answer = ast.literal_eval(said[said.index("{") :])["data"]["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", said
    assert windows_of(dev, answer["backfillId"], 2) == PACKED


def test_a_backfill_of_a_job_in_the_ui_follows_it(dev: Dev) -> None:
    params = {
        "selector": {
            "partitionSetName": "daily_backfill_partition_set",
            "repositorySelector": {"repositoryName": "__repository__", "repositoryLocationName": dev.location},
        },
        "partitionNames": FIVE,
    }
    answer = dev.ask(
        "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename "
        "... on LaunchBackfillSuccess { backfillId } ... on PythonError { message stack } } }",
        p=params,
    )
    assert windows_of(dev, answer["backfillId"], 2) == PACKED


def test_dagster_job_backfill_does_not(dev: Dev) -> None:
    """Should this fail after an upgrade of Dagster: it follows the policy now, and docs/time.md may say so."""
    dev.lake.command(
        *("dagster", "job", "backfill", "-w", str(CODE / "dagster_workspace.yaml"), "-j", "daily_backfill"),
        *("--from", FIVE[0], "--to", FIVE[-1], "--noprompt"),
    )
    question = "{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results { id } } } }"
    [newest] = dev.ask(question)["results"]
    assert windows_of(dev, str(newest["id"]), 5) == [(day, day) for day in FIVE]
