"""What counts as a change of a table's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.reuse.code import Code, normalized

MODEL = "model.shop.orders"


def manifest(sql: str = "select 1", *, macros: dict[str, Any] | None = None, **node: Any) -> dict[str, Any]:
    called = [f"macro.shop.{name}" for name in macros or {}]
    model = {
        "resource_type": "model",
        "raw_code": sql,
        "config": {"materialized": "table"},
        "depends_on": {"nodes": ["model.shop.small"], "macros": called},
        "columns": {"id": {"data_type": "bigint", "description": "The key."}},
        **node,
    }
    return {
        "metadata": {"dbt_version": "1.11", "adapter_type": "duckdb"},
        "nodes": {
            MODEL: model,
            "model.shop.small": {
                "resource_type": "model",
                "raw_code": "select 2",
                "config": {"materialized": "ephemeral"},
                "depends_on": {"nodes": [], "macros": []},
            },
        },
        "macros": {
            f"macro.shop.{name}": {"name": name, "package_name": "shop", "macro_sql": text}
            for name, text in (macros or {}).items()
        },
    }


def code(made: dict[str, Any], environment: dict[str, str] | None = None, folder: Path = Path("nowhere")) -> Code:
    return Code(made, folder, environment=environment or {}, outside=["local"])


def changes(before: Code, after: Code) -> set[str]:
    a, b = before.fingerprint(MODEL), after.fingerprint(MODEL)
    return {part for part in a if a[part] != b[part]}


def test_comments_and_spaces_do_not_count() -> None:
    long = "{# why #}\nselect\n  1 -- one\n/* all */"
    assert changes(code(manifest("select 1")), code(manifest(long))) == set()
    assert changes(code(manifest("select 'a  b'")), code(manifest("select 'a b'"))) == {"sql"}
    assert changes(code(manifest("select '--a'")), code(manifest("select '--b'"))) == {"sql"}
    # dbt evaluates Jinja in a comment.
    assert changes(code(manifest("select 1 -- {{ x }}")), code(manifest("select 1 -- {{ y }}"))) == {"sql"}


@given(st.text("ab'\"-/*{}%# \n", max_size=12), st.text("ab'\"-/*{}%# \n", max_size=12))
def test_normalized_text_is_stable(a: str, b: str) -> None:
    assert normalized(normalized(a)) == normalized(a)
    if a.replace(" ", "").replace("\n", "").isalpha():
        assert normalized(a) == " ".join(a.split())
    assert normalized(f"select '{'x' * len(a)}' {b}").startswith(f"select '{'x' * len(a)}'")


def test_ephemeral_models_macros_and_configuration_count() -> None:
    base = code(manifest("select {{ m() }}", macros={"m": "1"}))
    assert changes(base, code(manifest("select {{ m() }}", macros={"m": "2"}))) == {"macros"}
    other = manifest("select {{ m() }}", macros={"m": "1"})
    other["nodes"]["model.shop.small"]["raw_code"] = "select 3"
    assert changes(base, code(other)) == {"sql"}
    view = manifest("select {{ m() }}", macros={"m": "1"}, config={"materialized": "view"})
    assert changes(base, code(view)) == {"configuration"}
    described = manifest("select {{ m() }}", macros={"m": "1"}, columns={"id": {"description": "Another text."}})
    described["nodes"][MODEL]["config"] = {"materialized": "table", "meta": {"x": 1}, "tags": ["a"]}
    assert changes(base, code(described)) == set()
    newer = manifest("select {{ m() }}", macros={"m": "1"})
    newer["metadata"]["dbt_version"] = "1.12"
    assert changes(base, code(newer)) == {"macros"}


def test_types_count_if_dbt_enforces_them() -> None:
    enforced = {"materialized": "table", "contract": {"enforced": True}}
    before = code(manifest(config=enforced))
    after = code(manifest(config=enforced, columns={"id": {"data_type": "integer"}}))
    assert changes(before, after) == {"configuration"}


def test_a_macro_that_replaces_one_of_dbt_counts_for_all_models() -> None:
    before, after = manifest(), manifest()
    for made, text in ((before, "a"), (after, "b")):
        made["macros"]["macro.dbt.create"] = {"name": "create", "package_name": "dbt", "macro_sql": "dbt's"}
        made["macros"]["macro.shop.create"] = {"name": "create", "package_name": "shop", "macro_sql": text}
    assert changes(code(before), code(after)) == {"macros"}


def test_variables_count_where_they_are_read(tmp_path: Path) -> None:
    plain, reads = manifest(), manifest("select {{ env_var('COUNTRY') }}")
    assert changes(code(plain, {"COUNTRY": "IT"}), code(plain, {"COUNTRY": "DE"})) == set()
    assert changes(code(reads, {"COUNTRY": "IT"}), code(reads, {"COUNTRY": "DE"})) == {"variables"}
    secret = manifest("select '{{ env_var(\"DB_PASSWORD\") }}'")
    assert changes(code(secret, {"DB_PASSWORD": "a"}), code(secret, {"DB_PASSWORD": "b"})) == set()
    varies = manifest("select {{ var('days') }}")
    (tmp_path / "dbt_project.yml").write_text("vars: {days: 3}")
    before = code(varies, folder=tmp_path).fingerprint(MODEL)
    (tmp_path / "dbt_project.yml").write_text("vars: {days: 4}")
    assert code(varies, folder=tmp_path).fingerprint(MODEL)["variables"] != before["variables"]


def test_the_content_of_a_seed_counts(tmp_path: Path) -> None:
    seed = manifest(resource_type="seed", original_file_path="seeds/a.csv", config={"materialized": "seed"})
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds/a.csv").write_text("id\n1\n")
    before = code(seed, folder=tmp_path).fingerprint(MODEL)
    (tmp_path / "seeds/a.csv").write_text("id\n2\n")
    assert code(seed, folder=tmp_path).fingerprint(MODEL)["sql"] != before["sql"]


@pytest.mark.parametrize(
    ("sql", "node", "reason"),
    [
        ("select '{{ run_started_at }}'", {}, "run_started_at is another one in each run"),
        ("{% set x = run_query('select 1') %} select 1", {}, "run_query reads the database"),
        ("select * from {{ this }}", {}, "this may read what the table contains already"),
        ("{% set r = adapter.get_relation(a, b, c) %} select 1", {}, "adapter.get_relation reads the database"),
        ("select 1", {"config": {"materialized": "incremental"}}, "it is incremental"),
        ("select 1", {"resource_type": "snapshot"}, "a snapshot records the time"),
        ("def model(dbt, session): ...", {"language": "python"}, "its code is Python"),
        ("select '{{ m() }}'", {"macros": {"m": "{{ modules.datetime.datetime.now() }}"}}, "modules is another one"),
    ],
)
def test_models_that_are_always_built(sql: str, node: dict[str, Any], reason: str) -> None:
    assert code(manifest(sql, **node)).obstacle(MODEL).startswith(reason)


@pytest.mark.parametrize(
    "sql",
    [
        "select this, statement from x -- {# run_query #}",
        "{% set columns = adapter.get_columns_in_relation(ref('a')) %} select 1",
        "select '{{ this.schema }}' as name",
        "{{ adapter.dispatch('money')('amount') }}",
    ],
)
def test_models_that_need_not_be_built(sql: str) -> None:
    assert code(manifest(sql)).obstacle(MODEL) == ""
