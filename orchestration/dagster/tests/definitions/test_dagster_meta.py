"""A project that was written for dagster-dbt: its keys, groups, owners and checks are the same here, run and all.

Its names are what dbt allows and Dagster does not: a dot, letters of another script, a model called as a check.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_dbt import DagsterDbtTranslator, DbtProject
from dagster_dbt.asset_utils import get_asset_check_key_for_test

FILES = {
    "dbt_project.yml": """
name: shop
profile: shop
flags: {send_anonymous_usage_stats: false}
models:
  shop:
    marts: {+meta: {lakehouse: {layer: gold}}}
  addon:
    +schema: addon
    bronze: {orders: {+meta: {dagster: {asset_key: [addon, orders]}}}}
""",
    "profiles.yml": """
shop:
  target: local
  outputs:
    local: {type: duckdb, path: "{{ env_var('LAKEHOUSE_DUCKDB_PATH') }}"}
""",
    "models/bronze/orders.sql": "select 1 as id",
    "models/bronze/orders.daily.sql": "select id from {{ ref('orders') }}",
    "models/bronze/orders_daily.sql": "select id from {{ ref('orders.daily') }}",
    "models/bronze/orders_row_count.sql": "select id from {{ ref('orders_daily') }}",
    "models/marts/kündigungen.sql": "select id from {{ ref('orders_row_count') }}",
    "models/marts/fct.sql": "select id from {{ ref('kündigungen') }}",
    "models/marts/fct_eager.sql": "select id from {{ ref('fct') }}",
    "models/marts/dim.v1.sql": "select id from {{ ref('orders') }}",
    "models/marts/dim_v2.sql": "select id from {{ ref('orders') }}",
    "models/models.yml": """
groups:
  - {name: finance, owner: {email: [finance@example.com]}}
models:
  - name: fct
    config: {group: finance, meta: {dagster: {asset_key: [warehouse, fct]}}}
  - name: fct_eager
    config:
      group: finance
      meta:
        dagster:
          group: sales
          owners: ["team:sales", "sales@example.com"]
          auto_materialize_policy: {type: eager}
  - name: kündigungen
    columns: [{name: id, data_tests: [unique, not_null]}]
  - name: dim
    latest_version: 2
    versions: [{v: 1, defined_in: dim.v1}, {v: 2, defined_in: dim_v2}]
sources:
  - name: crm
    tables:
      - name: kunden-größe
        config: {meta: {dagster: {asset_key: [airbyte, crm, kunden], group: crm}}}
      - name: plain
        config: {meta: {lakehouse: {airbyte: {connection: crm}}}}
""",
    "models/bronze/raw_reader.sql": (
        "select 1 as id from {{ source('crm', 'kunden-größe') }} a, {{ source('crm', 'plain') }} b"
    ),
    "models/exposures.yml": """
exposures:
  - {name: weekly, type: dashboard, owner: {name: A}, depends_on: [ref('fct')]}
""",
    "tests/by_mapping.sql": (
        "{{ config(meta={'dagster': {'ref': {'name': 'fct', 'package': 'shop'}}}) }}\n"
        "select 1 from {{ ref('fct') }}, {{ ref('fct_eager') }} where false"
    ),
    "tests/by_version.sql": (
        "{{ config(meta={'dagster': {'ref': {'name': 'dim', 'version': 1}}}) }}\n"
        "select 1 from {{ ref('dim', v=1) }}, {{ ref('fct') }} where false"
    ),
    "tests/by_name.sql": (
        "{{ config(meta={'dagster': {'ref': 'orders'}}) }}\n"
        "select 1 from {{ ref('orders') }}, {{ ref('fct') }} where false"
    ),
    # A package, as `dbt deps` leaves it.
    "dbt_packages/addon/dbt_project.yml": "name: addon\nversion: '1.0'\n",
    "dbt_packages/addon/models/bronze/orders.sql": "select 1 as id",
    "dbt_packages/addon/models/exposures.yml": """
exposures:
  - {name: weekly, type: notebook, owner: {name: B}, depends_on: ["ref('addon', 'orders')"]}
