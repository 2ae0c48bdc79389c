"""Gates between layers, per asset, on real dbt and a real engine."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent

import dagster as dg
import pytest
from lakehouse_analytics.settings import Settings

from .conftest import BELOW_A, EVERYTHING, Lakehouse, Outcome
from .databases import DuckDB

pytestmark = pytest.mark.engine("duckdb", "trino", "postgres")


def test_everything_is_built_layer_by_layer_with_its_metadata(lakehouse: Lakehouse) -> None:
    outcome = lakehouse.run()

    assert outcome.success, outcome.failure
    assert outcome.built == EVERYTHING
    assert outcome.metadata["bronze/a"]["dagster/row_count"] == 100
    assert outcome.metadata["bronze/a"]["unique_ids"] == 100
    assert outcome.metadata["metrics/m"]["dagster/row_count"] == 1
    assert all(seconds["runtime_seconds"] > 0 for seconds in outcome.metadata.values())
    assert outcome.checks.keys() >= {"bronze/a:unique_a_id", "bronze/a:row_count", "gold/gb:row_count"}
    assert all(outcome.checks.values())


def test_a_failed_test_blocks_exactly_its_descendants_and_a_retry_builds_only_those(lakehouse: Lakehouse) -> None:
    lakehouse.sql("insert into raw.a values (1, 0)")  # twice the id 1
    outcome = lakehouse.run()

    assert not outcome.success
    assert outcome.built == EVERYTHING - BELOW_A
    assert outcome.checks["bronze/a:unique_a_id"] is False
    assert outcome.checks["gold/gb:row_count"] is True
    assert "bronze/a failed its gate: unique_a_id" in outcome.failure
    assert "gold/ga was blocked by bronze/a" in outcome.failure
    assert "sb" not in outcome.failure
    assert lakehouse.to_retry(outcome.run_id) == BELOW_A | {"bronze/a"}
    [line] = warnings_of(lakehouse, outcome)
    assert "FAIL 1 unique_a_id" in line

    lakehouse.sql("delete from raw.a where n = 0")
    retry = lakehouse.run(assets=sorted(lakehouse.to_retry(outcome.run_id)))
    assert retry.success, retry.failure
    assert retry.built == BELOW_A | {"bronze/a"}


@pytest.mark.engine("duckdb")
@pytest.mark.nightly
def test_a_warning_that_dbt_takes_for_an_error_gates_and_is_retried(lakehouse: Lakehouse) -> None:
    lakehouse.files["dbt_project.yml"] = dedent(lakehouse.files["dbt_project.yml"]) + "flags: {warn_error: true}\n"
    lakehouse.write()
    lakehouse.sql("update raw.b set n = null where id = 1")
    outcome = lakehouse.run()

    assert not outcome.success
    assert outcome.built == EVERYTHING - {"silver/sb", "gold/gb", "metrics/m"}
    assert outcome.checks["bronze/b:not_null_b_n"] is False
    assert "bronze/b failed its gate: not_null_b_n: Got 1 result" in outcome.failure
    assert lakehouse.to_retry(outcome.run_id) == {"bronze/b", "silver/sb", "gold/gb", "metrics/m"}


@pytest.mark.nightly("trino")
def test_a_gate_holds_when_its_check_is_deselected(lakehouse: Lakehouse) -> None:
    lakehouse.sql("insert into raw.a values (1, 0)")
    tables = dg.AssetSelection.assets(*(key.split("/") for key in sorted(EVERYTHING))).without_checks()
    outcome = lakehouse.run(checks=tables)

    assert not outcome.success
    assert outcome.built == EVERYTHING - BELOW_A
    assert outcome.checks == {}


def test_an_empty_source_is_stopped_by_its_row_count(lakehouse: Lakehouse) -> None:
    lakehouse.sql("delete from raw.a")
    outcome = lakehouse.run()

    assert outcome.built == EVERYTHING - BELOW_A
    assert outcome.checks["bronze/a:row_count"] is False
    assert "the table is empty" in outcome.descriptions["bronze/a:row_count"]
    assert "silver/sa was blocked by bronze/a" in outcome.failure


@pytest.mark.nightly("trino")
def test_an_empty_table_that_says_nothing_of_rows_is_a_warning(lakehouse: Lakehouse) -> None:
    lakehouse.sql("delete from raw.b")
    outcome = lakehouse.run()

    assert outcome.success, outcome.failure
    assert outcome.checks["bronze/b:row_count"] is False
    assert outcome.built == EVERYTHING


@pytest.mark.nightly("trino", "postgres")
def test_a_drop_is_judged_against_the_last_passed_count_until_somebody_accepts_it(lakehouse: Lakehouse) -> None:
    first = lakehouse.run(assets=["bronze/a"])
    assert "no earlier count" in first.descriptions["bronze/a:row_count"]

    lakehouse.sql("delete from raw.a where id > 40")
    for _ in range(2):  # a failed count must not become the new normal
        again = lakehouse.run(assets=["bronze/a"])
        assert "60% fewer than the 100 of the last passed check" in again.descriptions["bronze/a:row_count"]

    accepted = lakehouse.run(assets=["bronze/a"], config={"accept_row_counts": ["a"]})
    assert accepted.success, accepted.failure
    assert lakehouse.run(assets=["bronze/a"]).success


def test_a_model_error_names_its_file_and_line_and_skips_only_what_is_below(
    lakehouse: Lakehouse, capfd: pytest.CaptureFixture[str]
) -> None:
    lakehouse.files["models/silver/sa.sql"] = "select\n    id,\n    no_such_column + 1 as n\nfrom {{ ref('a') }}\n"
    lakehouse.write()
    outcome = lakehouse.run()

    assert outcome.built == EVERYTHING - BELOW_A
    assert "silver/sa was not built: models/silver/sa.sql:3: " in outcome.failure
    assert outcome.failure.count("models/silver/sa.sql") == 1
    assert "no_such_column" in outcome.failure
    assert "metrics/m was blocked by silver/sa" in outcome.failure
    # The error is said in full once; when the model fails, a line says so.
    [line] = warnings_of(lakehouse, outcome)
    assert "ERROR creating" in line
    assert "no_such_column" not in line
    # dbt's own output is whole, except for a file that is gone when the run ends.
    output = capfd.readouterr().out
    assert "Completed with 1 error" in output
    assert "compiled code at" not in output


def test_a_dbt_that_crashes_before_any_node_fails_the_run(lakehouse: Lakehouse) -> None:
    definitions = lakehouse.definitions()
    # After the manifest was made, so that only dbt at run time sees it.
    (lakehouse.project / "dbt_project.yml").write_text("name: small")
    outcome = _executed(lakehouse, definitions)

    assert not outcome.success
    assert outcome.built == set()
    assert "dbt crashed (exit code 2) while building 7 tables" in outcome.failure
    assert "no profile was specified" in outcome.failure


@pytest.mark.nightly("trino")
def test_a_parsed_project_that_is_gone_is_one_error(lakehouse: Lakehouse) -> None:
    definitions = lakehouse.definitions()
    parsed = Settings.load().target_path / "partial_parse.msgpack"
    parsed.unlink()
    outcome = _executed(lakehouse, definitions)

    assert outcome.built == set()
    assert f"{parsed} does not exist: run `lakehouse manifest`" in outcome.failure

    parsed.write_bytes(b"{}")
    assert f"{parsed} cannot be read: run `lakehouse manifest`" in _executed(lakehouse, definitions).failure


def _executed(lakehouse: Lakehouse, definitions: dg.Definitions) -> Outcome:
    result = definitions.resolve_job_def("full_refresh").execute_in_process(
        instance=lakehouse.instance, raise_on_error=False
    )
    return lakehouse.outcome(result.run_id, result.success)


@pytest.mark.nightly("trino")
def test_a_planned_check_is_evaluated_whatever_the_environment_of_the_run_says(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.files["models/bronze/bronze.yml"] = """
        models:
          - name: a
            columns:
              - name: id
                data_tests: [{unique: {config: {enabled: "{{ env_var('CHECKED', 'yes') == 'yes' }}"}}}]
        """
    lakehouse.write()
    definitions = lakehouse.definitions()
    monkeypatch.setenv("CHECKED", "no")  # a dbt that parses would not know the test
    outcome = _executed(lakehouse, definitions)

    assert outcome.success, outcome.failure
    assert outcome.checks["bronze/a:unique_a_id"] is True


@pytest.mark.engine("duckdb")
def test_what_dbt_gives_up_is_named(lakehouse: Lakehouse) -> None:
    lakehouse.files["dbt_project.yml"] = dedent(lakehouse.files["dbt_project.yml"]) + "flags: {fail_fast: true}\n"
    lakehouse.write()
    lakehouse.sql("insert into raw.a values (1, 0)")
    outcome = lakehouse.run()

    assert not outcome.success
    assert "bronze/a failed its gate: unique_a_id" in outcome.failure
    assert "dbt skipped it: Skipping due to fail_fast" in outcome.failure
    assert outcome.built < EVERYTHING - BELOW_A | {"bronze/a"}


@pytest.mark.nightly("trino")
def test_a_warning_does_not_block(lakehouse: Lakehouse) -> None:
    lakehouse.sql("insert into raw.b values (101, null)")
    outcome = lakehouse.run()

    assert outcome.success, outcome.failure
    assert outcome.checks["bronze/b:not_null_b_n"] is False
    assert outcome.built == EVERYTHING


@pytest.mark.nightly("trino")
def test_a_failed_source_test_blocks_what_reads_the_source(lakehouse: Lakehouse) -> None:
    lakehouse.files["models/sources.yml"] = """
        sources:
          - name: raw
            schema: raw
            tables: [{name: a, columns: [{name: n, data_tests: [not_null]}]}, {name: b}]
        """
    lakehouse.write()
    lakehouse.sql("insert into raw.a values (101, null)")
    outcome = lakehouse.run()

    assert outcome.built == EVERYTHING - BELOW_A - {"bronze/a"}
    assert outcome.checks["raw/a:source_not_null_raw_a_n"] is False
    assert "bronze/a was blocked by raw/a" in outcome.failure


@pytest.mark.nightly("trino")
def test_checks_alone_are_evaluated_without_building(lakehouse: Lakehouse) -> None:
    assert lakehouse.run().success
    lakehouse.sql("insert into bronze.a values (1, 0)")
    outcome = lakehouse.run(checks=dg.AssetSelection.checks_for_assets(["bronze", "a"]))

    assert outcome.built == set()
    assert outcome.checks == {"bronze/a:unique_a_id": False, "bronze/a:row_count": True}
    assert not outcome.success


@pytest.mark.nightly("trino")
def test_a_subset_is_gated_like_the_whole(lakehouse: Lakehouse) -> None:
    assert lakehouse.run().success
    lakehouse.sql("insert into raw.a values (1, 0)")
    outcome = lakehouse.run(assets=["bronze/a", "silver/sa", "silver/sb"])

    assert outcome.built == {"bronze/a", "silver/sb"}
    assert not outcome.success


def test_a_dropped_table_is_healed_by_the_next_run(lakehouse: Lakehouse) -> None:
    assert lakehouse.run().success
    before = lakehouse.sql("select * from metrics.m")
    lakehouse.sql("drop table silver.sa")
    assert lakehouse.run().success
    assert lakehouse.sql("select * from metrics.m") == before
    assert lakehouse.sql("select count(*) from silver.sa") == [(100,)]


def test_a_column_that_is_not_there_fails_the_row_count_of_its_table_only(lakehouse: Lakehouse) -> None:
    lakehouse.files["models/bronze/bronze.yml"] = """
        models:
          - {name: a, config: {meta: {lakehouse: {rows: {min: 1}, distinct: [ids]}}}}
        """
    lakehouse.write()
    outcome = lakehouse.run()

    assert outcome.built == EVERYTHING - BELOW_A
    assert outcome.metadata["bronze/b"]["dagster/row_count"] == 100
    assert "bronze/a failed its gate: row_count: cannot be counted" in outcome.failure
    assert re.search(r"['\"]ids['\"]", outcome.failure)
    assert outcome.checks["bronze/a:row_count"] is False
    assert lakehouse.to_retry(outcome.run_id) == BELOW_A | {"bronze/a"}


@pytest.fixture
def holder(lakehouse: Lakehouse) -> subprocess.Popen[str]:
    """Another process that has the database open for writing."""
    lakehouse.definitions()
    assert isinstance(lakehouse.database, DuckDB)
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.readline()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lakehouse.database.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.engine("duckdb")
def test_a_database_held_by_another_process_is_waited_for_then_named(
    lakehouse: Lakehouse, holder: subprocess.Popen[str]
) -> None:
    try:
        outcome = lakehouse.run()
    finally:
        holder.communicate("\n")

    assert outcome.built == set()
    assert "small.duckdb is locked by" in outcome.failure
    assert f"PID {holder.pid}" in outcome.failure
    assert "LAKEHOUSE_DUCKDB_LOCK_TIMEOUT" in outcome.failure

    assert lakehouse.run().success


@pytest.mark.nightly("trino")
def test_a_failing_hook_fails_the_run(lakehouse: Lakehouse) -> None:
    project = lakehouse.files["dbt_project.yml"].rstrip()
    lakehouse.files["dbt_project.yml"] = project + '\n        on-run-end: "select * from bronze.no_such_table"\n'
    lakehouse.write()
    outcome = lakehouse.run(assets=["bronze/b"])

    assert outcome.built == {"bronze/b"}
    assert not outcome.success
    assert "operation.small.small-on-run-end-0" in outcome.failure
    assert "no_such_table" in outcome.failure


@pytest.mark.nightly("trino")
def test_a_row_count_gates_inside_a_layer_too(lakehouse: Lakehouse) -> None:
    lakehouse.files["models/bronze/a2.sql"] = "select * from {{ ref('a') }}"
    lakehouse.write()
    lakehouse.sql("delete from raw.a")
    outcome = lakehouse.run(assets=["bronze/a", "bronze/a2"])

    assert outcome.built == {"bronze/a"}
    assert "bronze/a2 was blocked by bronze/a" in outcome.failure


@pytest.mark.nightly("trino")
def test_a_check_asked_for_without_its_table_gates_what_is_built_below_it(lakehouse: Lakehouse) -> None:
    assert lakehouse.run().success
    lakehouse.sql("delete from bronze.a")
    checks = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["bronze", "a"]), "row_count"))
    outcome = lakehouse.run(checks=checks | dg.AssetSelection.assets(["silver", "sa"]))

    assert outcome.built == set()
    assert outcome.checks["bronze/a:row_count"] is False
    assert "silver/sa was blocked by bronze/a" in outcome.failure


@pytest.mark.nightly("trino")
def test_a_model_named_like_a_folder_is_built_without_the_folder(lakehouse: Lakehouse) -> None:
    lakehouse.files["models/bronze/a/extra.sql"] = "select 1 as x"
    lakehouse.write()
    outcome = lakehouse.run(assets=["bronze/a"])

    assert outcome.success, outcome.failure
    assert lakehouse.sql("select count(*) from information_schema.tables where table_name = 'extra'") == [(0,)]


@pytest.mark.nightly("trino")
def test_a_misspelt_acceptance_names_the_nearest_model(lakehouse: Lakehouse) -> None:
    lakehouse.files["models/bronze/orders.sql"] = "select 1 as x"
    lakehouse.write()
    outcome = lakehouse.run(assets=["bronze/orders"], config={"accept_row_counts": ["order"]})

    assert outcome.built == set()
    assert "there is no model 'order'; did you mean orders?" in outcome.failure


def warnings_of(lakehouse: Lakehouse, outcome: Outcome) -> list[str]:
    """What a run logged from the level of warnings on, except Dagster's own events."""
    logs = lakehouse.instance.all_logs(outcome.run_id)
    return [entry.user_message for entry in logs if entry.dagster_event is None and int(entry.level) >= logging.WARNING]


