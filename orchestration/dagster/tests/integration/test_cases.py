"""Small dbt projects that this location once got wrong, whole: the manifest is made, the location loaded, a job run.

Each fault was found with a case, a small project or script of its own. `TESTED` says which tests hold each of them:
those below, or tests that stood already. Several cases share a project here, because dbt's start costs more than they.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from lakehouse_analytics.dbt.project import ManifestError
from lakehouse_analytics.settings import repository_root

from .conftest import Lakehouse
from .databases import DuckDB

TESTS = Path(__file__).parent.parent
#: Where the cases are, if this machine has them: a folder for each.
CASES = Path(os.environ.get("LAKEHOUSE_TEST_CASES") or repository_root().parent / "shared" / "cases")

HERE = "integration/test_cases.py::"
NODES = "integration/test_every_node.py::test_every_node_of_a_project_is_built_or_checked_or_external"
WORLD = "integration/test_manifest_world.py::test_every_table_is_counted_where_dbt_built_it"
META = "definitions/test_dagster_meta.py::"
NAMES = f"{HERE}test_odd_names_are_built_hooked_and_counted"
MEANING = f"{HERE}test_metrics_versions_and_meta_of_dagster_are_read"
KINDS = f"{HERE}test_a_python_model_and_a_file_are_built_and_a_function_that_dbt_cannot_create_is_named"

#: The tests that hold each case.
TESTED: dict[str, tuple[str, ...]] = {
    "airbyte": (
        "unit/triggers/airbyte/test_connections.py::test_a_stream_that_the_destination_renames_fills_its_table",
        "unit/triggers/airbyte/test_sensor.py::test_streams_and_tables_that_do_not_meet_are_named_and_a_renamed_stream_is_answered",
    ),
    "airbyte-time": (
        "unit/partitions/test_backlog.py::test_a_window_is_ready_when_a_sync_began_after_its_end_in_whatever_order_syncs_are_recorded",
        "unit/triggers/airbyte/test_sensor.py::test_an_airbyte_that_is_installed_again_and_counts_from_one_is_answered",
    ),
    "attach": (WORLD,),
    "attachsrc": (WORLD,),
    "base": ("integration/test_gates.py::test_everything_is_built_layer_by_layer_with_its_metadata",),
    "column-tags": (MEANING,),
    "connector": (
        "unit/ingest/test_sync_bad_input.py::test_a_config_reaches_the_connector_as_it_is_written",
        "unit/ingest/test_sync_bad_input.py::test_a_config_that_is_no_json_names_file_and_key",
        "unit/ingest/test_sync_bad_input.py::test_a_stored_state_that_cannot_be_read_is_one_error",
        "unit/ingest/test_sync_bad_input.py::test_a_database_that_is_no_file_is_refused_before_anything_is_read",
    ),
    "count-name": (f"{META}test_all_of_it_runs",),
    "dagster-ref": (f"{META}test_each_check_is_on_the_asset_that_dagster_dbt_puts_it_on",),
    "dagstermeta": (MEANING, f"{META}test_every_key_that_meta_names_is_that_of_dagster_dbt"),
    "dotted": (f"{META}test_all_of_it_runs",),
    "eager": (
        f"{HERE}test_a_table_below_a_tested_source_is_requested_after_each_sync",
        "unit/assets/test_specs_automation.py::test_a_table_is_requested_after_each_sync_of_its_source",
    ),
    "emptypk": (WORLD,),
    "env-schema": ("integration/test_manifest_world.py::test_variables_reach_parse_and_run",),
    "exposures": (f"{META}test_every_key_that_meta_names_is_that_of_dagster_dbt",),
    "external": (KINDS, WORLD),
    "fqn-clash": (NAMES,),
    "functions": (KINDS, NODES),
    "git-package": ("integration/test_dbt_hooks.py::test_dbt_is_asked_for_packages_when_and_only_when_they_changed",),
    "hooks": (NAMES, "integration/test_gates.py::test_a_failing_hook_fails_the_run"),
    "ingest": (
        "unit/ingest/test_sync_bad_input.py::test_a_record_that_is_no_json_names_stream_position_and_reason",
        "unit/ingest/test_columns.py::test_values_that_do_not_fit_are_null_and_listed",
    ),
    "kubernetes": ("helm/test_rendered.py::test_a_run_queue_that_is_off_is_named_in_plain_words",),
    "layer-clash": (MEANING,),
    "load": (
        "unit/triggers/airbyte/test_sensor.py::test_a_tick_reads_what_was_stored_since_the_last_one_and_nothing_of_the_history",
    ),
    "loom": (NODES,),
    "microbatch": ("integration/test_microbatch.py::test_replaced_windows_are_recorded_and_failed_ones_say_why",),
    "moved-over": (NAMES, f"{META}test_every_key_that_meta_names_is_that_of_dagster_dbt"),
    "nonascii": (NAMES, f"{META}test_all_of_it_runs"),
    "odd-names": (NAMES,),
    "outside": ("unit/dbt/test_project_stale_manifest.py::test_every_file_that_dbt_reads_counts",),
    "pkgstale": ("unit/dbt/test_project_stale_manifest.py::test_every_file_that_dbt_reads_counts",),
    "same-stem": ("unit/dbt/test_profile.py::test_a_file_other_than_the_profiles_is_one_error",),
    "semantic": (MEANING,),
    "sources-only": (
        "integration/test_every_node.py::"
        "test_a_project_of_tested_sources_runs_its_tests_whatever_its_flags_say_of_artifacts",
    ),
    "spaces": (NAMES,),
    "tests": (NODES,),
    "trino": (
        "integration/test_maintenance_protection.py::test_files_that_something_else_may_need_are_kept",
        "integration/test_shared_cluster.py::test_two_builds_wait_in_the_queue_for_longer_than_an_outage_may_last",
    ),
    "two-packages": (
        NAMES,
        "unit/dbt/lint/test_suggested_yaml.py::test_two_packages_with_one_model_name_are_one_error_with_both_files_and_both_ways_out",
    ),
    "udf": (KINDS, NODES),
    "vars": (MEANING,),
    "versions": (MEANING,),
    "warn-error": (NODES, "integration/test_gates.py::test_a_warning_that_dbt_takes_for_an_error_gates_and_is_retried"),
    "windows": (
        f"{HERE}test_a_table_that_could_not_be_counted_keeps_the_count_it_is_compared_with",
        "unit/checks/test_history.py::test_a_drop_is_measured_from_the_last_count_that_passed_or_was_accepted",
        "integration/test_time.py::test_each_partition_has_its_own_rows_and_checks",
    ),
    "write-json": (
        "integration/test_every_node.py::"
        "test_a_project_of_tested_sources_runs_its_tests_whatever_its_flags_say_of_artifacts",
        "integration/test_manifest_world.py::test_a_manifest_is_written_although_the_project_switches_artifacts_off",
    ),
    "wrongpath": ("unit/dbt/test_profile.py::test_a_file_other_than_the_profiles_is_one_error",),
}

PROFILE = """
    shop:
      target: local
      outputs:
        local: {type: duckdb, path: "{{ env_var('LAKEHOUSE_DUCKDB_PATH') }}", schema: main, threads: 2}
    """

Make = Callable[..., Lakehouse]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Writes a project, and points the environment at it as its owner would."""
    (tmp_path / "home").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "home")) as instance:

        def made(files: dict[str, str], folder: str = "shop", file: str = "lake.duckdb") -> Lakehouse:
            lakehouse = Lakehouse(
                tmp_path / folder, DuckDB(tmp_path / file), instance, {"profiles.yml": PROFILE, **files}
            )
            lakehouse.write()
            monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(lakehouse.project))
            monkeypatch.setenv("LAKEHOUSE_DUCKDB_PATH", str(tmp_path / file))
            return lakehouse

        yield made


