"""What makes the result of a statement change although its inputs have not."""

from __future__ import annotations

import pytest
from lakehouse_analytics.reuse.statements import Name, changing_part

KNOWN = {Name("lake", "raw", "orders"), Name("lake", "silver", "customers")}


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *[
            (dialect, f"select {call} from raw.orders")
            for dialect in ("duckdb", "trino", "postgres")
            for call in ("now()", "current_date", "current_timestamp", "localtimestamp", "random()", "current_user")
        ],
        ("duckdb", "select today()"),
        ("duckdb", "select uuid()"),
        ("duckdb", "select version()"),
        ("duckdb", "select getvariable('x')"),
        ("trino", "select uuid()"),
        ("trino", "select current_timestamp(6)"),
        ("trino", "select shuffle(array[1, 2])"),
        ("postgres", "select clock_timestamp()"),
        ("postgres", "select gen_random_uuid()"),
        ("postgres", "select user"),
        ("duckdb", "select current_localtime()"),
        ("postgres", "select array_sample(a, 1) from raw.orders"),
        ("trino", "select current_timezone()"),
        ("duckdb", "select * from raw.orders using sample 10"),
        ("trino", "select * from raw.orders tablesample bernoulli (10)"),
        ("duckdb", "with a as (select random() as x) select * from a"),
    ],
)
def test_the_time_chance_and_the_session(dialect: str, sql: str) -> None:
    assert changing_part(sql, dialect, KNOWN).startswith("it calls ")


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("select * from read_csv('prices.csv')", "read_csv()"),
        ("select * from 'prices.parquet'", "prices.parquet"),
        ("select * from raw.customers", "raw.customers"),
        ("select * from orders", "orders"),
        ("select * from other.raw.orders", "other.raw.orders"),
        ("select * from raw.orders cross join lateral read_csv('x')", "read_csv() "),
        ("select (select max(id) from somewhere.x) from raw.orders", "somewhere.x"),
    ],
)
def test_tables_that_dbt_does_not_know(sql: str, read: str) -> None:
    assert changing_part(sql, "duckdb", KNOWN).startswith(f"it reads {read.strip()}")


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        ("postgres", "select 'now'::timestamp"),
        ("postgres", "select date 'today'"),
        ("postgres", "select xmin from raw.orders"),
        ("trino", 'select "$path" from raw.orders'),
        ("postgres", "select * from raw.orders, lateral dblink('x') as t(x int)"),
        ("postgres", "with d as (delete from raw.orders returning *) select * from d"),
    ],
)
def test_what_only_one_engine_has(dialect: str, sql: str) -> None:
    assert changing_part(sql, dialect, KNOWN) != ""


@pytest.mark.parametrize("sql", ["select 1; select 2", "drop table raw.orders", "select from where )("])
def test_what_is_not_one_query(sql: str) -> None:
    assert changing_part(sql, "duckdb", KNOWN) in ("it is not one SELECT statement", "its SQL cannot be analyzed")


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        ("duckdb", "with orders as (select * from raw.orders) select uuid, o.now from orders as o"),
        ("duckdb", "select * from lake.raw.orders join SILVER.Customers using (id)"),
        ("duckdb", "select * from generate_series(1, 3) as g(n), unnest([1, 2]) as u(m)"),
        ("trino", "select * from unnest(sequence(1, 3)) as t(x) cross join raw.orders"),
        ("postgres", "select id, extract(year from day), date_trunc('day', at) from raw.orders where kind is not null"),
        ("trino", 'select "current_date" from raw.orders union all select day from silver.customers'),
        ("postgres", "select * from raw.orders as o, lateral (select o.id + 1 as next) as n"),
        ("trino", "select * from raw.orders cross join unnest(items) as t(item)"),
        ("duckdb", "select row_number() over (partition by id order by at) as n from raw.orders qualify n = 1"),
    ],
)
def test_what_always_has_the_same_result(dialect: str, sql: str) -> None:
    assert changing_part(sql, dialect, KNOWN) == ""
