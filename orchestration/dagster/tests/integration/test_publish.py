"""LAKEHOUSE_PUBLISH=run: what a run has built becomes visible at its end, together or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result
from lakehouse_analytics.cli.commands import main
from lakehouse_analytics.iceberg.catalog import open_catalog

from .conftest import Lakehouse, Outcome
from .databases import Row, Trino

pytestmark = pytest.mark.engine("trino")

LAYERS = ("bronze", "silver", "gold", "metrics")


@pytest.fixture(autouse=True)
def _publish(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_PUBLISH", "run")


def schemas(lakehouse: Lakehouse) -> set[str]:
    database = lakehouse.database
    assert isinstance(database, Trino)
    return {str(schema) for (schema,) in database.ask("show schemas")} - {"information_schema", "system"}


def last_published(lakehouse: Lakehouse, table: str) -> int:
    """The time of a table's last publication, in milliseconds since 1970."""
    schema, name = table.split(".")
    with patch.dict(os.environ, lakehouse.database.environment):
        metadata = open_catalog(lakehouse.database.environment["LAKEHOUSE_ICEBERG_CATALOG"]).load_table((schema, name))
        return int(metadata.history()[-1].timestamp_ms)


def snapshots(lakehouse: Lakehouse, table: str) -> int:
    schema, name = table.split("/")
    database = lakehouse.database
    assert isinstance(database, Trino)
    return int(database.ask(f'select count(*) from "{schema}"."{name}$snapshots"')[0][0])


def test_everything_is_published_or_nothing(lakehouse: Lakehouse) -> None:
    first = lakehouse.run()
    assert first.success, first.failure
    assert lakehouse.sql("select a, b from metrics.m") == [(50600, 50600)]
    assert schemas(lakehouse) == {"raw", *LAYERS}
    catalog = lakehouse.database.environment["LAKEHOUSE_TRINO_CATALOG"]
    assert first.metadata["gold/ga"]["relation"] == f'"{catalog}"."gold"."ga"'

    before = lakehouse.database.contents(LAYERS)
    lakehouse.sql("insert into raw.a select 1, 5")  # a duplicate id: bronze/a fails its gate
    lakehouse.sql("insert into raw.b select 101, 0")
    failed = lakehouse.run()
    assert not failed.success
    assert "Nothing was published because of bronze/a." in failed.failure
    assert lakehouse.database.contents(LAYERS) == before
    assert failed.built == set()
    assert not failed.checks["bronze/a:unique_a_id"]
    assert schemas(lakehouse) == {"raw", *LAYERS}

    lakehouse.sql("delete from raw.a where n = 5")
    again = lakehouse.run()
    assert again.success, again.failure
    assert lakehouse.sql("select a, b from metrics.m") == [(50600, 50601)]
    assert snapshots(lakehouse, "metrics/m") == 2  # history continues
    # A query as of any time finds all tables before the publication, or all after it.
    [published] = {last_published(lakehouse, table) for table in ("silver.sb", "gold.gb", "metrics.m")}
    for when, expected in ((published - 1, (100, 50600)), (published, (101, 50601))):
        as_of = f"for timestamp as of from_unixtime_nanos({when}000000)"
        query = f"select (select count(*) from silver.sb {as_of}), (select n from gold.gb {as_of})"
        assert lakehouse.database.ask(query) == [expected]  # type: ignore[attr-defined]
    assert again.built == {"bronze/a", "bronze/b", "silver/sa", "silver/sb", "gold/ga", "gold/gb", "metrics/m"}


def test_what_is_not_connected_with_a_failure_is_published(lakehouse: Lakehouse) -> None:
    assert lakehouse.run().success
    lakehouse.sql("insert into raw.a select 1, 5")
    lakehouse.sql("insert into raw.b select 101, 0")
    failed = lakehouse.run(assets=["bronze/a", "silver/sa", "bronze/b", "silver/sb"])
    assert "Published 2 tables; 2 were not published because of bronze/a." in failed.failure
    assert failed.built == {"bronze/b", "silver/sb"}
    assert lakehouse.sql("select count(*) from silver.sb") == [(101,)]
    assert lakehouse.sql("select count(*) from silver.sa") == [(100,)]