@pytest.mark.parametrize("case", TESTED)
def test_every_case_names_tests_that_exist(case: str) -> None:
    for name in TESTED[case]:
        file, _, test = name.partition("::")
        assert f"\ndef {test}(" in (TESTS / file).read_text(), name


@pytest.mark.skipif(not CASES.is_dir(), reason="The cases are not on this machine: the table is compared with nothing.")
def test_every_case_is_in_the_table() -> None:
    assert {path.name for path in CASES.iterdir() if path.is_dir()} == TESTED.keys()


ODD_NAMES = {
    "dbt_project.yml": """
        name: x
        version: "1.0"
        profile: shop
        models:
          +materialized: table
          a: {orders: {+meta: {dagster: {asset_key: [a, orders]}}}}
          shop: {+meta: {lakehouse: {layer: bronze}}}
          x: {shop: {+meta: {lakehouse: {layer: silver}}}}
        on-run-start:
          - "create table if not exists audit (step varchar)"
          - "insert into audit values ('start')"
        on-run-end: "insert into audit values ('end')"
        """,
    # A package with the name of a folder of the project, and two packages with a model of one name.
    "dbt_packages/shop/dbt_project.yml": "{name: shop, version: '1.0'}",
    "dbt_packages/shop/models/staging/first.sql": "select 1 as id",
    "dbt_packages/shop/models/staging/second.sql": "select * from {{ ref('first') }}",
    "dbt_packages/a/dbt_project.yml": "{name: a, version: '1.0'}",
    "dbt_packages/a/models/orders.sql": "select 1 as id",
    "dbt_packages/b/dbt_project.yml": "{name: b, version: '1.0'}",
    "dbt_packages/b/models/orders.sql": "{{ config(alias='orders_b') }} select 2 as id",
    "models/shop/staging/third.sql": "select * from {{ ref('second') }}",
    "models/shop/staging/fourth.sql": "select * from {{ ref('second') }}",
    "models/gold/both.sql": "select * from {{ ref('a', 'orders') }} union all select * from {{ ref('b', 'orders') }}",
    # Blanks, letters of another script, what no identifier takes.
    "models/my models/größen.sql": "select * from {{ source('ga4-web', 'events_*') }}",
    "models/my models/kunden_ä.sql": "select * from {{ ref('größen') }}",
    "models/names.yml": """
        sources:
          - name: ga4-web
            schema: main
            tables:
              - {name: "events_*", identifier: events_2026, columns: [{name: id, data_tests: [not_null]}]}
              - {name: "Bestellungen (alt)", identifier: alt}
        models:
          - {name: größen, description: "{{ 'x' }} ümlaut", columns: [{name: id, data_tests: [unique]}]}
        exposures:
          - {name: "Weekly – EMEA", type: dashboard, owner: {name: A}, depends_on: [ref('größen')]}
          - {name: "Weekly - EMEA", type: dashboard, owner: {name: A}, depends_on: [ref('größen')]}
        """,
}


