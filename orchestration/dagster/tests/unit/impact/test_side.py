"""What a side knows of its tables: the catalog, seeds, snapshots, and names in SQL."""

from __future__ import annotations

from typing import Any

from lakehouse_analytics.column_lineage.query import Ref
from lakehouse_analytics.impact.side import Inputs, Side

SOURCE = "source.shop.raw.orders"


def _manifest(**nodes: dict[str, Any]) -> dict[str, Any]:
    source = {
        "name": "orders",
        "resource_type": "source",
        "identifier": "orders",
        "schema": "raw",
        "database": "lake",
        "columns": {"id": {"name": "id", "data_type": "bigint"}},
        "config": {},
    }
    more = {
        name: {"name": name, "alias": name, "schema": "main", "database": "lake", "columns": {}, "config": {}, **node}
        for name, node in nodes.items()
    }
    return {"metadata": {"adapter_type": "duckdb"}, "nodes": more, "sources": {SOURCE: source}}


def _model(sql: str) -> dict[str, Any]:
    return {"resource_type": "model", "compiled_code": sql, "depends_on": {"nodes": [SOURCE]}}


def test_the_columns_of_a_source_in_yaml_may_not_be_all() -> None:
    side = Side(Inputs(_manifest(a=_model('select * from "lake"."raw"."orders"'))))
    assert [output.name for output in side.queries["a"].outputs] == ["id"]
    assert side.queries["a"].open == {SOURCE}


def test_the_columns_of_a_catalog_are_all() -> None:
    columns = {
        "ID": {"name": "ID", "type": "BIGINT", "index": 1},
        "amount": {"name": "amount", "type": "DECIMAL(18,2)", "index": 2},
    }
    catalog = {"sources": {SOURCE: {"columns": columns}}}
    side = Side(Inputs(_manifest(a=_model("select * from raw.orders")), catalog=catalog))
    assert [(o.name, o.type) for o in side.queries["a"].outputs] == [("id", "BIGINT"), ("amount", "DECIMAL(18, 2)")]
    assert not side.queries["a"].open


def test_a_seed_has_the_columns_of_its_header() -> None:
    seed = {"resource_type": "seed", "config": {"column_types": {"Code": "varchar"}}}
    side = Side(Inputs(_manifest(codes=seed), seed_columns={"codes": ("Code", "name")}))
    assert [(o.name, o.type) for o in side.queries["codes"].outputs] == [("code", "varchar"), ("name", "")]


def test_a_snapshot_has_the_columns_of_dbt() -> None:
    snapshot = {
        **_model("select id from raw.orders"),
        "resource_type": "snapshot",
        "config": {"snapshot_meta_column_names": {"dbt_valid_to": "ended_at"}},
    }
    outputs = Side(Inputs(_manifest(history=snapshot))).queries["history"].outputs
    assert [output.name for output in outputs] == ["id", "dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "ended_at"]


def test_a_column_that_several_stars_pass_on() -> None:
    one = _model("select * from raw.orders")
    two = {**_model("select *, 1 as n from main.one"), "depends_on": {"nodes": ["one"]}}
    three = {**_model("select amount as a from main.two order by day, n"), "depends_on": {"nodes": ["two"]}}
    side = Side(Inputs(_manifest(one=one, two=two, three=three)))
    assert side.readers[Ref("two", "amount")] == {("three", "a")}
    assert side.readers[Ref("one", "amount")] == {("two", "amount")}
    assert side.readers[Ref(SOURCE, "amount")] == {("one", "amount")}
    assert Ref("two", "day") not in side.readers  # it decides neither values nor rows
    assert (side.named[Ref("two", "day")], side.named[Ref(SOURCE, "day")]) == ({"three"}, {"one"})
    assert Ref("one", "n") not in side.named