def test_incremental_models_snapshots_seeds_and_views(lakehouse: Lakehouse, tmp_path: Path) -> None:
    lakehouse.files |= {
        "models/silver/sa.sql": (
            "{{ config(materialized='incremental', unique_key='id', incremental_strategy='merge') }}"
            "select id, n + 1 as n from {{ ref('a') }}"
            "{% if is_incremental() %} where id > (select max(id) from {{ this }}){% endif %}"
        ),
        "models/silver/sb.sql": "{{ config(on_table_exists='rename') }} select id, n + 1 as n from {{ ref('b') }}",
        "models/gold/ga.sql": "{{ config(materialized='view') }} select sum(n) as n from {{ ref('sa') }}",
        "seeds/codes.csv": "code,name\n1,one\n",
        "seeds/seeds.yml": ("seeds: [{name: codes, config: {schema: silver, meta: {lakehouse: {layer: silver}}}}]"),
        "snapshots/history.sql": (
            "{% snapshot history %}{{ config(schema='silver', unique_key='id', strategy='check', check_cols=['n'], "
            "meta={'lakehouse': {'layer': 'silver'}}) }}"
            "select id, n from {{ ref('b') }} where id < 3{% endsnapshot %}"
        ),
    }
    lakehouse.write()
    first = lakehouse.run()
    assert first.success, first.failure
    lakehouse.sql("insert into raw.a select 101, 0")
    lakehouse.sql("update raw.b set n = 7 where id = 1")
    second = lakehouse.run()
    assert second.success, second.failure
    assert lakehouse.sql("select count(*) from silver.sa") == [(101,)]
    assert snapshots(lakehouse, "silver/sa") == 2  # it was merged, not built again
    assert lakehouse.sql("select n from gold.ga") == [(50600 + 1,)]
    assert lakehouse.sql("select count(*) from silver.history") == [(3,)]
    assert lakehouse.sql("select code, name from silver.codes") == [(1, "one")]
    database = lakehouse.database
    assert isinstance(database, Trino)
    assert "__run_" not in str(database.ask("show create view gold.ga"))
    assert schemas(lakehouse) == {"raw", *LAYERS}


