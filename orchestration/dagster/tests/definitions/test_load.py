"""How the code location loads: quietly, cheaply, or with one clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from lakehouse_analytics.assets.gates.plan import Selection
from lakehouse_analytics.contract.models import LAYERS
from lakehouse_analytics.dbt.project import ManifestError
from lakehouse_analytics.settings import SettingsError

PROBE = """
import json, sys
import dagster  # its own import may do as it likes; what comes after is ours
before = {name.partition(".")[0] for name in sys.modules}
seen = []
processes = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.exec")
watched = (*processes, "socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, args: seen.append(event) if event in watched else None)
from lakehouse_analytics.definitions import defs
keys = sorted(key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys())
after = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"seen": seen, "modules": sorted(after), "keys": keys}))
"""

#: Each costs every process that loads the location; they belong to runs.
HEAVY = {
    *("agate", "alembic", "dagster_dbt", "dagster_webserver", "dbt", "duckdb", "grpc", "jinja2", "numpy", "pandas"),
    *("pyarrow", "requests", "sqlalchemy", "sqlglot", "trino"),
}


AIRBYTE = {
    "LAKEHOUSE_AIRBYTE_URL": "http://127.0.0.1:9/api/public/v1",
    "LAKEHOUSE_AIRBYTE_CLIENT_ID": "the-id",
    "LAKEHOUSE_AIRBYTE_CLIENT_SECRET": "the-secret",
}


@pytest.fixture(scope="module", params=[{}, AIRBYTE], ids=["alone", "with Airbyte"])
def loaded(local: Any, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    """What a fresh interpreter, somewhere else, saw while it loaded the location."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_", "PYTHON"))}
    child = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**bare, **local.variables, **request.param},
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def test_a_fresh_interpreter_loads_the_location(loaded: Any, definitions: dg.Definitions) -> None:
    keys = sorted(key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys())
    assert loaded["keys"] == keys
    assert {key.split("/")[0] for key in keys} >= set(LAYERS)


def test_loading_imports_nothing_heavy(loaded: Any) -> None:
    assert "lakehouse_analytics" in loaded["modules"]
    assert HEAVY & set(loaded["modules"]) == set()


def test_loading_starts_no_process_and_opens_no_connection(loaded: Any) -> None:
    assert loaded["seen"] == []


