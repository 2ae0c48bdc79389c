"""`reuse: true`: what would become what it is is not built again, and everything else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from lakehouse_analytics.cli.commands import main

from . import shop
from .conftest import Lakehouse, Outcome, lakehouse_with
from .databases import Database, Postgres, Trino

pytestmark = pytest.mark.engine("duckdb", "trino", "postgres")

TABLES = {
    "silver/countries", "bronze/orders", "bronze/customers", "silver/enriched", "silver/big", "gold/sums", "gold/clock",
    "metrics/total",
}  # fmt: skip


def files() -> dict[str, str]:
    kept = {name: text for name, text in shop.files("2026-03-20").items() if not name.startswith("models/")}
    project = kept["dbt_project.yml"]
    project = project.replace(
        "+materialized: table", "+materialized: table\n                +meta: {lakehouse: {reuse: true}}"
    )
    return {
        **kept,
        "dbt_project.yml": project
        + "\n            seeds: {shop: {+schema: silver, +meta: {lakehouse: {reuse: true, layer: silver}}}}",
        "seeds/countries.csv": "country,continent\nIT,Europe\nUS,America\n",
        "macros/money.sql": "{% macro money(column) %}cast({{ column }} as bigint){% endmacro %}",
        "models/sources.yml": "sources: [{name: raw, schema: raw, tables: [{name: orders}, {name: customers}]}]",
        "models/bronze/orders.sql": """
            select id, customer, {{ money('amount') }} as amount from {{ source('raw', 'orders') }}
            """,
        "models/bronze/customers.sql": """
            {{ config(materialized='view') }} select id, country from {{ source('raw', 'customers') }}
            """,
        "models/silver/enriched.sql": """
            select o.id, o.amount, c.country, k.continent
            from {{ ref('orders') }} as o
            join {{ ref('customers') }} as c on c.id = o.customer
            join {{ ref('countries') }} as k on k.country = c.country
            """,
        "models/silver/big.sql": "select id from {{ ref('orders') }} where amount > {{ var('big', 15) }}",
        "models/gold/sums.sql": """
            select country, cast(sum(amount) as bigint) as amount from {{ ref('enriched') }} group by country
            """,
        "models/gold/clock.sql": "select country, current_timestamp as at from {{ ref('enriched') }}",
        "models/metrics/total.sql": "select cast(sum(amount) as bigint) as amount from {{ ref('sums') }}",
        "models/tests.yml": """
            models: [{name: enriched, columns: [{name: continent, data_tests: [not_null]}]}]
            """,
    }


@pytest.fixture
def lakehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Lakehouse]:
    with lakehouse_with(files(), tmp_path, monkeypatch, database) as made:
        made.sql("create table raw.orders (id bigint, customer bigint, amount bigint)")
        made.sql("create table raw.customers (id bigint, country varchar)")
        made.sql("insert into raw.orders values (1, 1, 10), (2, 2, 20)")
        made.sql("insert into raw.customers values (1, 'IT'), (2, 'US')")
        yield made


def run(lakehouse: Lakehouse, **options: object) -> Outcome:
    outcome = lakehouse.run(**options)  # type: ignore[arg-type]
    assert outcome.success, outcome.failure
    return outcome


def built(outcome: Outcome) -> set[str]:
    """The materialized tables that were not reused."""
    return {key for key in outcome.built if "lakehouse/reused" not in outcome.metadata[key]}


def test_only_what_has_changed_is_built(lakehouse: Lakehouse) -> None:
    first = run(lakehouse)
    assert built(first) == TABLES
    second = run(lakehouse)
    # The clock is read again, and everything else is as it was: also in Dagster, with all its checks.
    assert built(second) == {"gold/clock"}
    assert second.built == TABLES
    assert second.checks == first.checks
    assert second.metadata["silver/enriched"]["lakehouse/reused"] == first.run_id
    assert second.metadata["silver/enriched"]["dagster/row_count"] == 2

    lakehouse.sql("insert into raw.orders values (3, 1, 30)")
    assert built(run(lakehouse)) == TABLES - {"silver/countries", "bronze/customers"}
    lakehouse.sql("insert into raw.customers values (1, 'US')")  # behind a view
    assert built(run(lakehouse)) == {
        "bronze/customers", "silver/enriched", "gold/sums", "gold/clock", "metrics/total",
    }  # fmt: skip
    assert lakehouse.sql("select amount from metrics.total") == [(100,)]
    assert built(run(lakehouse)) == {"gold/clock"}


@pytest.mark.nightly("trino", "postgres")
def test_a_table_that_is_built_and_stays_the_same_stops_the_wave(lakehouse: Lakehouse) -> None:
    # Trino's tables have another snapshot after each build, so they are compared by their rows only where it is set.
    lakehouse.files["dbt_project.yml"] = lakehouse.files["dbt_project.yml"].replace("reuse: true", "reuse: contents")
    lakehouse.files["models/metrics/shown.sql"] = "{{ config(materialized='view') }} select * from {{ ref('sums') }}"
    lakehouse.files["models/metrics/shown_sum.sql"] = "select sum(amount) as amount from {{ ref('shown') }}"
    lakehouse.write()
    run(lakehouse)
    lakehouse.sql("insert into raw.orders values (3, 1, 0)")  # which is nothing in the sums
    outcome = run(lakehouse)
    # PostgreSQL drops a view with the old table.
    views = {"metrics/shown"} if isinstance(lakehouse.database, Postgres) else set[str]()
    assert built(outcome) == {"bronze/orders", "silver/enriched", "silver/big", "gold/sums", "gold/clock", *views}
    assert outcome.built == {*TABLES, "metrics/shown", "metrics/shown_sum"}
    assert lakehouse.sql("select sum(amount) from metrics.shown") == [(30,)]
    assert outcome.metadata["metrics/total"]["dagster/row_count"] == 1
    assert outcome.checks.keys() == run(lakehouse).checks.keys()

    # What has been reused in the middle of a run is known in the next one.
    lakehouse.sql("insert into raw.orders values (4, 2, 5)")
    assert {"metrics/total", "metrics/shown_sum"} <= built(run(lakehouse))
    assert lakehouse.sql("select amount from metrics.total") == [(35,)]
    assert built(run(lakehouse)) == {"gold/clock"}

    # Other columns, or another order of them, are other contents: of that depends what `*` means.
    for select in ("amount, country", "amount as amounts, country"):
        renamed = f"select {select} from (select country, cast(sum(amount) as bigint) as amount"
        lakehouse.files["models/gold/sums.sql"] = f"{renamed} from {{{{ ref('enriched') }}}} group by country) as s"
        lakehouse.files["models/metrics/total.sql"] = "select * from {{ ref('sums') }}"
        lakehouse.files["models/metrics/shown_sum.sql"] = "select 1 as amount from {{ ref('shown') }}"
        lakehouse.write()
        run(lakehouse)
        assert [name for name, _ in lakehouse.database.columns("metrics", "total")] == select.replace(
            "amount as ", ""
        ).split(", ")


@pytest.mark.engine("duckdb")
def test_changes_of_code(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    run(lakehouse)
    lakehouse.files["models/silver/big.sql"] += "-- a comment is no change\n"
    lakehouse.write()
    assert built(run(lakehouse)) == {"gold/clock"}
    lakehouse.files["models/silver/big.sql"] = lakehouse.files["models/silver/big.sql"].replace(">", ">=")
    lakehouse.write()
    assert built(run(lakehouse)) == {"gold/clock", "silver/big"}
    lakehouse.files["macros/money.sql"] = "{% macro money(column) %}cast(2 * {{ column }} as bigint){% endmacro %}"
    lakehouse.write()
    assert built(run(lakehouse)) == TABLES - {"silver/countries", "bronze/customers"}
    assert lakehouse.sql("select amount from metrics.total") == [(60,)]
    monkeypatch.setenv("LAKEHOUSE_DBT_VARS", "{big: 1000}")
    assert built(run(lakehouse)) == {"gold/clock", "silver/big"}
    lakehouse.files["seeds/countries.csv"] += "FR,Europe\n"
    lakehouse.write()
    assert built(run(lakehouse)) == {"silver/countries", "silver/enriched", "gold/clock"}  # whose rows are the same
    assert built(run(lakehouse, config={"full_refresh": True})) == TABLES


@pytest.mark.nightly("trino", "postgres")
def test_a_table_that_something_else_has_changed_is_built(lakehouse: Lakehouse) -> None:
    run(lakehouse)
    lakehouse.sql("delete from silver.enriched where id = 1")
    downstream = {"gold/sums", "metrics/total"} if isinstance(lakehouse.database, Trino) else set[str]()
    assert built(run(lakehouse)) == {"silver/enriched", "gold/clock", *downstream}
    assert lakehouse.sql("select amount from metrics.total") == [(30,)]
    lakehouse.sql("drop table silver.big")
    assert built(run(lakehouse)) == {"gold/clock", "silver/big"}


@pytest.mark.engine("duckdb")
def test_the_command_starts_no_run_if_nothing_would_be_built(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(lakehouse.root))

    def build() -> str:
        result = CliRunner().invoke(main, ["build", "--skip-unchanged"])
        assert result.exit_code == 0, result.output
        return result.output

    run(lakehouse)
    runs = lakehouse.instance.get_runs_count()
    assert "8 of 8 assets built" in build()  # because of the clock
    assert lakehouse.instance.get_runs_count() == runs + 1
    lakehouse.files.pop("models/gold/clock.sql")
    (lakehouse.project / "models/gold/clock.sql").unlink()
    lakehouse.write()
    assert "None of 7 tables would change, so nothing is built or tested." in build()
    assert lakehouse.instance.get_runs_count() == runs + 1
    why = CliRunner().invoke(main, ["why", "metrics/total"])
    assert why.output == "metrics/total is reused: neither its code nor its inputs have changed.\n"
    lakehouse.sql("insert into raw.orders values (3, 1, 30)")
    why = CliRunner().invoke(main, ["why", "metrics/total"])
    assert why.output == (
        "metrics/total is built if the rows of its inputs change: gold/sums is built.\n"
        "gold/sums is built if the rows of its inputs change: silver/enriched is built.\n"
        "silver/enriched is built if the rows of its inputs change: bronze/orders is built.\n"
        "bronze/orders is built: raw/orders has changed.\n"
    )
    assert "7 of 7 assets built" in build()
    assert lakehouse.sql("select amount from metrics.total") == [(60,)]


@pytest.mark.engine("duckdb")
def test_a_failed_gate_of_a_reused_table_blocks_as_before(lakehouse: Lakehouse) -> None:
    run(lakehouse)
    # A test whose data has not changed, but which has become stricter.
    only_italy = "{accepted_values: {arguments: {values: [IT]}}}"
    lakehouse.files["models/tests.yml"] = f"""
        models: [{{name: enriched, columns: [{{name: country, data_tests: [{only_italy}]}}]}}]
        """
    lakehouse.write()
    outcome = lakehouse.run()
    assert not outcome.success
    assert "silver/enriched failed its gate" in outcome.failure
    assert built(outcome) == set()  # not even gold/clock, which is downstream of it


@pytest.mark.engine("duckdb")
def test_a_part_of_the_tables(lakehouse: Lakehouse) -> None:
    run(lakehouse)
    lakehouse.sql("insert into raw.orders values (3, 1, 30)")
    assert built(run(lakehouse, assets=["gold/sums"])) == set()  # silver/enriched has not been built
    assert built(run(lakehouse, assets=["bronze/orders", "gold/sums"])) == {"bronze/orders"}
    assert built(run(lakehouse, assets=["silver/enriched", "gold/sums"])) == {"silver/enriched", "gold/sums"}


@pytest.mark.engine("trino")
def test_compacted_files_are_no_change_and_a_run_may_publish(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_PUBLISH", "run")
    assert built(run(lakehouse)) == TABLES
    assert built(run(lakehouse)) == {"gold/clock"}
    lakehouse.sql("insert into raw.orders values (3, 1, 30)")
    assert isinstance(lakehouse.database, Trino)
    lakehouse.database.ask("alter table raw.orders execute optimize")
    changed = run(lakehouse)
    assert built(changed) == TABLES - {"silver/countries", "bronze/customers"}
    assert lakehouse.sql("select amount from metrics.total") == [(60,)]
    for name in ("bronze.orders", "silver.enriched"):
        lakehouse.database.ask(f"alter table {name} execute optimize")
    assert built(run(lakehouse)) == {"gold/clock"}
