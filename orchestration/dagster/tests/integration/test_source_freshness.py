"""`freshness` of sources says what `dbt source freshness` says of them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest
from lakehouse_analytics.checks.freshness import ARTIFACT, read
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.run_results import DbtResult
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.settings import Settings

from .conftest import EVERYTHING, Lakehouse

SOURCES = """
    sources:
      - name: raw
        schema: raw
        config:
          loaded_at_field: loaded_at
          freshness: {warn_after: {count: 12, period: hour}, error_after: {count: 2, period: day}}
        tables:
          - {name: a}
          - {name: b, config: {freshness: null}}
          - {name: fresh}
          - {name: late}
          - {name: stale}
          - {name: empty}
          - {name: gone}
          - {name: filtered, freshness: {filter: "id > 1"}}
          - {name: queried, loaded_at_query: "select max(loaded_at) - interval 1 day from {{ this }}"}
          - {name: not selectable, identifier: fresh}
      - {name: silent, schema: raw, tables: [{name: fresh}]}
    """
#: Hours since each row of a table was loaded, by id from 1.
AGES = {"a": [72], "fresh": [30, 1], "late": [30], "stale": [72], "empty": [], "filtered": [1, 30], "queried": [1]}
STATUS = {
    "a": "error",
    "fresh": "pass",
    "late": "warn",
    "stale": "error",
    "empty": "error",
    "gone": "runtime error",
    "filtered": "warn",
    "queried": "warn",
    "not_selectable": "pass",
}


@pytest.fixture
def shop(lakehouse: Lakehouse) -> Lakehouse:
    lakehouse.sql("drop table raw.a")
    for table, ages in AGES.items():
        lakehouse.sql(f"create table raw.{table} (id integer, n integer, loaded_at timestamp)")
        for number, hours in enumerate(ages, 1):
            now = "cast(now() at time zone 'UTC' as timestamp)"
            lakehouse.sql(f"insert into raw.{table} values ({number}, 10, {now} - interval {hours} hour)")
    lakehouse.files["models/sources.yml"] = SOURCES
    lakehouse.files["models/bronze/bronze.yml"] = "models: [{name: a, columns: [{name: id, data_tests: [unique]}]}]\n"
    lakehouse.write()
    return lakehouse


def of_dbt(folder: Path) -> DbtResult:
    """`dbt source freshness`, without anything of ours."""
    settings = Settings.load()
    with dbt_runner(settings, DbtProject.from_settings(settings)).session() as dbt:
        return dbt.run(["source", "freshness"], lambda *_: None, target_path=folder)


def test_every_source_is_what_dbt_says_and_gates_nothing(shop: Lakehouse, tmp_path: Path) -> None:
    folder = tmp_path / "of-dbt"
    said = {unique_id.rsplit(".", 1)[-1]: node for unique_id, node in of_dbt(folder).nodes.items()}
    assert {name.replace(" ", "_"): node.status for name, node in said.items()} == STATUS
    outcome = shop.run()
    assert outcome.success, outcome.failure
    assert outcome.built == EVERYTHING
    types = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION}
    order = [record.asset_check_evaluation for record in shop.instance.all_logs(outcome.run_id, types)]
    first = [check for check in order[: order.index(None)] if check]
    assert {f"{check.asset_key.to_user_string()}:{check.check_name}": check.passed for check in first} == {
        f"raw/{name}:freshness": status == "pass" for name, status in STATUS.items()
    }
    evaluations = {check.asset_key.path[-1]: check for check in first}
    for unique_id, entry in read(folder / ARTIFACT).items():
        newest = evaluations[unique_id.rsplit(".", 1)[-1].replace(" ", "_")].metadata.get("newest_loaded_at")
        when = datetime.fromisoformat(entry["max_loaded_at"])
        assert newest == (dg.MetadataValue.timestamp(when) if when.year > 1 else None)
    found = {
        name: (evaluation.metadata["status"].value, evaluation.severity, evaluation.blocking)
        for name, evaluation in evaluations.items()
    }
    levels = {"warn": dg.AssetCheckSeverity.WARN}
    assert found == {
        name: (status, levels.get(status, dg.AssetCheckSeverity.ERROR), False) for name, status in STATUS.items()
    }
    assert "Table with name gone does not exist" in said["gone"].message
    assert outcome.descriptions["raw/gone:freshness"].endswith(said["gone"].message)
    assert outcome.descriptions["raw/empty:freshness"].startswith(
        "the source has no rows that count; error_after is 2 day"
    )
    filtered = outcome.descriptions["raw/filtered:freshness"]
    assert filtered.startswith("the newest row is 30 h")
    assert filtered.endswith("; warn_after is 12 hours")


def test_one_check_alone_queries_one_source(shop: Lakehouse) -> None:
    shop.sql("drop table raw.late")
    key = dg.AssetCheckKey(dg.AssetKey(["raw", "fresh"]), "freshness")
    outcome = shop.run(checks=dg.AssetSelection.checks(key))
    assert outcome.success, outcome.failure
    assert outcome.checks == {"raw/fresh:freshness": True}
