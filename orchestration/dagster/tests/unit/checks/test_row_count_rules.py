from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import duckdb
import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.checks.row_count_rules import (
    SAME_SEASON,
    CountRequest,
    Counts,
    broken_rules,
    chunks,
    count_sql,
    evaluate_drift,
    read_counts,
)
from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.contract.models import Drift, Rows

NOW = datetime(2024, 3, 13, 12, tzinfo=UTC)  # a Wednesday


@pytest.fixture
def database() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:")
    connection.execute("set timezone = 'UTC'")
    return connection


def count(database: duckdb.DuckDBPyConnection, *tables: CountRequest) -> list[Counts]:
    return read_counts(tables, database.execute(count_sql(tables)).fetchall())


ODD_NAMES = [
    "plain",
    "with space",
    'quo"te',
    "apo'strophe",
    "select",
    "Ünïcode",
    "semi;colon",
    "dash--comment",
    "%s",
    "{x}",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_of_tables_and_columns_are_counted(database: duckdb.DuckDBPyConnection, name: str) -> None:
    relation = f'"memory"."main".{identifier(name)}'
    database.execute(
        f"create table {relation} as "
        f"select 1 as {identifier(name)}, timestamp '2024-01-02 03:04:05' as {identifier(name + ' at')}"
    )
    database.execute(f"insert into {relation} values (2, null), (2, null)")
    [found] = count(database, CountRequest(relation, (name,), name + " at"))
    assert found == Counts(3, {name: 2}, datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC))


def test_an_empty_table_has_no_rows_no_keys_and_no_newest(database: duckdb.DuckDBPyConnection) -> None:
    database.execute("create table t (id int, ts timestamp)")
    assert count(database, CountRequest("t", ("id",), "ts")) == [Counts(0, {"id": 0}, None)]


def test_nulls_are_rows_but_no_keys(database: duckdb.DuckDBPyConnection) -> None:
    database.execute("create table t as select * from (values (1), (null), (null)) v(id)")
    assert count(database, CountRequest("t", ("id",))) == [Counts(3, {"id": 1}, None)]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York", "Pacific/Apia"])
