"""What a change reaches and breaks, on manifests made by hand: what no parsed project can have, and the formats."""

from __future__ import annotations

import json
from typing import Any

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
