"""A Python asset of the user's between dbt models: built in its place, and gates hold through it.

raw.a → bronze a → silver sa → python/scores (Python) → gold scored (dbt, reads the source python.scores) → metrics best
raw.b → bronze b → silver sb → gold gb
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.own_defs import own_defs

from .conftest import BELOW_A, EVERYTHING, Lakehouse, Outcome

SCORES = """
    import dagster as dg
    from lakehouse_analytics.resources import DuckDBResource

    @dg.asset(key=["python", "scores"], deps=[dg.AssetKey(["silver", "sa"])])
    def scores(duckdb: DuckDBResource) -> None:
        with duckdb.get_connection() as connection:
            faults = [fault for (fault,) in connection.execute("select what from raw.faults").fetchall()]
            if "fails" in faults:
                raise ValueError("the model file is missing")
            connection.execute("create schema if not exists python")
            connection.execute("create or replace table python.scores as select id, n * 10 as score from silver.sa")
            if "null" in faults:
                connection.execute("update python.scores set score = null where id = 1")
            if "lost" in faults:
                connection.execute("delete from python.scores where id = 1")
    """
FILES = {
    "models/sources.yml": """
        sources:
          - name: raw
            schema: raw
            tables: [{name: a}, {name: b}]
          - name: python
            schema: python
            tables:
              - name: scores
                columns: [{name: score, data_tests: [not_null]}]
        """,
    "models/gold/scored.sql": "select id, score from {{ source('python', 'scores') }}",
    "models/metrics/best.sql": "select max(score) as score from {{ ref('scored') }}",
    "models/silver/silver.yml": """
        models:
          - name: sa
            columns:
              - name: id
                data_tests: [{relationships: {arguments: {to: ref('scored'), field: id}}}]
        """,
}


BELOW_SCORES = {"gold/scored", "metrics/best"}
ALL = EVERYTHING | BELOW_SCORES | {"python/scores"}
NOT_NULL, RELATIONSHIPS = "python/scores:source_not_null_python_scores_score", "relationships_sa_id__id__ref_scored_"


@pytest.fixture
def scored(lakehouse: Lakehouse, tmp_path: Path) -> Iterator[Lakehouse]:
    lakehouse.files |= FILES
    lakehouse.write()
    lakehouse.sql("create table raw.faults (what text)")
    with own_defs(tmp_path / "defs", {"scores.py": SCORES}):
        yield lakehouse


def skipped(lakehouse: Lakehouse, outcome: Outcome) -> dict[str, str]:
    """The steps that did not run, and why, as the run's log says."""
    logs = lakehouse.instance.all_logs(outcome.run_id)
    lines = [record.user_message for record in logs if "Not executing" in (record.user_message or "")]
    return {line.split()[3]: line for line in lines}


def test_data_goes_through_the_python_asset_in_one_run_and_its_tests_come_after_it(scored: Lakehouse) -> None:
    outcome = scored.run()
    assert outcome.success, outcome.failure
    assert outcome.built == ALL
    assert scored.sql("select score from metrics.best") == [(10010,)]
    assert outcome.checks[NOT_NULL] is True
    assert outcome.checks[f"silver/sa:{RELATIONSHIPS}"] is True
    assert outcome.metadata["gold/scored"]["dagster/row_count"] == 100

    # Without the asset between them, two tables are one step.
    some = scored.run(assets=["silver/sa", "gold/scored"])
    assert some.success, some.failure
    assert some.built == {"silver/sa", "gold/scored"}


def test_tables_below_a_python_asset_that_fails_are_skipped_and_a_retry_builds_them(scored: Lakehouse) -> None:
    scored.sql("insert into raw.faults values ('fails')")
    outcome = scored.run()
    assert not outcome.success
    assert outcome.built == EVERYTHING
    assert "the model file is missing" in outcome.failure
    assert skipped(scored, outcome) == {
        "build_2": "Dependencies for step build_2 failed: ['python__scores']. Not executing."
    }
    assert scored.to_retry(outcome.run_id) == {"python/scores"} | BELOW_SCORES

    scored.sql("delete from raw.faults")
    retry = scored.run(assets=sorted(scored.to_retry(outcome.run_id)))
    assert retry.success, retry.failure
    assert retry.built == {"python/scores"} | BELOW_SCORES


def test_a_failed_gate_above_a_python_asset_stops_it_and_what_is_below(scored: Lakehouse) -> None:
    scored.sql("insert into raw.a values (1, 0)")  # twice the id 1
    outcome = scored.run()
    assert not outcome.success
    assert outcome.built == EVERYTHING - BELOW_A
    assert "bronze/a failed its gate: unique_a_id" in outcome.failure
    assert skipped(scored, outcome).keys() == {"python__scores", "build_2"}
    assert scored.to_retry(outcome.run_id) == BELOW_A | {"bronze/a", "python/scores"} | BELOW_SCORES


def test_a_dbt_test_of_the_python_asset_gates_what_reads_it(scored: Lakehouse) -> None:
    scored.sql("insert into raw.faults values ('null')")
    outcome = scored.run()
    assert not outcome.success
    assert outcome.built == EVERYTHING | {"python/scores"}
    assert outcome.checks[NOT_NULL] is False
    assert "python/scores failed its gate: source_not_null_python_scores_score: Got 1 result" in outcome.failure
    assert "gold/scored was blocked by python/scores" in outcome.failure


@pytest.mark.nightly
def test_a_test_that_waits_for_the_python_asset_fails_the_run(scored: Lakehouse) -> None:
    scored.sql("insert into raw.faults values ('lost')")
    outcome = scored.run()
    assert not outcome.success
    assert outcome.built == ALL
    assert outcome.checks[f"silver/sa:{RELATIONSHIPS}"] is False
