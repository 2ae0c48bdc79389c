"""The lineage of statements, in the dialects of all engines."""

from __future__ import annotations

import pytest
from lakehouse_analytics.column_lineage.query import Query, Ref, Table
from lakehouse_analytics.column_lineage.sql import column_name, lineage_of
from lakehouse_analytics.engines.registry import ENGINES

ORDERS = Table("orders", {"id": "bigint", "amount": "decimal(18, 2)", "customer": "bigint"}, complete=True)
CUSTOMERS = Table("customers", {"id": "bigint", "name": "varchar"}, complete=True)
TABLES = {"orders": ORDERS, "customers": CUSTOMERS}


def find(parts: tuple[str, ...]) -> Table:
    return TABLES.get(parts[-1], Table(parts[-1], {}))


def reads(query: Query) -> dict[str, set[str]]:
    assert not query.problem
    return {o.name: {f"{ref.relation}.{ref.column}" for ref in o.reads} for o in query.outputs}


@pytest.fixture(params=[engine.sql_dialect for engine in ENGINES.values()])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_star_through_a_cte_and_a_join(dialect: str) -> None:
    sql = """
        with o as (select * from lake.gold.orders where amount > 0)
        select o.*, c.name from o left join customers as c on o.customer = c.id
    """
    query = lineage_of(sql, dialect, find)
    assert reads(query) == {
        "id": {"orders.id"},
        "amount": {"orders.amount"},
        "customer": {"orders.customer"},
        "name": {"customers.name"},
    }
    assert query.filters == {Ref("orders", "amount"), Ref("orders", "customer"), Ref("customers", "id")}
    assert query.inputs == {"orders", "customers"}
    assert not query.open


def test_a_star_of_a_table_whose_columns_are_not_known_passes_on_others(dialect: str) -> None:
    query = lineage_of("with s as (select *, 1 as one from raw) select * from s", dialect, find)
    assert [output.name for output in query.outputs] == ["one"]
    assert query.open == {"raw"}


def test_a_latest_version_of_a_table_whose_columns_are_not_known(dialect: str) -> None:
    sql = """
        with v as (
            select * from (
                select *, row_number() over (partition by id order by at desc) as version from raw
                where coalesce(gen, 0) = (select max(coalesce(gen, 0)) from raw)
            ) as versions
            where version = 1
        )
        select id as key, cast(price as bigint) as price from v
    """
    query = lineage_of(sql, dialect, find)
    assert reads(query) == {"key": {"raw.id"}, "price": {"raw.price"}}
    assert query.filters == {Ref("raw", name) for name in ("id", "at", "gen")}
    assert query.by_name["price"].type == "BIGINT"


def test_union_window_and_subquery(dialect: str) -> None:
    sql = """
        select id, sum(amount) over (partition by customer) as total, (select max(name) from customers) as best
        from orders
        union all
        select id, 0, name from customers
    """
    assert reads(lineage_of(sql, dialect, find)) == {
        "id": {"orders.id", "customers.id"},
        "total": {"orders.amount", "orders.customer"},
        "best": {"customers.name"},
    }


def test_names_of_ctes_and_aliases_do_not_count(dialect: str) -> None:
    one = lineage_of(
        "with a as (select * from orders as x where x.id > 1 and amount > 2) select id from a", dialect, find
    )
    two = lineage_of("select y.id from orders as y where amount > 2 and y.id > 1", dialect, find)
    assert one.row_fingerprint == two.row_fingerprint
    assert [o.fingerprint for o in one.outputs] == [o.fingerprint for o in two.outputs]


@pytest.mark.parametrize(
    "sql",
    [
        "select id from orders where id > 2",
        "select distinct id from orders where id > 1",
        "select id from orders where id > 1 limit 3",
        "select id from orders where id > 1 group by id",
        "select orders.id from orders inner join customers on customer = customers.id where orders.id > 1",
        "select id from orders where id > 1 union select id from orders where id > 1",
    ],
)
def test_other_rows(dialect: str, sql: str) -> None:
    base = lineage_of("select id from orders where id > 1", dialect, find)
    assert lineage_of(sql, dialect, find).row_fingerprint != base.row_fingerprint


