"""Branches that are schemas, where tables cannot be copied: what is not built there is read from production."""

from __future__ import annotations

import datetime as dt
import json

import dagster as dg
import pytest
from lakehouse_analytics.assets.schema_branch import SchemaBranch

from .conftest import Lakehouse
from .test_changed import MORE, built, command, commit_and_build

pytestmark = pytest.mark.engine("duckdb", "postgres", "trino")

LAYERS = ("bronze", "silver", "gold", "metrics")
ON_BRANCH = [f"{layer}__pr_42" for layer in LAYERS]


@pytest.fixture(autouse=True)
def _repository(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAKEHOUSE_ICEBERG_CATALOG", raising=False)  # on Trino: as with Hive or Glue
    commit_and_build(lakehouse, monkeypatch)


def schemas(lakehouse: Lakehouse) -> set[str]:
    rows = lakehouse.sql("select schema_name from information_schema.schemata")
    return {str(name) for (name,) in rows if "__" in str(name)}


def write(lakehouse: Lakehouse, **models: str) -> None:
    lakehouse.files |= {f"models/{name.replace('__', '/')}.sql": text for name, text in models.items()}
    lakehouse.write()


@pytest.mark.nightly("trino")
def test_a_change_is_built_compared_and_dropped(lakehouse: Lakehouse) -> None:
    main = lakehouse.database.contents()
    created = command("branch", "create", "pr-42")
    assert "Created the branch pr_42 without tables: what is not built on it is read from production" in created
    assert schemas(lakehouse) == {*ON_BRANCH}
    assert lakehouse.database.tables(ON_BRANCH) == []
    assert "The branch pr_42 exists already." in command("branch", "create", "pr-42", exit_code=1)

    write(lakehouse, gold__ga="select sum(n) + 1 as n from {{ ref('va') }}")
    output, tables, checks = built(lakehouse, "--branch", "PR-42")
    # The view that it reads is that of production: nothing else is built.
    assert tables == {"pr_42/gold/ga", "pr_42/metrics/m"}, output
    assert not {name for name in checks if "bronze" in name}
    assert lakehouse.database.tables(ON_BRANCH) == [("gold__pr_42", "ga"), ("metrics__pr_42", "m")]
    assert lakehouse.database.contents() == main
    [[before]], [[after]] = (lakehouse.sql(f"select n from {schema}.ga") for schema in ("gold", "gold__pr_42"))
    assert after == before + 1
    assert lakehouse.sql("select a - 1, b from metrics__pr_42.m") == lakehouse.sql("select a, b from metrics.m")

    # It is read on the branch now, although this run does not select it.
    write(lakehouse, gold__ga=MORE["models/gold/ga.sql"])
    write(lakehouse, metrics__m="select ga.n * 2 as a, 0 as b from {{ ref('ga') }} as ga")
    _, tables, _ = built(lakehouse, "--branch", "pr_42")
    assert tables == {"pr_42/metrics/m"}
    assert lakehouse.sql("select a from metrics__pr_42.m") == [(2 * after,)]
    assert lakehouse.database.contents() == main

    listed = command("branch", "list")
    assert listed.startswith("pr_42 ")
    assert listed.rstrip().endswith(" 2 tables")
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=7)
    assert f"expires {expires:%Y-%m-%d}" in listed
    difference = json.loads(command("diff", "gold/ga", "--base", "main", "--head", "branch:pr-42", "--format", "json"))
    assert (difference["added"], difference["removed"], difference["unchanged"]) == (1, 1, 0)

    refused = command("branch", "publish", "pr-42", exit_code=1)
    assert "cannot be published" in refused
    assert "Merge the change" in refused
    assert lakehouse.database.contents() == main

    assert command("branch", "drop", "pr-42") == "Dropped the branch pr_42 and 2 tables.\n"
    assert schemas(lakehouse) == set()
    assert lakehouse.database.contents() == main
    assert command("branch", "list") == "There are no branches.\n"
    assert "There is no branch pr_42." in command("branch", "drop", "pr-42", exit_code=1)

    command("branch", "create", "old")
    lakehouse.sql("update lakehouse_branches.branch_schemas set expires = '2026-01-01T00:00:00+00:00'")
    assert "Dropped the branch old, which had expired.\n" in command("branch", "create", "pr-42")
    assert schemas(lakehouse) == {*ON_BRANCH}
    command("branch", "drop", "pr-42")


