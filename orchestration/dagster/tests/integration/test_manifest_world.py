"""The world of the manifest is that of the run: an ordinary dbt project, as it is, on dbt's own defaults.

Its models are in a file that only the profile names, in an attached database, and in files beside the project; none of
them may be counted in another place than dbt has built them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from lakehouse_analytics.dbt.prepare import prepare
from lakehouse_analytics.dbt.project import DbtProject, ManifestError
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.settings import Settings

from .conftest import Lakehouse
from .databases import DuckDB

FILES = {
    "dbt_project.yml": """
        name: shop
        version: "1.0"
        profile: shop
        models: {shop: {+materialized: table}}
    """,
    "profiles.yml": """
        shop:
          target: dev
          outputs:
            dev:
              type: duckdb
              path: warehouse.2026.duckdb
              schema: "{{ env_var('SHOP_SCHEMA', 'dev') }}"
              attach: [{path: erp.duckdb, alias: erp}]
              settings: {TimeZone: "{{ env_var('ZONE', 'UTC') }}"}
    """,
    "packages.yml": "packages: []",
    "macros/names.sql": """
        {% macro generate_schema_name(custom_schema_name, node) -%}
          {{ target.schema if target.settings.TimeZone == 'UTC' else 'elsewhere' }}
        {%- endmacro %}
    """,
    "models/bronze/sources.yml": "sources: [{name: erp, database: erp, schema: main, tables: [{name: customers}]}]",
    "models/bronze/stg_customers.sql": (
        "{{ config(materialized='view') }} select * from {{ source('erp', 'customers') }} limit {{ var('most', 100) }}"
    ),
    "models/bronze/copied.sql": "{{ config(database='erp') }} select * from {{ source('erp', 'customers') }}",
    "models/bronze/exported.sql": (
        "{{ config(materialized='external', location='exported.parquet') }} select * from range(3) as t(id)"
    ),
    "models/bronze/orders.sql": "select * from range(2) as t(id)",
    "seeds/bronze/kinds.csv": "id\n1\n2\n3\n",
    "snapshots/bronze/history.yml": """
        snapshots:
          - name: history
            relation: source('erp', 'customers')
            config: {unique_key: id, strategy: check, check_cols: all}
    """,
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lakehouse]:
    for name in ("DBT_PROFILES_DIR", "DBT_TARGET", "SHOP_SCHEMA", "ZONE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(tmp_path / "dbt"))
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        made = Lakehouse(tmp_path, DuckDB(tmp_path / "dbt" / "warehouse.2026.duckdb"), instance, FILES)
        made.write()
        with duckdb.connect(tmp_path / "dbt" / "erp.duckdb") as connection:
            connection.execute("create table customers as select * from range(5) as t(id)")
        yield made


def test_every_table_is_counted_where_dbt_built_it(shop: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sql("create schema dev")
    shop.sql("create table dev.orders as select * from range(1000)")  # of another time
    outcome = shop.run()
    assert outcome.success, outcome.failure
    rows = {key: metadata.get("dagster/row_count") for key, metadata in outcome.metadata.items()}
    assert rows == {
        "bronze/orders": 2,
        "bronze/stg_customers": 5,
        "bronze/copied": 5,
        "bronze/exported": 3,
        "bronze/kinds": 3,
        "bronze/history": 5,
    }

    # What a macro derives in the run only, no fingerprint can tell: the names are those of the manifest.
    monkeypatch.setenv("ZONE", "Europe/Berlin")
    names = ("orders", "kinds", "history")  # a model, a seed, a snapshot
    again = shop.run(assets=[f"bronze/{name}" for name in names])
    assert again.success, again.failure
    assert {key: metadata["dagster/row_count"] for key, metadata in again.metadata.items()} == {
        f"bronze/{name}": rows[f"bronze/{name}"] for name in names
    }
    assert shop.sql("select table_schema from information_schema.tables where table_schema = 'elsewhere'") == []


def test_a_database_in_memory_is_built_counted_and_gated(shop: Lakehouse) -> None:
    """Nothing else can read it: what counts is dbt itself."""
    shop.files = {
        **{name: text for name, text in shop.files.items() if not name.startswith(("models/", "snapshots/"))},
        "profiles.yml": "shop: {target: dev, outputs: {dev: {type: duckdb, path: ':memory:', schema: dev}}}",
        "macros/names.sql": "",
        "models/bronze/few.sql": "{{ config(meta={'lakehouse': {'rows': {'min': 3}}}) }} select * from range(2)",
        "models/silver/below.sql": "select * from {{ ref('few') }}",
        "models/silver/beside.sql": "select * from range(7)",
    }
    for path in [*(shop.project / "models").rglob("*"), *(shop.project / "snapshots").rglob("*.yml")]:
        if path.is_file():
            path.unlink()
    shop.write()
    outcome = shop.run()
    assert outcome.built == {"bronze/few", "bronze/kinds", "silver/beside"}
    assert outcome.metadata["silver/beside"]["dagster/row_count"] == 7
    assert "bronze/few failed its gate: row_count: 2 rows, expected at least 3" in outcome.failure


@pytest.mark.nightly
def test_variables_reach_parse_and_run(shop: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.definitions()
    monkeypatch.setenv("SHOP_SCHEMA", "prod")
    with pytest.raises(ManifestError, match=r"schema \(it was 'dev', is 'prod' now; it reads SHOP_SCHEMA\)"):
        DbtProject.from_settings(Settings.load()).manifest()
    monkeypatch.setenv("LAKEHOUSE_DBT_VARS", "{most: 1}")  # to parse and to run
    outcome = shop.run(assets=["bronze/orders", "bronze/stg_customers"])
    assert outcome.success, outcome.failure
    rows = {key: metadata["dagster/row_count"] for key, metadata in outcome.metadata.items()}
    assert rows == {"bronze/orders": 2, "bronze/stg_customers": 1}
    assert shop.sql("select count(*) from prod.orders") == [(2,)]


@pytest.mark.nightly
def test_a_profile_that_dbt_reads_in_another_way_is_refused(shop: Lakehouse) -> None:
    # Our rendering knows no arithmetic of dbt's native types.
    profiles = shop.project / "profiles.yml"
    profiles.write_text(profiles.read_text().replace("warehouse.2026.duckdb", '"{{ (1 ~ 1) | as_native + 1 }}.duckdb"'))
    settings = Settings.load()
    project = DbtProject.from_settings(settings)
    with pytest.raises(ManifestError) as caught:
        prepare(project, dbt_runner(settings, project), lambda _: None)
    assert str(profiles) in str(caught.value)
    assert not project.stamp_path.exists()


@pytest.mark.nightly
def test_a_manifest_is_written_although_the_project_switches_artifacts_off(shop: Lakehouse) -> None:
    file = shop.project / "dbt_project.yml"
    file.write_text(file.read_text() + "flags: {write_json: false}\n")
    settings = Settings.load()
    project = DbtProject.from_settings(settings)
    prepare(project, dbt_runner(settings, project), lambda _: None)
    assert project.manifest()["nodes"]