@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("timestamp '2024-01-02 03:04:05'", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("timestamp '2024-01-02 03:04:05.123456'", datetime(2024, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ("timestamp_ns '2024-01-02 03:04:05.123456789'", datetime(2024, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ("timestamptz '2024-01-02 03:04:05+02'", datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("date '2024-01-02'", datetime(2024, 1, 2, tzinfo=UTC)),
    ],
)
def test_the_newest_event_is_the_same_moment_for_every_type_and_session_zone(
    database: duckdb.DuckDBPyConnection, zone: str, literal: str, expected: datetime
) -> None:
    database.execute(f"set timezone = '{zone}'")
    database.execute(f"create table t as select {literal} as ts")
    assert count(database, CountRequest("t", (), "ts"))[0].newest == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # As Trino casts to varchar.
        ("2024-01-02 03:04:05.000000 UTC", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2024-07-02 03:04:05.000 Europe/Berlin", datetime(2024, 7, 2, 1, 4, 5, tzinfo=UTC)),
        ("2024-01-02 03:04:05.000 +02:00", datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("2024-01-02 03:04:05", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2024-01-02", datetime(2024, 1, 2, tzinfo=UTC)),
        # No moment in Python's partitions_def.
        ("infinity", None),
        ("0044-03-15 (BC)", None),
        ("2024-01-02 03:04:05 Mars/Olympus", None),
        ("", None),
        (None, None),
    ],
)
def test_event_times_are_read_as_engines_write_them(text: str | None, expected: datetime | None) -> None:
    assert read_counts([CountRequest("t", (), "at")], [(0, text, 1)])[0].newest == expected


def test_two_hundred_tables_are_counted_by_one_statement(database: duckdb.DuckDBPyConnection) -> None:
    tables = []
    for i in range(200):
        database.execute(f"create table t{i} as select range as a, range % 7 as b from range({i})")
        tables.append(CountRequest(f"t{i}", ("a", "b")[: i % 3]))
    sql = count_sql(tables)
    assert len(duckdb.extract_statements(sql)) == 1
    found = count(database, *tables)
    assert [c.rows for c in found] == list(range(200))
    assert found[197].distinct == {"a": 197, "b": 7}
    assert found[198].distinct == {}


@pytest.mark.parametrize(
    "tables",
    [
        [CountRequest('"lake"."gold"."fct"')],
        [
            CountRequest('"lake"."gold"."fct"', ("a", 'b"c'), "at"),
            CountRequest('"lake"."gold"."dim"', (), "Order Date"),
        ],
    ],
)
def test_trino_can_parse_the_statement(tables: list[CountRequest]) -> None:
    parsed = sqlglot.parse_one(count_sql(tables), read="trino")
    assert [table.sql("trino") for table in parsed.find_all(sqlglot.exp.Table)] == [t.relation for t in tables]


ANSWERS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=8)


@given(ANSWERS, st.randoms())
def test_counts_find_their_table_whatever_order_they_come_in(
    numbers: list[tuple[int, int]], rng: random.Random
) -> None:
    tables = [CountRequest(f"t{i}", ("id",)) for i in range(len(numbers))]
    answer = [(i, None, rows, ids) for i, (rows, ids) in enumerate(numbers)]
    rng.shuffle(answer)
    assert read_counts(tables, answer) == [Counts(rows, {"id": ids}) for rows, ids in numbers]


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [(0, None, 1)],
        [(0, None, 1), (0, None, 2)],
        [(0, None, 1), (2, None, 2)],
        [(0, None, 1), (1, None, 2), (1, None, 3)],
    ],
)
def test_an_answer_that_is_not_one_row_a_table_is_an_error(answer: list[tuple[int, None, int]]) -> None:
    with pytest.raises(ValueError, match="expected one row for each of 2 tables"):
        read_counts([CountRequest("a"), CountRequest("b")], answer)


COUNTS = st.integers(0, 10**7)
RULES = st.builds(
    lambda not_empty, low, spread, drop: Rows(
        not_empty=not_empty, min=low, max=None if spread is None else (low or 0) + spread, max_drop=drop
    ),
    st.booleans(),
    st.none() | COUNTS,
    st.none() | COUNTS,
    st.none() | st.floats(0, 1),
)


@given(RULES, COUNTS, COUNTS, st.none() | COUNTS)
def test_more_rows_never_break_a_lower_bound(rules: Rows, rows: int, more: int, last: int | None) -> None:
    without_max = rules.model_copy(update={"max": None})
    assert len(broken_rules(without_max, rows + more, last)) <= len(broken_rules(without_max, rows, last))


@given(RULES, COUNTS, COUNTS)
def test_more_rows_never_mend_an_upper_bound(rules: Rows, rows: int, more: int) -> None:
    only_max = Rows(not_empty=False, max=rules.max)
    assert len(broken_rules(only_max, rows + more, None)) >= len(broken_rules(only_max, rows, None))


@given(RULES, COUNTS)
def test_an_unchanged_count_has_not_dropped(rules: Rows, rows: int) -> None:
    assert not any("max_drop" in line for line in broken_rules(rules, rows, rows))
    assert broken_rules(rules, rows, rows) == broken_rules(rules, rows, None)


@given(st.integers(1, 10_000), st.data())
def test_a_drop_of_exactly_max_drop_is_allowed_and_one_row_more_is_not(last: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, last - 1))
    rules = Rows(not_empty=False, max_drop=lost / last)
    assert broken_rules(rules, last - lost, last) == []
    [line] = broken_rules(rules, last - lost - 1, last)
    assert "max_drop" in line


def test_a_tenth_is_a_tenth() -> None:
    # 10 * (1 - 0.7) is a little more than 3.
    assert broken_rules(Rows(max_drop=0.7), 3, 10) == []


@pytest.mark.parametrize(
    ("rules", "rows", "last", "expected"),
    [
        (Rows(), 0, None, "the table is empty"),
        (Rows(min=5), 4, None, "4 rows, expected at least 5 (min)"),
        (Rows(max=5), 6, None, "6 rows, expected at most 5 (max)"),
        (Rows(max_drop=0.5), 40, 100, "40 rows, 60% fewer than the 100 of the last passed check (max_drop 50%)"),
    ],
)
def test_a_broken_rule_says_what_was_seen_and_expected(rules: Rows, rows: int, last: int | None, expected: str) -> None:
    assert broken_rules(rules, rows, last) == [expected]


def test_every_broken_rule_is_told() -> None:
    rules = Rows(min=1, max_drop=0.1)
    assert len(broken_rules(rules, 0, 50)) == 3


@pytest.mark.parametrize("last", [None, 0])
def test_nothing_has_dropped_from_nothing(last: int | None) -> None:
    assert broken_rules(Rows(max_drop=0.0, not_empty=False), 0, last) == []


def daily(counts: list[int], *, before: datetime = NOW) -> list[tuple[datetime, int]]:
    return [(before - timedelta(days=days), rows) for days, rows in enumerate(counts, 1)]


PAST = st.tuples(st.integers(0, 24 * 80).map(lambda hours: NOW - timedelta(hours=hours)), COUNTS)
HISTORIES = st.lists(PAST, max_size=40)
LONG_HISTORIES = st.lists(PAST, min_size=7, max_size=40)


@given(HISTORIES, COUNTS, st.randoms())
def test_the_order_of_the_history_says_nothing(
    history: list[tuple[datetime, int]], rows: int, rng: random.Random
) -> None:
    shuffled = [*history]
    rng.shuffle(shuffled)
    assert evaluate_drift(Drift(), rows, history, NOW, UTC) == evaluate_drift(Drift(), rows, shuffled, NOW, UTC)


@given(HISTORIES, COUNTS, st.integers(3, 30))
def test_too_little_history_is_never_judged_and_enough_always_is(
    history: list[tuple[datetime, int]], rows: int, needed: int
) -> None:
    verdict = evaluate_drift(Drift(min_history=needed), rows, history, NOW, UTC)
    assert verdict.compared == (len(history) >= needed)
    if not verdict.compared:
        assert verdict.passed
        assert f"not compared: {len(history)} earlier counts, {needed} are needed" in verdict.explanation
        assert verdict.median is verdict.allowed is None


@given(HISTORIES, COUNTS, st.floats(0.1, 20), st.floats(0.1, 20))
def test_more_mads_allow_no_less(history: list[tuple[datetime, int]], rows: int, one: float, other: float) -> None:
    strict, lax = (evaluate_drift(Drift(mads=m), rows, history, NOW, UTC) for m in sorted((one, other)))
    assert lax.passed or not strict.passed


@given(LONG_HISTORIES, COUNTS)
def test_the_median_itself_always_passes_and_what_lies_further_fails_first(
    history: list[tuple[datetime, int]], rows: int
) -> None:
    verdict = evaluate_drift(Drift(), rows, history, NOW, UTC)
    assert verdict.median is not None
    assert verdict.allowed is not None
    assert verdict.allowed > 0
    assert verdict.passed == (abs(rows - verdict.median) <= verdict.allowed)
    assert evaluate_drift(Drift(), round(verdict.median), history, NOW, UTC).passed


@given(st.integers(0, 10**7))
def test_a_constant_history_tolerates_a_little_and_no_more(usual: int) -> None:
    history = daily([usual] * 14)
    floor = 6.0 * max(usual * 0.01, 1.0)
    for rows, passes in [(usual, True), (int(usual + floor), True), (int(usual + floor) + 1, False)]:
        assert evaluate_drift(Drift(), rows, history, NOW, UTC).passed is passes
    assert not evaluate_drift(Drift(), 10 * usual + 100, history, NOW, UTC).passed


@given(st.integers(100, 10**6), st.lists(st.integers(0, 10**9), max_size=6))
def test_outliers_below_half_of_the_history_move_nothing(usual: int, outliers: list[int]) -> None:
    # Times within one day: no weekday basis, the whole history counts.
    days = [NOW - timedelta(days=1, minutes=n) for n in range(15 + len(outliers))]
    counts = [usual + (n % 3) - 1 for n in range(15)] + outliers
    verdict = evaluate_drift(Drift(), usual, list(zip(days, counts, strict=True)), NOW, UTC)
    assert verdict.median is not None
    assert verdict.allowed is not None
    assert abs(verdict.median - usual) <= 1
    assert verdict.allowed <= 6.0 * max(2 * 1.4826, (usual + 1) * 0.01)
    assert not evaluate_drift(Drift(), 3 * usual, list(zip(days, counts, strict=True)), NOW, UTC).passed


def weekly(wednesdays: int, others: int, weeks: int) -> list[tuple[datetime, int]]:
    days = [NOW - timedelta(days=n) for n in range(1, 7 * weeks + 1)]
    return [(day, wednesdays if day.weekday() == NOW.weekday() else others) for day in days]


def test_weekdays_are_compared_with_their_own_kind_once_there_are_enough() -> None:
    enough = weekly(50, 1000, SAME_SEASON)
    verdict = evaluate_drift(Drift(), 50, enough, NOW, UTC)
    assert verdict.passed
    assert verdict.median == 50
    assert "4 earlier counts on Wednesdays" in verdict.explanation
    assert not evaluate_drift(Drift(), 1000, enough, NOW, UTC).passed

    too_few = weekly(50, 1000, SAME_SEASON - 1)
    assert evaluate_drift(Drift(), 1000, too_few, NOW, UTC).passed
    assert not evaluate_drift(Drift(), 50, too_few, NOW, UTC).passed


def test_the_zone_decides_what_a_weekday_is() -> None:
    late = datetime(2024, 3, 13, 23, 30, tzinfo=UTC)  # Wednesday in UTC, Thursday in Tokyo
    history = [(late - timedelta(weeks=n), 100) for n in range(1, 9)]
    history += [(late - timedelta(weeks=n, hours=2), 500) for n in range(1, 9)]  # Wednesday in UTC, Thursday in Tokyo
    history += [(late - timedelta(weeks=n, hours=12), 900) for n in range(1, 14)]  # Wednesday in both
    assert "29 earlier counts on Wednesdays" in evaluate_drift(Drift(), 900, history, late, UTC).explanation
    tokyo = evaluate_drift(Drift(), 300, history, late, ZoneInfo("Asia/Tokyo"))
    assert "16 earlier counts on Thursdays" in tokyo.explanation
    assert tokyo.median == 300


def test_weekdays_follow_daylight_saving_time() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    # 22:30 UTC is 23:30 on Saturdays of winter, and 00:30 on Sunday after the clocks went forward on 31 March.
    history = [(datetime(2024, 3, 2, 22, 30, tzinfo=UTC) + timedelta(weeks=n), 10) for n in range(5)]
    history += [(datetime(2024, 4, 6, 22, 30, tzinfo=UTC) + timedelta(weeks=n), 1000) for n in range(5)]
    sunday = datetime(2024, 5, 12, 10, tzinfo=berlin)
    saturday = datetime(2024, 5, 11, 10, tzinfo=berlin)
    assert evaluate_drift(Drift(), 1000, history, sunday, berlin).median == 1000
    assert evaluate_drift(Drift(), 10, history, saturday, berlin).median == 10


def test_times_of_any_zone_are_the_same_moment() -> None:
    history = daily([100, 110, 90, 105, 95, 100, 102, 99])
    elsewhere = [(when.astimezone(timezone(timedelta(hours=9))), rows) for when, rows in history]
    assert evaluate_drift(Drift(), 100, history, NOW, UTC) == evaluate_drift(Drift(), 100, elsewhere, NOW, UTC)


WIDTHS = st.lists(st.integers(0, 5), max_size=40)


@given(WIDTHS, st.none() | st.integers(1, 12))
def test_chunks_hold_every_table_once_in_order_and_as_many_as_fit(widths: list[int], stages: int | None) -> None:
    tables = [CountRequest(f"t{place}", tuple("abcde"[:width])) for place, width in enumerate(widths)]
    found = [*chunks(tables, stages)]
    assert [table for chunk in found for table in chunk] == tables
    weights = [[1 + len(table.distinct) for table in chunk] for chunk in found]
    if stages is None:
        assert len(found) <= 1
        return
    assert all(sum(weight) <= stages or len(weight) == 1 for weight in weights)
    # Nothing would have fitted into the chunk before.
    assert all(sum(before) + after[0] > stages for before, after in pairwise(weights))