def test_odd_names_are_built_hooked_and_counted(make: Make) -> None:
    lakehouse = make(ODD_NAMES, "pro ject ü", "lake.2026.duckdb")
    lakehouse.sql("create table events_2026 as select * from range(3) as t(id)")
    definitions = lakehouse.definitions()
    dg.Definitions.validate_loadable(definitions)
    built = {
        *("a/orders", "bronze/first", "bronze/second", "default/größen", "default/kunden_ä", "default/orders"),
        *("gold/both", "silver/fourth", "silver/third"),
    }
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    assert len(keys - built) == 4, keys - built  # two tables of a source and two exposures, all apart

    outcome = lakehouse.run()
    assert outcome.success, outcome.failure
    assert outcome.built == built
    assert outcome.checks.keys() == {
        *(f"{key}:row_count" for key in built),
        "default/größen:unique_groen_id_cf6c4139",  # Dagster takes ASCII only
        "ga4-web/events__:source_not_null_ga4_web_events___id",
    }
    assert all(outcome.checks.values())
    assert outcome.metadata["default/kunden_ä"]["dagster/row_count"] == 3
    assert outcome.metadata["gold/both"]["dagster/row_count"] == 2
    # Once a run, although it builds three layers.
    assert lakehouse.sql("select step, count(*) from audit group by step order by step") == [("end", 1), ("start", 1)]


