"""Exports after real builds: gates, the sensor, and what readers see."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest
from lakehouse_analytics.arrivals.connections import connection
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.exports.clickhouse_client import connect
from lakehouse_analytics.settings import Settings

from .conftest import Lakehouse, Outcome
from .databases import Trino

SERVE = """
    models:
      - name: ga
        config: {meta: {lakehouse: {owner: "team:growth", serve: {to: dashboards, table: reporting.ga, key: [n]}}}}
        columns: [{name: n, data_tests: [not_null]}]
      - name: gb
        config: {meta: {lakehouse: {rows: {min: 1}, serve: {to: dashboards, table: reporting.gb}}}}
    """


class Dashboards:
    """The databases with the copies."""

    def __init__(self, url: str) -> None:
        self.connection = connection("dashboards", ["chdb"], {"LAKEHOUSE_CONNECTION_DASHBOARDS": url})

    def rows(self, table: str) -> list[tuple[object, ...]]:
        client = connect(self.connection)
        try:
            if not client.query(f"exists {table}").result_rows[0][0]:
                return []
            return [tuple(row) for row in client.query(f"select * from {table}").result_rows]
        finally:
            client.close()


@pytest.fixture
def dashboards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lakehouse: Lakehouse) -> Dashboards:
    url = f"chdb://{tmp_path}/dashboards"
    monkeypatch.setenv("LAKEHOUSE_CONNECTION_DASHBOARDS", url)
    lakehouse.files["models/gold/gold.yml"] = SERVE
    lakehouse.write()
    return Dashboards(url)


def tick(lakehouse: Lakehouse) -> tuple[set[str], str]:
    """What the sensor requests, and why not more."""
    definitions = lakehouse.definitions()
    sensor = definitions.get_sensor_def("exports_after_builds")
    context = dg.build_sensor_context(instance=lakehouse.instance, repository_def=definitions.get_repository_def())
    data = sensor.evaluate_tick(context)
    requested = {key.to_user_string() for request in data.run_requests or [] for key in request.asset_selection or []}
    return requested, data.skip_message or ""


def export(lakehouse: Lakehouse, keys: set[str]) -> Outcome:
    """Run what the sensor requests."""
    return lakehouse.run("exports", assets=sorted(keys))


BOTH = {"dashboards/reporting/ga", "dashboards/reporting/gb"}


@pytest.mark.engine("duckdb", "trino")
def test_built_tables_are_exported_once(lakehouse: Lakehouse, dashboards: Dashboards) -> None:
    assert tick(lakehouse) == (set(), "All copies are up to date.")
    assert lakehouse.run().success
    requested, _ = tick(lakehouse)
    assert requested == BOTH

    outcome = export(lakehouse, requested)
    assert outcome.success, outcome.failure
    assert outcome.built == BOTH
    assert outcome.checks == {f"{key}:rows_served": True for key in BOTH}
    metadata = outcome.metadata["dashboards/reporting/ga"]
    assert metadata["dagster/row_count"] == 1
    assert metadata["url"] == dashboards.connection.redacted
    assert dashboards.rows("reporting.ga") == lakehouse.sql("select n from gold.ga")
    assert tick(lakehouse) == (set(), "All copies are up to date.")


TYPES = """
    create table raw.types as select * from (values
      (1, bigint '9223372036854775807', decimal '12345.67', 'Zoë', true, date '2026-01-31',
       timestamp '2026-01-31 12:00:00.123456', timestamp '2026-01-31 12:00:00.123456 UTC', x'00ff',
       array['a', null], 1.5e0),
      (2, null, null, null, null, null, null, null, null, null, null)
    ) as t (id, n, price, name, ok, day, at, zoned, bytes, tags, x)"""


@pytest.mark.trino
@pytest.mark.engine("trino")
def test_trino_reads_the_same_by_files_and_by_a_query(lakehouse: Lakehouse) -> None:
    """Without LAKEHOUSE_ICEBERG_CATALOG, a table is read by a query."""
    assert isinstance(lakehouse.database, Trino)
    lakehouse.database.ask(TYPES)
    settings = Settings.load()
    relation = Relation(settings.trino_catalog, "raw", "types")
    found = []
    for catalog in (settings.iceberg_catalog, None):
        engine = settings.engine_type.resource(settings.model_copy(update={"iceberg_catalog": catalog}))
        with engine.read_table(relation, str(relation)) as reader:
            rows = [row for batch in reader.batches for row in batch.to_pylist()]
            assert reader.rows == 2
        found.append(sorted(rows, key=lambda row: row["id"]))
    by_files, by_query = found
    assert by_files[0].pop("tags") == ["a", None]
    assert by_query[0].pop("tags") == '["a",null]'
    assert by_files[1].pop("tags") is by_query[1].pop("tags") is None
    assert by_files == by_query
    assert by_files[0]["price"] == Decimal("12345.67")
    assert by_files[0]["zoned"] == datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)


def test_a_failed_gate_keeps_the_old_copy_and_other_tables_are_exported(
    lakehouse: Lakehouse, dashboards: Dashboards
) -> None:
    assert lakehouse.run().success
    assert export(lakehouse, BOTH).success
    before = dashboards.rows("reporting.ga")

    lakehouse.sql("update raw.a set n = null")  # ga has one row, null
    lakehouse.sql("update raw.b set n = n + 1")
    failed = lakehouse.run()
    assert not failed.success
    assert failed.checks["gold/ga:not_null_ga_n"] is False
    assert "gold/gb" in failed.built

    requested, _ = tick(lakehouse)
    assert requested == {"dashboards/reporting/gb"}
    assert export(lakehouse, requested).success
    assert dashboards.rows("reporting.gb") == lakehouse.sql("select n from gold.gb")
    assert tick(lakehouse) == (set(), "Not exported. dashboards/reporting/ga: gold/ga:not_null_ga_n failed")

    by_hand = export(lakehouse, {"dashboards/reporting/ga"})
    assert not by_hand.success
    assert "gold/ga was not exported to dashboards: its gates do not allow it" in by_hand.failure
    assert "✘ gold/ga:not_null_ga_n failed" in by_hand.failure
    assert dashboards.rows("reporting.ga") == before


def test_a_copy_in_the_run_of_the_build_is_made_after_the_gates(lakehouse: Lakehouse, dashboards: Dashboards) -> None:
    both = ["gold/ga", "gold/gb", *sorted(BOTH)]
    assert lakehouse.run().success
    first = lakehouse.run("__ASSET_JOB", assets=both)
    assert first.success, first.failure
    assert first.built == {*both}

    lakehouse.sql("update raw.a set n = null")
    assert lakehouse.run(assets=["bronze/a", "silver/sa"]).success
    second = lakehouse.run("__ASSET_JOB", assets=both)
    assert not second.success
    assert second.built == {"gold/ga", "gold/gb"}  # Dagster gates a whole step, and the sensor exports gb
    assert tick(lakehouse)[0] == {"dashboards/reporting/gb"}


def test_a_gate_that_was_not_evaluated_since_the_build_closes(lakehouse: Lakehouse, dashboards: Dashboards) -> None:
    assert lakehouse.run().success
    tables = dg.AssetSelection.assets(["gold", "ga"], ["gold", "gb"]).without_checks()
    assert lakehouse.run(checks=tables).success
    late = "has not been evaluated since the table was built"
    assert tick(lakehouse) == (
        set(),
        f"Not exported. dashboards/reporting/ga: gold/ga:not_null_ga_n {late}. "
        f"dashboards/reporting/gb: gold/gb:row_count {late}",
    )


def test_a_running_build_delays_its_exports(lakehouse: Lakehouse, dashboards: Dashboards) -> None:
    assert lakehouse.run().success
    definitions = lakehouse.definitions()
    job = definitions.resolve_job_def("full_refresh")
    planned = lakehouse.instance.create_run_for_job(job, asset_selection=frozenset({dg.AssetKey(["gold", "ga"])}))
    requested, _ = tick(lakehouse)
    assert requested == {"dashboards/reporting/gb"}
    assert export(lakehouse, requested).success
    assert f"dashboards/reporting/ga: run {planned.run_id} has not ended" in tick(lakehouse)[1]
    lakehouse.instance.report_run_canceled(planned)
    assert "gold/ga:not_null_ga_n was planned by run" in tick(lakehouse)[1]


def test_a_connection_that_is_not_set_is_named(
    lakehouse: Lakehouse, dashboards: Dashboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lakehouse.run().success
    monkeypatch.delenv("LAKEHOUSE_CONNECTION_DASHBOARDS")
    requested, reason = tick(lakehouse)
    assert requested == set()
    assert "dashboards/reporting/ga: LAKEHOUSE_CONNECTION_DASHBOARDS is not set" in reason
    failed = export(lakehouse, {"dashboards/reporting/ga"})
    assert not failed.success
    assert "gold/ga was not exported to dashboards: LAKEHOUSE_CONNECTION_DASHBOARDS is not set" in failed.failure


def test_a_copy_for_an_exposure_waits_for_the_gates_of_its_model(lakehouse: Lakehouse, dashboards: Dashboards) -> None:
    lakehouse.files["models/exposures.yml"] = """
        exposures:
          - name: board
            type: dashboard
            owner: {name: Ann, email: ann@shop.com}
            depends_on: [ref('ga'), ref('gb')]
            config: {meta: {lakehouse: {serve: [
              {to: dashboards, table: board.a, model: ga},
              {to: dashboards, table: board.b, model: gb, key: n}]}}}
        """
    lakehouse.write()
    lakehouse.sql("update raw.a set n = null")  # closes the gate of ga
    assert not lakehouse.run().success
    requested, _ = tick(lakehouse)
    assert requested == {"dashboards/reporting/gb", "dashboards/board/b"}
    outcome = export(lakehouse, requested)
    assert outcome.success, outcome.failure
    assert dashboards.rows("board.b") == lakehouse.sql("select n from gold.gb")
    assert dashboards.rows("board.a") == []
    requested, reason = tick(lakehouse)
    assert requested == set()
    assert "dashboards/board/a: gold/ga:not_null_ga_n failed" in reason
    graph = lakehouse.definitions().resolve_asset_graph()
    copy, board = graph.get(dg.AssetKey(["dashboards", "board", "b"])), graph.get(dg.AssetKey(["exposures", "board"]))
    assert copy.owners == ["ann@shop.com"]
    assert copy.parent_keys == {dg.AssetKey(["gold", "gb"])}
    assert copy.key in board.parent_keys