@pytest.mark.engine("duckdb")
def test_what_is_built_is_told_while_the_rest_is_being_built(
    lakehouse: Lakehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last table waits for a file, which is written when everything before it stands in Dagster."""
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    del lakehouse.files["models/metrics/m.sql"]
    (lakehouse.project / "models/metrics/m.sql").unlink()
    lakehouse.files["models/metrics/m.py"] = """
        import os, pathlib, time

        def model(dbt, session):
            dbt.ref("sa")
            for _ in range(1200):
                if pathlib.Path(os.environ["GO"]).exists():
                    break
                time.sleep(0.1)
            else:
                raise RuntimeError("the file GO did not appear")
            return session.sql("select 1 as x")
        """
    lakehouse.write()
    lakehouse.definitions()  # parses here, not while the clock of the model runs
    expected = {*EVERYTHING, "bronze/a:unique_a_id", "gold/gb:row_count"} - {"metrics/m"}

    def watch() -> None:
        while not expected <= seen:
            for run in lakehouse.instance.get_runs():
                for record in lakehouse.instance.all_logs(run.run_id):
                    event = record.dagster_event
                    if event and event.is_step_materialization and event.asset_key:
                        seen.add(event.asset_key.to_user_string())
                    if check := record.asset_check_evaluation:
                        seen.add(f"{check.asset_key.to_user_string()}:{check.check_name}")
            if stopped.wait(0.1):
                return
        (tmp_path / "go").touch()

    seen: set[str] = set()
    stopped = threading.Event()
    watching = threading.Thread(target=watch)
    watching.start()
    outcome = lakehouse.run()
    stopped.set()
    watching.join()

    assert outcome.success, outcome.failure
    assert outcome.built == EVERYTHING
