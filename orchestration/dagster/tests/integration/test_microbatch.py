"""A microbatch model of which some batches fail, on real dbt."""

from __future__ import annotations

import pytest

from .conftest import FILES, Lakehouse

DAYS = ("2026-01-01", "2026-01-05")
PROJECT = {
    **{name: FILES[name] for name in ("dbt_project.yml", "macros/query_comment.sql")},
    "macros/generate_schema_name.sql": FILES["macros/generate_schema_name.sql"],
    "models/silver/events.sql": """
        {{ config(
            materialized='incremental', incremental_strategy='microbatch', event_time='happened', begin='2026-01-01',
            batch_size='day', meta={'lakehouse': {'partition': 'daily'}}
        ) }}
        {% if model.batch and execute %}
            {% set day = model.batch.event_time_start.strftime('%Y-%m-%d') %}
            {% if run_query("select 1 from raw.bad where day = '" ~ day ~ "'").rows | length %}
                {{ exceptions.raise_compiler_error('this day is bad: ' ~ day) }}
            {% endif %}
        {% endif %}
        select happened, n from raw.events
        {% if model.batch %}
        where happened >= timestamp '{{ model.batch.event_time_start.strftime("%Y-%m-%d") }}'
            and happened < timestamp '{{ model.batch.event_time_end.strftime("%Y-%m-%d") }}'
        {% endif %}
        """,
    "models/silver/sums.sql": "select sum(n) as n from {{ ref('events') }}",
}


@pytest.mark.nightly
def test_replaced_windows_are_recorded_and_failed_ones_say_why(lakehouse: Lakehouse) -> None:
    for name in set(FILES) - set(PROJECT):
        (lakehouse.project / name).unlink()
    lakehouse.files = dict(PROJECT)
    lakehouse.write()
    lakehouse.sql(
        "create table raw.events as select 1 as n, unnest(generate_series("
        "timestamp '2026-01-01 05:00:00', timestamp '2026-01-06', interval 1 day)) as happened"
    )
    lakehouse.sql("create table raw.bad as select '2026-01-03' as day union all select '2026-01-04'")

    outcome = lakehouse.run(windows=DAYS)
    assert not outcome.success
    assert "silver/events was not built: " in outcome.failure
    assert "2 of 5 batches failed, the others were replaced:" in outcome.failure
    assert "2026-01-03: Compilation Error in model events" in outcome.failure
    assert "this day is bad: 2026-01-04" in outcome.failure
    assert "silver/sums was blocked by silver/events" in outcome.failure
    assert outcome.built == {"silver/events"}
    assert outcome.rows["silver/events"] == {"2026-01-01": 1, "2026-01-02": 1, "2026-01-05": 1}
    counts = outcome.by_partition["silver/events:row_count"]
    assert {day for day, found in counts.items() if found.passed} == {"2026-01-01", "2026-01-02", "2026-01-05"}
    assert "this day is bad: 2026-01-03" in (counts["2026-01-03"].description or "")
    assert lakehouse.to_retry(outcome.run_id) == {"silver/events", "silver/sums"}

    lakehouse.sql("delete from raw.bad")
    again = lakehouse.run(windows=DAYS, assets=["silver/events", "silver/sums"])
    assert again.success, again.failure
    assert len(again.partitions["silver/events"]) == 5