def test_a_write_from_outside_during_the_run_refuses_the_publication(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lakehouse.run().success
    from lakehouse_analytics.assets import run_branch

    finish = run_branch.RunBranch.finish

    def write_first(self: object, *args: object, **options: object) -> object:
        lakehouse.sql("insert into silver.sa select 999, 999")
        return finish(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(run_branch.RunBranch, "finish", write_first)
    failed = lakehouse.run()
    assert not failed.success
    assert "because other writers have changed tables since it was created: silver.sa" in failed.failure
    assert lakehouse.sql("select count(*) from silver.sa where id = 999") == [(1,)]
    assert failed.built == set()


def test_a_dropped_copy_is_refused_by_trino_and_loses_no_file(lakehouse: Lakehouse) -> None:
    from lakehouse_analytics.branches.catalog import Name
    from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog

    assert lakehouse.run().success
    database = lakehouse.database
    assert isinstance(database, Trino)
    branches = SqlBranchCatalog(database.catalog)
    branches.create("pr_1", {Name("silver", "sa"): True})
    database.ask("insert into silver__pr_1.sa select 1000, 1")
    for statement in ("drop table silver__pr_1.sa", "alter table silver__pr_1.sa rename to silver__pr_1.other"):
        with pytest.raises(Exception, match=r"Failed to (execute: DELETE FROM iceberg_tables|rename)"):
            database.ask(statement)
    assert lakehouse.sql("select count(*) from silver.sa") == [(100,)]
    assert database.ask("select count(*) from silver__pr_1.sa") == [(101,)]
    assert branches.drop("pr_1") > 0
    assert lakehouse.sql("select sum(n) from silver.sa") == [(50600,)]
    assert schemas(lakehouse) == {"raw", *LAYERS}


def test_a_code_location_on_a_branch_writes_nowhere_else(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lakehouse.run().success
    before = lakehouse.database.contents(LAYERS)
    missing = run_on_branch(lakehouse, monkeypatch)
    assert not missing.success
    assert "LAKEHOUSE_BRANCH is pr_42: There is no branch pr_42." in missing.failure

    printed = command("branch", "create", "pr-42").output
    assert printed.startswith("Created the branch pr_42 of 7 tables; it expires on ")
    lakehouse.files["models/silver/sa.sql"] = "select id, n + 2 as n from {{ ref('a') }}"
    lakehouse.files["models/silver/new.sql"] = "select count(*) as n from {{ ref('sa') }}"
    lakehouse.write()
    built = run_on_branch(lakehouse, monkeypatch)
    assert built.success, built.failure
    assert lakehouse.database.contents(LAYERS) == before
    catalog = lakehouse.database.environment["LAKEHOUSE_TRINO_CATALOG"]
    assert built.metadata["pr_42/gold/ga"]["relation"] == f'"{catalog}"."gold__pr_42"."ga"'
    assert lakehouse.sql("select n from gold__pr_42.ga") == [(50700,)]
    assert lakehouse.sql("select n from silver__pr_42.new") == [(100,)]
    assert "pr_42" in command("branch", "list").output

    assert "Published 8 tables of the branch pr_42" in command("branch", "publish", "PR-42").output
    assert lakehouse.sql("select n from gold.ga") == [(50700,)]
    assert lakehouse.sql("select n from silver.new") == [(100,)]
    assert schemas(lakehouse) == {"raw", *LAYERS}
    assert command("branch", "list").output == "There are no branches.\n"
    command("branch", "create", "idle")
    assert command("branch", "publish", "idle").output == "The branch idle had changed nothing, and was dropped.\n"
    assert "There is no branch pr_42" in command("branch", "drop", "pr_42", exit_code=1).output


def test_a_run_is_rolled_back_also_after_maintenance(lakehouse: Lakehouse) -> None:
    before, run_id, after = published_and_compacted(lakehouse)
    [(published,)] = lakehouse.sql('select max_by(snapshot_id, committed_at) from "silver"."sb$snapshots"')
    for table in ("bronze.b", "silver.sb", "gold.gb"):
        lakehouse.sql(f"alter table {table} execute expire_snapshots(retention_threshold => '7d')")
    shown = command("rollback", run_id[:8], exit_code=1, answer="n\n").output
    assert f"The run {run_id} published, at " in shown
    assert "  gold.gb\n" in shown
    assert command("rollback", run_id[:8], "--yes").output == "Restored 3 tables.\n"
    assert lakehouse.database.contents(LAYERS) == before
    assert lakehouse.sql(f"select count(*) from silver.sb for version as of {published}") == [(101,)]
    assert "was rolled back already" in command("rollback", run_id, "--yes", exit_code=1).output
    again = lakehouse.run(assets=["bronze/b", "silver/sb", "gold/gb"])
    assert again.success, again.failure
    assert lakehouse.database.contents(LAYERS) == after


def published_and_compacted(lakehouse: Lakehouse) -> tuple[dict[str, list[Row]], str, dict[str, list[Row]]]:
    """The contents before a run, its id, and the contents after it. Its files have been rewritten since."""
    lakehouse.files["models/silver/sb.sql"] = (
        "{{ config(materialized='incremental', incremental_strategy='append') }}"
        "select id, n + 1 as n from {{ ref('b') }}"
        "{% if is_incremental() %} where id > (select max(id) from {{ this }}){% endif %}"
    )
    lakehouse.write()
    assert lakehouse.run().success
    before = lakehouse.database.contents(LAYERS)
    lakehouse.sql("insert into raw.b select 101, 0")
    second = lakehouse.run(assets=["bronze/b", "silver/sb", "gold/gb"])
    assert second.success, second.failure
    after = lakehouse.database.contents(LAYERS)
    assert after != before
    assert lakehouse.sql('select count(*) from "silver"."sb$files"') == [(2,)]
    for table in ("bronze.b", "silver.sb", "gold.gb"):
        lakehouse.sql(f"alter table {table} execute optimize")
        lakehouse.sql(f"alter table {table} execute optimize_manifests")
        lakehouse.sql(f"analyze {table}")
    assert lakehouse.sql('select count(*) from "silver"."sb$files"') == [(1,)]
    assert lakehouse.database.contents(LAYERS) == after
    return before, second.run_id, after


def run_on_branch(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    with monkeypatch.context() as on_branch:
        on_branch.setenv("LAKEHOUSE_BRANCH", "pr_42")
        return lakehouse.run()


def command(*words: str, exit_code: int = 0, answer: str | None = None) -> Result:
    """Run `lakehouse` with some words."""
    result = CliRunner().invoke(main, words, input=answer)
    assert result.exit_code == exit_code, result.output
    return result
