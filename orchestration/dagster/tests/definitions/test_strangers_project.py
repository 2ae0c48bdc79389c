"""A dbt project that was not written for this package: staging, intermediate, marts; no change in Python."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from lakehouse_analytics.common import load_warnings
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.project import STAMP, ManifestError

FILES = {
    "dbt_project.yml": """
name: jaffle
profile: jaffle
models:
  jaffle:
    staging:
      +materialized: view
      +meta: {lakehouse: {layer: bronze, owner: team:platform}}
    intermediate:
      +meta: {lakehouse: {layer: silver}}
    marts:
      +materialized: table
      +meta: {lakehouse: {layer: gold, rows: {min: 1, drift: {}}}}
      finance:
        +meta: {lakehouse: {rows: {max_drop: 0.5}}}
seeds:
  jaffle:
    +meta: {lakehouse: {layer: bronze}}
""",
    "profiles.yml": """
jaffle:
  target: local
  outputs:
    local: {type: duckdb, path: "{{ env_var('LAKEHOUSE_DUCKDB_PATH') }}"}
""",
    "models/staging/sources.yml": """
sources:
  - name: shop-system
    tables:
      - name: orders$v2
        columns: [{name: id, data_tests: [not_null]}]
""",
    "models/staging/stg_orders.sql": "select * from {{ source('shop-system', 'orders$v2') }}",
    "models/staging/base/base_orders.sql": (
        "{{ config(materialized='ephemeral') }}\nselect * from {{ ref('stg_orders') }}"
    ),
    "models/intermediate/int_orders.sql": "select o.* from {{ ref('base_orders') }} o, {{ ref('kinds') }}",
    "models/marts/finance/fct_orders.sql": "select * from {{ ref('int_orders') }}",
    "models/marts/fct.yml": """
models:
  - name: fct_orders
    config: {meta: {lakehouse: {rows: {min: 5}}}}
    columns:
      - name: id
        data_tests:
          - not_null: {name: "an-order-has-an-id"}
          - unique: {config: {severity: warn}}
""",
    "models/scratch/adhoc.sql": "select * from {{ ref('fct_orders') }}",
    "models/exposures.yml": """
exposures:
  - name: board
    type: dashboard
    owner: {name: Board, email: the board}
    depends_on: [ref('fct_orders')]
    config: {meta: {lakehouse: {serve: {to: ch, table: reports.board, key: [id]}}}}