MEANINGS = {
    "dbt_project.yml": """
        name: shop
        version: "1.0"
        profile: shop
        models: {shop: {+materialized: table, +enabled: "{{ var('all_of_it') }}"}}
        """,
    "models/bronze/stg_orders.sql": "select order_id, ordered_at from {{ source('crm', 'orders') }}",
    "models/bronze/dim_v1.sql": "select 1 as id",
    "models/bronze/dim_v2.sql": "select 1 as id union all select null",
    "models/silver/orders.sql": "select * from {{ ref('stg_orders') }}",
    "models/silver/constants.sql": "{{ config(materialized='ephemeral') }} select * from {{ ref('dim', v=1) }}",
    "models/silver/reads_constants.sql": "select * from {{ ref('constants') }}",
    "models/gold/spine.sql": "select cast('2026-01-01' as date) as date_day",
    "tests/two_is_not_smaller.sql": """
        {{ config(meta={'dagster': {'ref': {'name': 'dim', 'package_name': 'shop', 'version': 2}}}) }}
        select 1 from {{ ref('dim', v=1) }} as a left join {{ ref('dim', v=2) }} as b using (id) where b.id is null
        """,
    "models/models.yml": """
        groups: [{name: finance, owner: {email: finance@example.com}}]
        sources:
          - name: crm
            schema: main
            tables:
              - name: orders
                config:
                  meta: {dagster: {asset_key: [airbyte, crm, orders]}}
                  loaded_at_field: ordered_at
                  freshness: {error_after: {count: 1, period: day}}
          - {name: exposures, schema: main, tables: [{name: board}]}
        models:
          - name: stg_orders
            config: {tags: ["cost center: 12", nightly]}
            columns:
              - {name: order_id, config: {tags: ["pii: high", "art. 9"]}, data_tests: [unique]}
          - name: orders
            config:
              group: finance
              meta: {dagster: {asset_key: [mart, orders], group: sales, freshness_policy: {maximum_lag_minutes: 60}}}
          - name: dim
            latest_version: 2
            columns:
              - name: id
                data_tests: [unique, {not_null: {config: {error_if: ">100", warn_if: ">0"}}}]
            versions: [{v: 1, defined_in: dim_v1}, {v: 2, defined_in: dim_v2}]
          - {name: constants, columns: [{name: id, data_tests: [unique]}]}
          - name: spine
            time_spine: {standard_granularity_column: date_day}
            columns: [{name: date_day, granularity: day}]
        semantic_models:
          - name: orders
            model: ref('orders')
            defaults: {agg_time_dimension: ordered_at}
            entities: [{name: order_id, type: primary}]
            dimensions: [{name: ordered_at, type: time, type_params: {time_granularity: day}}]
            measures: [{name: number_of_orders, agg: count, expr: order_id}]
        metrics:
          - {name: orders_made, label: Orders, type: simple, type_params: {measure: number_of_orders}}
        saved_queries:
          - name: by_day
            query_params: {metrics: [orders_made], group_by: ["TimeDimension('order_id__ordered_at', 'day')"]}
            exports: [{name: by_day, config: {export_as: table}}]
        exposures:
          - {name: board, type: dashboard, owner: {name: A}, depends_on: [metric('orders_made')]}
        """,
}


@pytest.mark.nightly
def test_metrics_versions_and_meta_of_dagster_are_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lakehouse = make(MEANINGS)
    lakehouse.sql("create table orders as select id as order_id, now() as ordered_at from range(3) as t(id)")
    with pytest.raises(ManifestError, match=r"(?s)'all_of_it'.*LAKEHOUSE_DBT_VARS"):
        lakehouse.definitions()
    monkeypatch.setenv("LAKEHOUSE_DBT_VARS", "{all_of_it: true}")

    definitions = lakehouse.definitions()
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    nodes = {node.key.to_user_string(): node for node in graph.asset_nodes}
    parents = {key: {parent.to_user_string() for parent in node.parent_keys} for key, node in nodes.items()}
    assert parents == {
        "airbyte/crm/orders": set(),
        "bronze/dim_v1": set(),
        "bronze/dim_v2": set(),
        "bronze/stg_orders": {"airbyte/crm/orders"},
        "exposures/board": set(),
        "exposures/shop/board": {"mart/orders"},
        "gold/spine": set(),
        "mart/orders": {"bronze/stg_orders"},
        "silver/reads_constants": {"bronze/dim_v1"},
    }
    assert nodes["mart/orders"].group_name == "sales"
    assert "nightly" in nodes["bronze/stg_orders"].tags

    outcome = lakehouse.run()
    assert outcome.success, outcome.failure
    built = {
        "bronze/dim_v1",
        "bronze/dim_v2",
        "bronze/stg_orders",
        "gold/spine",
        "mart/orders",
        "silver/reads_constants",
    }
    assert outcome.built == built
    tests = {name: passed for name, passed in outcome.checks.items() if not name.endswith(":row_count")}
    assert tests == {
        "airbyte/crm/orders:freshness": True,
        "bronze/dim_v1:not_null_dim_v1_id": True,
        "bronze/dim_v1:unique_constants_id": True,
        "bronze/dim_v1:unique_dim_v1_id": True,
        "bronze/dim_v2:not_null_dim_v2_id": False,  # a warning
        "bronze/dim_v2:two_is_not_smaller": True,
        "bronze/dim_v2:unique_dim_v2_id": True,
        "bronze/stg_orders:unique_stg_orders_order_id": True,
    }


