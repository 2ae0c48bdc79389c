"""Age of temporary relations, read from their names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.engines.trino.temp_relations import stale_temp_relations

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def test_only_old_names_of_ours_are_stale() -> None:
    old, batch = "fct__dbt_tmp_20260228115959_0a1b2c3d", "fct__dbt_tmp_20260201_20260228115959_0a1b2c3d"
    names = [
        old,
        batch,
        "fct__dbt_tmp_20260228120000_0a1b2c3d",  # exactly as old as allowed
        "fct__dbt_tmp_20260301115959_0a1b2c3d",
        "fct__dbt_tmp_20260302000000_0a1b2c3d",  # another machine's clock
        "fct",
        "fct__dbt_tmp",
        "fct__dbt_backup",
        "fct__dbt_tmp_99999999999999_0a1b2c3d",
        "__dbt_tmp_20200101000000_0a1b2c3d",
        "fct__dbt_tmp_20200101000000_0a1b2c3d_kept",
    ]
    assert stale_temp_relations(names, now=NOW, older_than=timedelta(days=1)) == [old, batch]


@given(
    started=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    age=st.timedeltas(timedelta(0), timedelta(days=30)),
)
def test_the_age_is_that_of_the_run(started: datetime, age: timedelta) -> None:
    name = f"fct__dbt_tmp_{started:%Y%m%d%H%M%S}_0a1b2c3d"
    second = started.replace(microsecond=0, tzinfo=UTC)
    assert stale_temp_relations([name], now=second + age, older_than=age) == []
    assert stale_temp_relations([name], now=second + age + timedelta(seconds=1), older_than=age) == [name]