""",
    "seeds/kinds.csv": "id,name\n1,a\n",
    "tests/orders_add_up.sql": "select 1 from {{ ref('int_orders') }}, {{ ref('fct_orders') }} where false",
}


@pytest.fixture(scope="module")
def stranger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, local: Any) -> Any:
    folder = tmp_path_factory.mktemp("stranger") / "jaffle"
    return type(local).written(folder, FILES, variables(folder))


def variables(folder: Path) -> dict[str, str]:
    return {"LAKEHOUSE_DBT_PROJECT_DIR": str(folder), "LAKEHOUSE_DUCKDB_PATH": str(folder.parent / "jaffle.duckdb")}


@pytest.fixture
def copy(stranger: Any, tmp_path: Path) -> Any:
    """The project and its manifest, to be broken."""
    shutil.copytree(stranger.project.project_dir, tmp_path / "jaffle")
    return type(stranger)(variables(tmp_path / "jaffle"))


def test_keys_groups_and_lineage_are_as_the_folders_say(stranger: Any) -> None:
    graph = stranger.load().resolve_asset_graph()
    nodes = {node.key.to_user_string(): node for node in graph.asset_nodes}
    assert {key: node.group_name for key, node in nodes.items()} == {
        "shop-system/orders_v2": "sources",
        "bronze/stg_orders": "bronze",
        "bronze/kinds": "bronze",
        "silver/int_orders": "silver",
        "gold/fct_orders": "gold",
        "default/adhoc": "default",
        "exposures/board": "exposures",
        "ch/reports/board": "exports",
    }
    deps = {key: sorted(parent.to_user_string() for parent in node.parent_keys) for key, node in nodes.items()}
    assert deps["bronze/stg_orders"] == ["shop-system/orders_v2"]
    assert deps["silver/int_orders"] == ["bronze/kinds", "bronze/stg_orders"]  # through the ephemeral model
    assert deps["exposures/board"] == ["ch/reports/board", "gold/fct_orders"]
    assert deps["ch/reports/board"] == ["gold/fct_orders"]
    assert nodes["bronze/stg_orders"].owners == ["team:platform"]
    assert nodes["exposures/board"].owners == []


def test_contracts_of_folders_and_model_add_up(stranger: Any) -> None:
    rows = stranger.graph.by_key["gold", "fct_orders"].contract.rows
    assert (rows.min, rows.max_drop) == (5, 0.5)
    assert rows.drift is not None


def test_checks_are_those_of_dbt_and_of_the_contract(stranger: Any) -> None:
    graph = stranger.load().resolve_asset_graph()
    checks = {key.to_user_string(): graph.get(key).blocking for key in graph.asset_check_keys}
    assert checks == {
        "shop-system/orders_v2:source_not_null_shop_system_orders_v2_id": True,
        "bronze/stg_orders:row_count": False,
        "bronze/kinds:row_count": False,
        "silver/int_orders:row_count": False,
        "gold/fct_orders:row_count": True,
        "gold/fct_orders:row_count_drift": False,
        "gold/fct_orders:an_order_has_an_id": True,
        "gold/fct_orders:unique_fct_orders_id": False,
        "gold/fct_orders:orders_add_up": True,
        "default/adhoc:row_count": False,
        "ch/reports/board:rows_served": False,
    }


def test_an_unmapped_model_is_a_warning_once_and_no_error(
    stranger: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_warnings, "_logged_warnings", set())
    with caplog.at_level(logging.WARNING):
        stranger.load()
        stranger.load()
    [warning] = [r.getMessage() for r in caplog.records if "no layer" in r.getMessage()]
    assert warning.startswith("1 model has no layer, so `default` is used: adhoc.")


def test_its_jobs_exist_as_far_as_its_assets_do(stranger: Any) -> None:
    definitions = stranger.load()
    dg.Definitions.validate_loadable(definitions)
    jobs = {job.name: job for job in definitions.resolve_all_job_defs()}
    assert {"full_refresh", "bronze_refresh"} <= set(jobs)
    assert "customer_pipeline" not in jobs
    refreshed = jobs["bronze_refresh"].asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in refreshed} == {"bronze/stg_orders", "bronze/kinds"}
    assert {"daily_refresh"} == {schedule.name for schedule in definitions.schedules or []}


def test_a_missing_manifest_is_one_error_with_its_mend(copy: Any) -> None:
    copy.project.manifest_path.unlink()
    with pytest.raises(ManifestError) as caught:
        copy.load()
    assert str(caught.value) == f"There is no manifest at {copy.project.manifest_path}. Make it: lakehouse manifest"


def test_a_stale_manifest_is_one_error_with_its_mend(copy: Any) -> None:
    (copy.project.project_dir / "models/scratch/adhoc.sql").write_text("select 1")
    with pytest.raises(ManifestError) as caught:
        copy.load()
    assert "changed since it was made: models/scratch/adhoc.sql. Make it again: lakehouse manifest" in str(caught.value)


def test_mistakes_in_contracts_are_one_error_that_names_them_all(copy: Any) -> None:
    file = copy.project.project_dir / "dbt_project.yml"
    file.write_text(
        file.read_text().replace("max_drop: 0.5", "max_drop: half").replace("layer: silver", "layr: silver")
    )
    (copy.project.target_path / STAMP).write_text(json.dumps(copy.project.fingerprint()))
    with pytest.raises(ContractError) as caught:
        copy.load()
    lines = sorted(str(caught.value).splitlines(), key=lambda line: "int_orders" not in line)
    assert len(lines) == 2
    texts = file.read_text().splitlines()
    wrong, half = (next(n for n, text in enumerate(texts, 1) if part in text) for part in ("layr:", "half"))
    key = "unknown key meta.lakehouse.layr; did you mean `layer`?"
    assert lines[0].startswith(f"dbt_project.yml:{wrong}: model int_orders: {key}")
    assert lines[1].startswith(f"dbt_project.yml:{half}: model fct_orders: meta.lakehouse.rows.max_drop is 'half'")


def test_a_project_that_dbt_cannot_parse_keeps_its_manifest_and_shows_dbts_words(copy: Any) -> None:
    before = copy.project.manifest_path.read_bytes()
    (copy.project.project_dir / "models/scratch/adhoc.sql").write_text("select * from {{ ref('nobody') }}")
    with pytest.raises(ManifestError, match="nobody"):
        copy.prepare()
    assert copy.project.manifest_path.read_bytes() == before
    assert copy.project.changes() == ["models/scratch/adhoc.sql"]