KINDS_OF_MODELS = {
    "dbt_project.yml": """
        name: shop
        version: "1.0"
        profile: shop
        models: {shop: {+materialized: table, +meta: {lakehouse: {rows: {min: 1, severity: error}}}}}
        """,
    "models/bronze/stg_orders.sql": "select id, id * 10 as amount from range(3) as t(id)",
    "models/bronze/exported.sql": (
        "{{ config(materialized='external', format='parquet') }} select * from {{ ref('stg_orders') }}"
    ),
    "models/bronze/by_python.py": """
        def model(dbt, session):
            dbt.config(materialized="table")
            return dbt.ref("stg_orders").filter("amount > 0")
        """,
    # The adapter has no functions: dbt itself cannot create it.
    "functions/twice.sql": "n * 2",
    "functions/functions.yml": """
        functions:
          - name: twice
            arguments: [{name: n, data_type: integer}]
            returns: {data_type: integer}
        """,
    "models/silver/doubled.sql": "select {{ function('twice') }}(amount) as n from {{ ref('stg_orders') }}",
}


@pytest.mark.nightly
def test_a_python_model_and_a_file_are_built_and_a_function_that_dbt_cannot_create_is_named(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse = make(KINDS_OF_MODELS)
    monkeypatch.chdir(lakehouse.root)  # where no file of an export belongs
    outcome = lakehouse.run()
    assert outcome.built == {"bronze/stg_orders", "bronze/exported", "bronze/by_python"}
    rows = {key: metadata["dagster/row_count"] for key, metadata in outcome.metadata.items()}
    assert rows == {"bronze/stg_orders": 3, "bronze/exported": 3, "bronze/by_python": 2}
    assert not outcome.success
    assert "function twice was not built: functions/twice.sql" in outcome.failure
    assert "silver/doubled was blocked by function twice" in outcome.failure
    assert not (lakehouse.root / "exported.parquet").exists()


EAGER = {
    "dbt_project.yml": """
        name: shop
        version: "1.0"
        profile: shop
        models: {shop: {+materialized: table, +meta: {lakehouse: {automation: eager}}}}
        """,
    "models/bronze/stg_orders.sql": "select * from {{ source('raw', 'orders') }}",
    "models/silver/orders.sql": "select * from {{ ref('stg_orders') }}",
    "models/sources.yml": """
        sources:
          - {name: raw, schema: main, tables: [{name: orders, columns: [{name: id, data_tests: [not_null]}]}]}
        """,
}


@pytest.mark.nightly
def test_a_table_below_a_tested_source_is_requested_after_each_sync(make: Make) -> None:
    lakehouse = make(EAGER)
    lakehouse.sql("create table orders as select 1 as id")
    definitions = lakehouse.definitions()
    keys = definitions.resolve_asset_graph().materializable_asset_keys
    cursor, now = None, dt.datetime.now(dt.UTC)

    def requested() -> set[str]:
        nonlocal cursor, now
        now += dt.timedelta(minutes=1)
        tick = dg.evaluate_automation_conditions(
            defs=definitions, instance=lakehouse.instance, cursor=cursor, evaluation_time=now
        )
        cursor = tick.cursor
        return {key.to_user_string() for key in keys if tick.get_num_requested(key)}

    assert requested() == set()
    for _ in range(2):
        lakehouse.instance.report_runless_asset_event(dg.AssetMaterialization(["raw", "orders"]))
        assert requested() == {"bronze/stg_orders", "silver/orders"}
        outcome = lakehouse.run()
        assert outcome.success, outcome.failure
        assert requested() == set()


@pytest.mark.nightly
def test_a_table_that_could_not_be_counted_keeps_the_count_it_is_compared_with(lakehouse: Lakehouse) -> None:
    assert lakehouse.run(assets=["bronze/a"]).success
    lakehouse.sql("delete from raw.a where id > 10")
    lost = "bronze/a failed its gate: row_count: 10 rows, 90% fewer than the 100 of the last passed check"
    assert lost in lakehouse.run(assets=["bronze/a"]).failure

    contracts = lakehouse.files["models/bronze/bronze.yml"]
    lakehouse.files["models/bronze/bronze.yml"] = contracts.replace("distinct: [id]", "distinct: [no_such_column]")
    lakehouse.write()
    assert "cannot be counted" in lakehouse.run(assets=["bronze/a"]).failure

    lakehouse.files["models/bronze/bronze.yml"] = contracts
    lakehouse.write()
    assert lost in lakehouse.run(assets=["bronze/a"]).failure