def test_the_location_loads_as_dagster_validates_it(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_with_airbyte_a_sensor_a_job_and_a_check_of_every_source_are_there(local: Any) -> None:
    location = type(local)({**local.variables, **AIRBYTE})
    definitions = location.load()
    repository = definitions.get_repository_def()
    repository.load_all_definitions()  # as a code server
    bronze = {dg.AssetKey(table.key) for table in local.graph.tables.values() if table.layer == "bronze"}
    sensor = repository.get_sensor_def("airbyte_sync_sensor")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.targets[0].job_name in repository.job_names
    assert repository.get_job(sensor.targets[0].job_name).asset_layer.selected_asset_keys == bronze
    assert repository.has_job("airbyte_sync")
    checks = {key for key in definitions.resolve_asset_graph().asset_check_keys if key.name == "airbyte_sync"}
    assert {key.asset_key for key in checks} == {dg.AssetKey(source.key) for source in local.graph.sources.values()}
    for job in ("full_refresh", "bronze_refresh"):
        layer = definitions.resolve_job_def(job).asset_layer
        assert not checks & {*layer.asset_graph.asset_check_keys}


def test_every_job_has_assets_or_checks(definitions: dg.Definitions) -> None:
    jobs = {job.name: job for job in definitions.resolve_all_job_defs()}
    assert {"bronze_refresh", "full_refresh", "customer_pipeline"} <= set(jobs)
    for job in jobs.values():
        assert job.asset_layer.selected_asset_keys or job.asset_layer.asset_graph.asset_check_keys
    sources = {dg.AssetKey(["faker", table]) for table in ("products", "purchases", "users")}
    freshness = {dg.AssetCheckKey(source, "freshness") for source in sources}
    assert jobs["source_freshness"].asset_layer.asset_graph.asset_check_keys == freshness
    assert freshness <= jobs["full_refresh"].asset_layer.asset_graph.asset_check_keys
    assert freshness.isdisjoint(jobs["bronze_refresh"].asset_layer.asset_graph.asset_check_keys)
    full = jobs["full_refresh"].asset_layer.selected_asset_keys
    months = jobs["monthly_refresh"].asset_layer.selected_asset_keys
    # Dagster runs no two grains at once; days go with what is built as a whole.
    assert months == {dg.AssetKey(["metrics", "revenue_monthly"])}
    assert full == definitions.resolve_asset_graph().materializable_asset_keys - months


def test_the_daily_schedule_follows_the_environment(local: Any) -> None:
    changed = type(local)(
        {**local.variables, "LAKEHOUSE_TIMEZONE": "Asia/Tokyo", "LAKEHOUSE_DAILY_REFRESH_CRON": "30 4 * * *"}
    )
    schedule = changed.load().resolve_schedule_def("daily_refresh")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 4 * * *", "Asia/Tokyo")


def test_every_job_ends_a_run_after_the_longest_time(local: Any) -> None:
    changed = type(local)({**local.variables, "LAKEHOUSE_MAX_RUNTIME": "7200"})
    jobs = changed.load().resolve_all_job_defs()
    assert {job.tags.get("dagster/max_runtime") for job in jobs if not job.name.startswith("__")} == {"7200"}


def test_maintenance_is_a_job_and_a_schedule_where_there_is_iceberg(local: Any, trino: Any) -> None:
    changed = type(trino)({**trino.variables, "LAKEHOUSE_MAINTENANCE_CRON": "15 5 * * *"})
    definitions = changed.load()
    job = definitions.resolve_job_def("iceberg_maintenance")
    assert {key.path[0] for key in job.asset_layer.selected_asset_keys} == {"maintenance"}
    looked_after = {tuple(key.path[1:]) for key in job.asset_layer.selected_asset_keys}
    synced = {source.key for source in trino.graph.sources.values() if source.contract.airbyte}
    assert looked_after == synced | {table.key for table in trino.graph.tables.values()}
    schedules = {schedule.name: schedule for schedule in definitions.schedules or []}
    assert schedules["iceberg_maintenance"].cron_schedule == "15 5 * * *"
    full = definitions.resolve_job_def("full_refresh").asset_layer.selected_asset_keys
    assert not {key for key in full if key.path[0] == "maintenance"}

    assert not [job for job in local.load().resolve_all_job_defs() if job.name == "iceberg_maintenance"]


def test_the_floor_of_retention_is_a_duration(trino: Any) -> None:
    changed = type(trino)({**trino.variables, "LAKEHOUSE_MAINTENANCE_FLOOR": "8d"})
    assert changed.load()  # the default retention gives way
    with pytest.raises(SettingsError, match=r"LAKEHOUSE_MAINTENANCE_FLOOR: expected a duration such as 30m, 26h or 7d"):
        type(trino)({**trino.variables, "LAKEHOUSE_MAINTENANCE_FLOOR": "a week"})


def test_a_wrong_environment_is_one_error(local: Any) -> None:
    local_variables = {**local.variables}
    broken = type(local)(local_variables)
    broken.variables["LAKEHOUSE_TIMEZONE"] = "Mars/Olympus"
    with pytest.raises(SettingsError, match="LAKEHOUSE_TIMEZONE"):
        broken.load()


def test_another_database_makes_the_manifest_stale(local: Any) -> None:
    elsewhere = type(local)({**local.variables, "LAKEHOUSE_DUCKDB_PATH": "/data/other.duckdb"})
    with pytest.raises(ManifestError, match=r"database \(it was 'lakehouse', is 'other' now; it reads LAKE"):
        elsewhere.load()


def test_the_trino_target_has_the_same_assets(local: Any, trino: Any) -> None:
    ours, theirs = local.graph, trino.graph
    assert theirs.adapter == "trino"
    assert {t.key for t in theirs.tables.values()} == {t.key for t in ours.tables.values()}
    assert {s.key for s in theirs.sources.values()} == {s.key for s in ours.sources.values()}
    assert {(t.name, t.attached) for t in theirs.tests.values()} == {(t.name, t.attached) for t in ours.tests.values()}
    assert theirs.ranks == ours.ranks
    plans = [Selection(graph, frozenset(graph.tables)).plan() for graph in (ours, theirs)]
    assert {*plans[0].nodes} == {*plans[1].nodes}
    assert {*plans[0].edges} == {*plans[1].edges}


def test_every_layer_has_a_schema_of_its_name_on_every_target(local: Any, trino: Any) -> None:
    for location in (local, trino):
        assert {(t.layer, t.node.schema) for t in location.graph.tables.values()} == {(x, x) for x in LAYERS}


def test_the_code_references_point_at_files(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        if references := spec.metadata.get("dagster/code_references"):
            assert all(Path(r.file_path).is_file() for r in references.code_references)