@pytest.mark.engine("postgres")
def test_an_expired_branch_that_cannot_be_dropped_does_not_prevent_a_new_one(lakehouse: Lakehouse) -> None:
    command("branch", "create", "old")
    lakehouse.sql("create table gold__old.a as select 1 as n")
    lakehouse.sql("create view raw.reads_a as select * from gold__old.a")
    lakehouse.sql("update lakehouse_branches.branch_schemas set expires = '2026-01-01T00:00:00+00:00'")
    printed = command("branch", "create", "pr-42")
    assert "Not all branches that have expired were dropped: PostgreSQL would drop views" in printed
    assert "raw.reads_a" in printed
    assert "Created the branch pr_42" in printed


HISTORY = {
    "models/silver/sb.sql": (
        "{{ config(materialized='incremental', unique_key='id', incremental_strategy='merge' if target.type == 'trino' "
        "else 'delete+insert') }}"
        "select id, n + {{ var('factor') }} as n from {{ ref('b') }}"
        "{% if is_incremental() %} where id > (select max(id) from {{ this }}){% endif %}"
    ),
    "snapshots/history.sql": (
        "{% snapshot history %}{{ config(schema='silver', unique_key='id', strategy='check', check_cols=['n'], "
        "meta={'lakehouse': {'layer': 'silver'}}) }}"
        "select id, n from {{ ref('b') }} where id < 3{% endsnapshot %}"
    ),
}


@pytest.mark.engine("duckdb")
def test_tables_with_a_history_begin_again(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with dbt's `defer`, an incremental model is built in full; once it is there, it goes on there."""
    lakehouse.files |= HISTORY
    lakehouse.write()
    assert lakehouse.run().success
    lakehouse.sql("update raw.b set n = 7 where id = 1")
    assert lakehouse.run().success
    main = lakehouse.database.contents()
    command("branch", "create", "pr-42")
    monkeypatch.setenv("LAKEHOUSE_BRANCH", "pr_42")
    first = lakehouse.run(assets=["pr_42/silver/sb", "pr_42/silver/history"])
    assert first.success, first.failure
    # With production's bronze, which has the new value; production's silver was not built in full.
    assert lakehouse.sql("select n from silver__pr_42.sb where id = 1") == [(8,)]
    assert lakehouse.sql("select n from silver.sb where id = 1") == [(11,)]
    assert lakehouse.sql("select count(*) from silver.history") == [(3,)]
    assert lakehouse.sql("select count(*) from silver__pr_42.history") == [(2,)]

    lakehouse.sql("insert into raw.b select 101, 0")
    again = lakehouse.run(assets=["pr_42/bronze/b", "pr_42/silver/sb"])
    assert again.success, again.failure
    assert lakehouse.sql("select count(*) from silver__pr_42.sb") == [(101,)]
    assert lakehouse.database.contents() == main
    # The tests of a table that is not on the branch read production's.
    checked = lakehouse.run(checks=dg.AssetSelection.checks_for_assets(dg.AssetKey(["pr_42", "bronze", "a"])))
    assert checked.success, checked.failure
    assert "pr_42/bronze/a:unique_a_id" in checked.checks


@pytest.mark.engine("duckdb")
def test_a_run_whose_branch_does_not_exist_fails(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_BRANCH", "pr_42")
    outcome = lakehouse.run()
    assert not outcome.success
    assert "LAKEHOUSE_BRANCH is pr_42: There is no branch pr_42" in outcome.failure
    assert schemas(lakehouse) == set()


@pytest.mark.engine("duckdb")
def test_a_branch_that_is_dropped_during_a_run_leaves_nothing(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("branch", "create", "pr-42")
    entered = SchemaBranch.__enter__

    def drop_first(branch: SchemaBranch) -> SchemaBranch:
        entered(branch)
        command("branch", "drop", "pr-42")
        return branch

    monkeypatch.setattr(SchemaBranch, "__enter__", drop_first)
    monkeypatch.setenv("LAKEHOUSE_BRANCH", "pr_42")
    lakehouse.run(assets=["pr_42/gold/ga"])
    assert schemas(lakehouse) == set()