""",
}


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory, local: Any) -> Any:
    folder = tmp_path_factory.mktemp("written_for_dagster_dbt") / "shop"
    return type(local).written(folder, FILES, variables(folder))


def variables(folder: Path) -> dict[str, str]:
    return {"LAKEHOUSE_DBT_PROJECT_DIR": str(folder), "LAKEHOUSE_DUCKDB_PATH": str(folder.parent / "shop.duckdb")}


@pytest.fixture(scope="module")
def loaded(location: Any) -> dg.Definitions:
    definitions: dg.Definitions = location.load()
    dg.Definitions.validate_loadable(definitions)
    return definitions


@pytest.fixture(scope="module")
def pairs(location: Any, loaded: dg.Definitions) -> dict[str, tuple[dg.AssetSpec, dg.AssetSpec]]:
    """dagster-dbt's spec of every model, and ours, by unique id."""
    manifest = location.project.manifest()
    translator = DagsterDbtTranslator()
    project = DbtProject(location.project.project_dir, target_path=location.project.target_path)
    ours = {spec.metadata.get("dagster_dbt/unique_id"): spec for spec in loaded.resolve_all_asset_specs()}
    models = [unique_id for unique_id, node in manifest["nodes"].items() if node["resource_type"] == "model"]
    return {
        unique_id: (translator.get_asset_spec(manifest, unique_id, project), ours[unique_id]) for unique_id in models
    }


def test_every_key_that_meta_names_is_that_of_dagster_dbt(pairs: Any, loaded: dg.Definitions) -> None:
    said = {"model.shop.fct": "warehouse/fct", "model.addon.orders": "addon/orders"}
    for unique_id, key in said.items():
        theirs, ours = pairs[unique_id]
        assert theirs.key.to_user_string() == ours.key.to_user_string() == key
    assert {key.to_user_string() for key in loaded.resolve_asset_graph().get_all_asset_keys()} == {
        "addon/orders",
        "airbyte/crm/kunden",
        "bronze/orders",
        "bronze/orders.daily",
        "bronze/orders_daily",
        "bronze/orders_row_count",
        "bronze/raw_reader",
        "crm/plain",
        "exposures/addon/weekly",
        "exposures/weekly",
        "gold/dim_v1",
        "gold/dim_v2",
        "gold/fct_eager",
        "gold/kündigungen",
        "warehouse/fct",
    }


def test_groups_owners_and_automation_are_those_of_dagster_dbt(pairs: Any) -> None:
    seen = 0
    for theirs, ours in pairs.values():
        assert sorted(ours.owners) == sorted(theirs.owners)
        assert (ours.automation_condition is None) == (theirs.automation_condition is None)
        if theirs.group_name:
            seen += 1
            assert ours.group_name == theirs.group_name
        else:
            assert ours.group_name == ours.tags["lakehouse/layer"]
    assert seen == 2


def test_each_check_is_on_the_asset_that_dagster_dbt_puts_it_on(location: Any, pairs: Any) -> None:
    manifest, graph = location.project.manifest(), location.graph
    project = DbtProject(location.project.project_dir, target_path=location.project.target_path)
    keys = {theirs.key: ours.key for theirs, ours in pairs.values()}
    tests = {node["name"]: unique_id for unique_id, node in manifest["nodes"].items() if unique_id.startswith("test.")}
    for name in ("by_mapping", "by_version"):
        theirs = get_asset_check_key_for_test(manifest, DagsterDbtTranslator(), tests[name], project)
        assert theirs
        test = graph.tests[tests[name]]
        assert keys[theirs.asset_key] == dg.AssetKey(graph.tables[test.attached].key), name
    assert graph.tables[graph.tests[tests["by_name"]].attached].key == ("bronze", "orders")


def test_jobs_go_by_layer_and_not_by_key_or_group(loaded: dg.Definitions) -> None:
    job = loaded.resolve_job_def("bronze_refresh")
    assert "addon/orders" in {key.to_user_string() for key in job.asset_layer.selected_asset_keys}


def test_a_source_is_of_airbyte_only_where_its_contract_says_so(loaded: dg.Definitions) -> None:
    specs = {spec.key.to_user_string(): spec for spec in loaded.resolve_all_asset_specs()}
    assert specs["crm/plain"].kinds == {"airbyte", "duckdb"}
    assert specs["airbyte/crm/kunden"].kinds == {"duckdb"}
    assert specs["airbyte/crm/kunden"].group_name == "crm"


def test_all_of_it_runs(location: Any, loaded: dg.Definitions, tmp_path: Path) -> None:
    # Of the sources there is no table.
    graph = loaded.resolve_asset_graph()
    keys = graph.materializable_asset_keys - {dg.AssetKey(["bronze", "raw_reader"])}
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        ran = loaded.resolve_job_def("full_refresh").execute_in_process(instance=instance, asset_selection=[*keys])
        assert ran.success
        built = [event.asset_key for event in ran.get_asset_materialization_events()]
        assert set(built) == keys
        checks = {e.asset_check_key.to_user_string(): e.passed for e in ran.get_asset_check_evaluations()}
    assert all(checks.values())
    assert {f"{key.to_user_string()}:row_count" for key in keys} <= checks.keys()
    of_letters = [check for check in checks if check.startswith("gold/kündigungen:") and "kundigungen" in check]
    assert len(of_letters) == 2  # unique and not_null, apart although Dagster's check names are ASCII
