"""What a change reaches and breaks, on manifests made by hand: what no parsed project can have, and the formats."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lakehouse_analytics.impact.report import Impact, as_json, as_markdown, as_text, impact_of
from lakehouse_analytics.impact.side import Inputs, Side


def node(name: str, sql: str, *parents: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "resource_type": "model",
        "alias": name,
        "schema": "main",
        "database": "lake",
        "raw_code": sql,
        "compiled_code": sql,
        "columns": {},
        "depends_on": {"nodes": [f"model.shop.{parent}" for parent in parents], "macros": []},
        **more,
        "config": {"materialized": "table", **more.get("config", {})},
    }


def manifest(*nodes: dict[str, Any], exposures: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "metadata": {"adapter_type": "duckdb"},
        "nodes": {f"model.shop.{one['name']}": one for one in nodes},
        "sources": {},
        "macros": {},
        "exposures": {
            "exposure.shop.report": {
                "name": "report",
                "depends_on": {"nodes": [f"model.shop.{name}" for name in exposures]},
                "owner": {"email": "ann@example.com"},
            }
        },
    }


def compared(before: dict[str, Any], after: dict[str, Any]) -> Impact:
    base = Side(Inputs(before))
    return impact_of(base, Side(Inputs(after), base), "main")


A = node("a", "select 1 as id, cast(2 as bigint) as n")
B = node("b", "select id, n from main.a", "a")


def test_nothing_changed() -> None:
    impact = compared(manifest(A, B), manifest(A, B))
    assert as_text(impact) == "Compared with main, nothing has changed."
    assert as_json(impact)["changes"] == []


def test_a_removed_model_that_another_still_depends_on() -> None:
    impact = compared(manifest(A, B), manifest(B, exposures=("a",)))
    assert [(item.unique_id, item.why) for item in impact.breaks] == [
        ("model.shop.a", "model b reads it"),
        ("model.shop.a", "exposure report may read it"),
    ]


def test_sql_that_cannot_be_parsed_may_read_all() -> None:
    strange = node("strange", "select n from main.a where )", "a")
    changed = node("a", "select 1 as id, cast(3 as bigint) as n")
    impact = compared(manifest(A, strange, exposures=("strange",)), manifest(changed, strange, exposures=("strange",)))
    assert impact.total.rows == {"model.shop.strange"}
    assert impact.total.exposures == {"exposure.shop.report"}
    assert "Column lineage is not known: model strange (" in as_text(impact)
    removed = compared(manifest(A, strange), manifest(node("a", "select 1 as id"), strange))
    assert [item.column for item in removed.breaks] == ["n"]
    assert removed.breaks[0].why.startswith("model strange may read it (column lineage is not known: ")


def test_sql_that_cannot_be_parsed_anymore_may_have_other_rows() -> None:
    impact = compared(manifest(A, B), manifest(node("a", "select ) as id"), B))
    assert impact.total.rows == {"model.shop.a", "model.shop.b"}


def test_python_models_may_read_all() -> None:
    model = node("b", "def model(dbt, session): return dbt.ref('a')", "a", language="python")
    impact = compared(manifest(A, model), manifest(node("a", "select 1 as id, cast(3 as bigint) as n"), model))
    assert impact.total.rows == {"model.shop.b"}


def test_a_relation_with_another_name() -> None:
    impact = compared(manifest(A, exposures=("a",)), manifest({**A, "schema": "other"}, exposures=("a",)))
    assert [item.why for item in impact.breaks] == ["exposure report may read it by its old name"]


def test_a_contract_that_is_not_enforced_anymore() -> None:
    columns = {"id": {"name": "id", "data_type": "int"}, "n": {"name": "n", "data_type": "bigint"}}
    enforced = node("a", A["raw_code"], columns=columns, config={"contract": {"enforced": True}})
    impact = compared(manifest(enforced), manifest(A))
    assert [item.what for item in impact.breaks] == ["contract not enforced anymore"]


def test_a_column_of_a_table_that_is_exported() -> None:
    exported = {"config": {"meta": {"lakehouse": {"serve": {"to": "clickhouse"}}}}}
    after = node("a", "select 1 as id", **exported)
    impact = compared(manifest(node("a", A["raw_code"], **exported)), manifest(after))
    assert [(item.column, item.why) for item in impact.breaks] == [("n", "its copy in clickhouse may be read")]


def _open(name: str, sql: str) -> dict[str, Any]:
    return {**node(name, sql), "depends_on": {"nodes": ["source.shop.raw.orders"], "macros": []}}


def _of_source(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    source = {
        "name": "orders",
        "resource_type": "source",
        "source_name": "raw",
        "identifier": "orders",
        "schema": "raw",
        "database": "lake",
        "columns": {},
        "config": {},
    }
    return {**manifest(*nodes, **more), "sources": {"source.shop.raw.orders": source}}


@pytest.mark.parametrize(
    "sql",
    [
        "select a, b from raw.orders",
        "select * exclude (c) from raw.orders",
        "with o as (select * exclude (c) from raw.orders) select * from o",
    ],
)
@pytest.mark.parametrize(
    "reader",
    [
        "select c from main.stg",
        "select a from main.stg where c > 1",
        "select a from main.stg order by c",
        "with s as (select * from main.stg) select s.c as d from s",
    ],
)
def test_a_column_that_a_star_does_not_pass_on_anymore(sql: str, reader: str) -> None:
    child = node("child", reader, "stg")
    impact = compared(_of_source(_open("stg", "select * from raw.orders"), child), _of_source(_open("stg", sql), child))
    assert [(item.unique_id, item.column, item.what, item.why) for item in impact.breaks] == [
        ("model.shop.stg", "c", "removed", "model child reads it")
    ]
    assert "nothing breaks" not in as_text(impact)
    assert "model.shop.child" in impact.total.models


def test_a_column_that_no_star_passes_on_to_the_reader_anymore() -> None:
    middle, child = (
        node("middle", "select * from main.stg", "stg"),
        node("child", "select c from main.middle", "middle"),
    )
    before = _of_source(_open("stg", "select * from raw.orders"), middle, child)
    impact = compared(before, _of_source(_open("stg", "select a, b from raw.orders"), middle, child))
    assert [(item.unique_id, item.column, item.why) for item in impact.breaks] == [
        ("model.shop.middle", "c", "model child reads it")
    ]
    excluded = _of_source(_open("stg", "select * exclude (c) from raw.orders"), middle, child)
    impact = compared(before, excluded)
    assert [(item.unique_id, item.column, item.why) for item in impact.breaks] == [
        ("model.shop.stg", "c", "model middle reads it")
    ]


def test_a_column_that_a_star_still_passes_on() -> None:
    child = node("child", "select c from main.stg", "stg")
    before = _of_source(_open("stg", "select * from raw.orders"), child)
    for sql in (
        "select * exclude (d) from raw.orders",
        "select a, c from raw.orders",
        "select *, 1 as one from raw.orders",
    ):
        assert compared(before, _of_source(_open("stg", sql), child)).breaks == ()


def test_a_test_and_a_setting_that_name_what_a_star_passed_on() -> None:
    test = {
        **node("not_null_stg_c", "select c from main.stg where c is null", "stg"),
        "resource_type": "test",
        "attached_node": "model.shop.stg",
        "column_name": "c",
    }
    config = {"config": {"unique_key": "k", "check_cols": "all"}}
    before, after = (
        _of_source({**_open("stg", sql), **config}) for sql in ("select * from raw.orders", "select a from raw.orders")
    )
    for side in (before, after):
        side["nodes"]["test.shop.not_null_stg_c.1a2b"] = test
    impact = compared(before, after)
    assert [(item.column, item.why) for item in impact.breaks] == [
        ("c", "test not_null_stg_c reads it"),
        ("k", "its `unique_key` names it"),
    ]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"meta": {"lakehouse": {"partition": {"by": "N"}}}}, "`partition.by` of its `meta.lakehouse` names it"),
        (
            {"meta": {"lakehouse": {"partition": {"grain": "daily", "by": "n"}}}},
            "`partition.by` of its `meta.lakehouse` names it",
        ),
        ({"meta": {"lakehouse": {"distinct": ["id", "n"]}}}, "`distinct` of its `meta.lakehouse` names it"),
        (
            {"meta": {"lakehouse": {"freshness": {"within": "1h", "column": "n"}}}},
            "`freshness.column` of its `meta.lakehouse` names it",
        ),
        ({"properties": {"partitioning": "ARRAY['month(n)', 'id']"}}, "`partitioning` of its `properties` names it"),
        ({"properties": {"partitioning": "ARRAY['bucket(\"n\", 8)']"}}, "`partitioning` of its `properties` names it"),
    ],
)
def test_settings_that_name_a_removed_column(config: dict[str, Any], why: str) -> None:
    before, after = node("a", A["raw_code"], config=config), node("a", "select 1 as id", config=config)
    assert [(item.column, item.why) for item in compared(manifest(before), manifest(after)).breaks] == [("n", why)]


@pytest.mark.parametrize(
    "config",
    [
        {"meta": {"lakehouse": {"partition": "daily"}}},
        {"meta": {"lakehouse": {"partition": {"by": "id"}}}},
        {"properties": {"partitioning": "ARRAY['n(id)']"}},
        {"properties": {"format": "'n'"}},
    ],
)
def test_settings_that_name_other_columns(config: dict[str, Any]) -> None:
    before, after = node("a", A["raw_code"], config=config), node("a", "select 1 as id", config=config)
    assert compared(manifest(before), manifest(after)).breaks == ()


@pytest.mark.parametrize(
    ("given", "expect", "breaks"),
    [
        ([{"input": "ref('a')", "format": "dict", "rows": [{"id": 1}, {"N": 2}]}], {"rows": [{"id": 1}]}, True),
        ([{"input": "ref('shop', 'a')", "format": "sql", "rows": "select 1 as id, 2 as n"}], {"rows": []}, True),
        ([{"input": "ref('c')", "format": "dict", "rows": [{"n": 1}]}], {"rows": [{"n": 1}]}, False),
        ([{"input": "ref('a')", "format": "dict", "rows": [{"id": 1}]}], {"rows": None}, False),
    ],
)
def test_rows_of_a_unit_test_of_a_reader(given: list[Any], expect: dict[str, Any], breaks: bool) -> None:
    reader = node("b", "select id from main.a", "a")
    unit_test = {"name": "rows", "model": "b", "given": given, "expect": expect}
    section = {"unit_test.shop.b.rows": {**unit_test, "depends_on": {"nodes": ["model.shop.b"]}}}
    before = {**manifest(A, reader), "unit_tests": section}
    after = {**manifest(node("a", "select 1 as id"), reader), "unit_tests": section}
    expected = [("n", "unit test b.rows has it in its rows")] if breaks else []
    assert [(item.column, item.why) for item in compared(before, after).breaks] == expected


@pytest.mark.parametrize("rows", [[{"n": 1}], "select 1 as n"])
def test_expected_rows_and_own_rows_of_a_unit_test(rows: Any) -> None:
    for given, expect in (([], {"rows": rows}), ([{"input": "this", "rows": rows}], {"rows": []})):
        unit_test: dict[str, Any] = {"name": "rows", "model": "a", "given": given, "expect": expect}
        section = {"unit_test.shop.a.rows": {**unit_test, "depends_on": {"nodes": ["model.shop.a"]}}}
        before = {**manifest(A), "unit_tests": section}
        impact = compared(before, {**manifest(node("a", "select 1 as id")), "unit_tests": section})
        assert [(item.column, item.why) for item in impact.breaks] == [("n", "unit test a.rows has it in its rows")]


def _python(code: str, **more: Any) -> dict[str, Any]:
    return node("a", code, language="python", **more)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_python("def model(dbt, session): return 1"), _python("def model(dbt, session): return 2")),
        (A, node("a", "select ) as id")),
        (node("a", "select ) as id"), A),
        ({**A, "compiled_code": None}, {**A, "compiled_code": None, "raw_code": "select {{ run_query('') }}"}),
    ],
)
def test_code_that_changed_and_cannot_be_compared(before: dict[str, Any], after: dict[str, Any]) -> None:
    exported = {"config": {"materialized": "table", "meta": {"lakehouse": {"serve": {"to": "clickhouse"}}}}}
    after = {**after, **exported}
    impact = compared(manifest(before, B, exposures=("a",)), manifest(after, B, exposures=("a",)))
    assert [(item.unique_id, item.column, item.what, item.why) for item in impact.breaks] == [
        ("model.shop.a", "", "its columns cannot be compared", why)
        for why in ("model b reads it", "exposure report may read it", "its copy in clickhouse may be read")
    ]
    assert "nothing breaks" not in as_text(impact)
    assert as_json(impact)["breaking"] is True
    assert compared(manifest(before), manifest({**after, "config": before["config"]})).breaks == ()


def test_a_macro_that_changed_of_a_model_that_cannot_be_compared() -> None:
    def side(sql: str) -> dict[str, Any]:
        model = {**A, "compiled_code": None, "depends_on": {"nodes": [], "macros": ["macro.shop.m"]}}
        macro = {"macro_sql": sql, "depends_on": {"macros": []}}
        return {**manifest(model, B), "macros": {"macro.shop.m": macro}}

    assert [item.why for item in compared(side("1"), side("2")).breaks] == ["model b reads it"]
    assert compared(side("1"), side("1")).breaks == ()


def test_an_enforced_contract_compares_what_cannot_be_analyzed() -> None:
    columns = {"id": {"name": "id", "data_type": "int"}, "n": {"name": "n", "data_type": "bigint"}}
    more = {"columns": columns, "config": {"contract": {"enforced": True}}}
    before, after = node("a", "select ) as id", **more), node("a", "select ) as n", **more)
    assert compared(manifest(before, B), manifest(after, B)).breaks == ()
    del columns["n"]
    after = node("a", "select ) as n", **{**more, "columns": {"id": columns["id"]}})
    before = node("a", "select ) as id", **{**more, "columns": {**columns, "n": {"name": "n", "data_type": "int"}}})
    assert [item.why for item in compared(manifest(before, B), manifest(after, B)).breaks] == ["model b reads it"]


def test_formats() -> None:
    group = {"config": {"meta": {"lakehouse": {"owner": "team:finance"}}}}
    before, b = manifest(A, B, exposures=("b",)), node("b", B["raw_code"], "a", **group)
    impact = compared(before, manifest(node("a", "select 1 as id, cast(2 as bigint) as m"), b, exposures=("b",)))
    text, markdown = as_text(impact), as_markdown(impact)
    assert "✘ model a.n (renamed to m): model b reads it" in text
    assert "| model a | modified (SQL)<br>n: renamed to m | model b (n)<br>exposure report |" in markdown
    assert text.splitlines()[-1] == "Owners: ann@example.com, team:finance"
    data = json.loads(json.dumps(as_json(impact)))
    assert data["breaking"] is True
    assert data["reaches"]["models"]["model.shop.b"] == {"columns": ["n"], "rows": False}