def test_an_ephemeral_model_is_a_table_or_followed(dialect: str) -> None:
    sql = "with __dbt__cte__e as (select id as key from orders) select key from __dbt__cte__e"
    assert reads(lineage_of(sql, dialect, find)) == {"key": {"__dbt__cte__e.key"}}
    assert reads(lineage_of(sql, dialect, find, through_ephemeral=True)) == {"key": {"orders.id"}}


def test_a_column_that_a_table_does_not_have_is_read_from_it(dialect: str) -> None:
    query = lineage_of("with o as (select * from orders) select o.gone, gone_too from o", dialect, find)
    assert {Ref("orders", "gone"), Ref("orders", "gone_too")} <= query.reads


@pytest.mark.parametrize("sql", ["select from where", "delete from orders", "select 1; select 2", ""])
def test_what_cannot_be_analyzed(dialect: str, sql: str) -> None:
    query = lineage_of(sql, dialect, find)
    assert query.problem
    assert query.outputs == ()


def test_case_of_names() -> None:
    assert column_name("Amount", "duckdb", quoted=True) == "amount"
    assert column_name("Amount", "postgres", quoted=True) == "Amount"
    assert column_name("Amount", "postgres") == "amount"


@pytest.mark.parametrize("dialect", ["duckdb", "postgres"])
def test_what_chooses_the_rows_of_distinct_on(dialect: str) -> None:
    def of(sql: str) -> Query:
        return lineage_of(sql, dialect, find)

    base = of("select distinct on (customer) id from orders order by customer, amount")
    assert base.filters == {Ref("orders", "customer"), Ref("orders", "amount")}
    for sql in (
        "select distinct on (customer) id from orders order by customer, amount desc",
        "select distinct on (amount) id from orders order by amount, customer",
        "select distinct on (customer) id from orders",
        "select distinct id from orders",
    ):
        assert of(sql).row_fingerprint != base.row_fingerprint
    more = of("select distinct on (customer) id, 1 as one from orders order by customer, amount")
    assert more.row_fingerprint == base.row_fingerprint


@pytest.mark.parametrize(
    "sql",
    [
        "select id from orders order by amount",
        "select id from (select * from orders order by amount) as sorted",
        "with o as (select id, amount from orders) select id from o",
        "with unused as (select amount from orders) select id from orders",
    ],
)
def test_a_column_that_decides_neither_values_nor_rows_is_read(dialect: str, sql: str) -> None:
    query = lineage_of(sql, dialect, find)
    assert query.reads == {Ref("orders", "id"), Ref("orders", "amount")}
    assert query.filters == set()
    assert query.row_fingerprint == lineage_of("select id from orders", dialect, find).row_fingerprint


def test_the_order_of_a_result_names_its_columns(dialect: str) -> None:
    query = lineage_of("select id as amount from orders order by amount limit 3", dialect, find)
    assert query.reads == {Ref("orders", "id")}


def test_named_windows_are_their_definition(dialect: str) -> None:
    named = lineage_of(
        "select sum(amount) over w as a, row_number() over v as b from orders "
        "window W as (partition by customer), v as (w order by id)",
        dialect,
        find,
    )
    inline = lineage_of(
        "select sum(amount) over (partition by customer) as a, "
        "row_number() over (partition by customer order by id) as b from orders",
        dialect,
        find,
    )
    assert reads(named) == {"a": {"orders.amount", "orders.customer"}, "b": {"orders.customer", "orders.id"}}
    assert named.outputs == inline.outputs
    assert named.row_fingerprint == inline.row_fingerprint


def test_columns_that_a_star_leaves_out() -> None:
    def left_out(sql: str) -> set[Ref]:
        query = lineage_of(sql, "duckdb", find)
        assert query.open
        return {*query.left_out}

    gone = {Ref("raw", "gone")}
    assert left_out("with s as (select * exclude (gone) from raw) select * from s") == gone
    assert left_out("select * exclude (gone) from raw union all select * exclude (gone, b) from raw") == gone
    assert left_out("select * rename (gone as found) from raw") == gone
    assert left_out("select r.* exclude (gone), o.* from raw as r cross join other as o") == gone
    assert left_out("select a.* exclude (gone), b.* from raw as a cross join raw as b") == set()
