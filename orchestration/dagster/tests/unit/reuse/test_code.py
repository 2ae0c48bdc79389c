"""What counts as a change of a table's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.reuse.code import Code
from lakehouse_analytics.reuse.jinja import normalized

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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select $$a -- b$$", "select $$a -- c$$"),
        ("-- don't {{ x }}\nselect 'a  b'", "-- don't {{ x }}\nselect 'a b'"),
        ("select E'it\\'s a  b'", "select E'it\\'s a b'"),
        ("/* a /* b */ it's */ select 'a  b'", "/* a /* b */ it's */ select 'a b'"),
        ("select '{{ var(\"it's\") }}  b'", "select '{{ var(\"it's\") }} b'"),
        ("select 1 -- {{ x }}\nwhere active", "select 1 -- {{ x }} where active"),
        ("{% set x %}a  b{% endset %}{{ x }}", "{% set x %}a b{% endset %}{{ x }}"),
        ("{% raw %}{# a #}{% endraw %}", "{% raw %}{% endraw %}"),
        ("select 'a{# b #}c'", "select 'a c'"),
        ("select a\n-- b\n, c", "select a, -- b\nc, d"),
    ],
)
def test_different_code_is_never_equal(one: str, other: str) -> None:
    assert normalized(one) != normalized(other)


@given(st.text("ab'\"-/*{}%#$\\ \n", max_size=14))
def test_normalized_text_is_stable_and_texts_in_quotes_are_kept(text: str) -> None:
    assert normalized(normalized(text)) == normalized(text)
    quoted = "'" + text.replace("'", "''") + "'"
    assert quoted in normalized(f"select {quoted} from t") or "{#" in quoted


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
    assert code(secret).obstacle(MODEL) == "it reads DB_PASSWORD, of which no hash is stored"
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
        ("{% if execute %}{% set v = latest() %}{% endif %} select 1", {"named": "latest"}, "run_query reads"),
        ("select {{ range(3)|random }}", {}, "random is another one in each run"),
        ("{% for node in graph.nodes %}{% endfor %} select 1", {}, "graph may be another one in each run"),
        ("select '{{ env_var('A_' ~ x) }}'", {}, "it calls env_var without the name of a variable"),
        ("select '{{ env_var('LAKEHOUSE_RUN_ID') }}'", {}, "LAKEHOUSE_RUN_ID is another one in each run"),
        ("select 1", {"config": {"materialized": "table", "post-hook": [{"sql": "x"}]}}, "it has hooks"),
        ("select 1", {"config": {"materialized": "incremental"}}, "it is incremental"),
        ("select 1", {"resource_type": "snapshot"}, "a snapshot records the time"),
        ("def model(dbt, session): ...", {"language": "python"}, "its code is Python"),
        ("select '{{ m() }}'", {"macros": {"m": "{{ modules.datetime.datetime.now() }}"}}, "modules is another one"),
    ],
)
def test_models_that_are_always_built(sql: str, node: dict[str, Any], reason: str) -> None:
    made = manifest(sql, **{key: value for key, value in node.items() if key != "named"})
    if "named" in node:  # dbt does not record what it calls only when it executes
        sql = "{% macro latest() %}{{ return(run_query('select 1')) }}{% endmacro %}"
        made["macros"]["macro.shop.latest"] = {"name": "latest", "package_name": "shop", "macro_sql": sql}
    assert code(made).obstacle(MODEL).startswith(reason)


def test_a_macro_that_is_called_only_when_dbt_executes_counts() -> None:
    before, after = (manifest("{% if execute %}{{ latest() }}{% endif %}") for _ in range(2))
    for made, text in ((before, "1"), (after, "2")):
        made["macros"]["macro.shop.latest"] = {"name": "latest", "package_name": "shop", "macro_sql": text}
    assert changes(code(before), code(after)) == {"macros"}


def test_the_description_counts_where_it_is_read() -> None:
    def described(sql: str, **meta: str) -> Code:
        return code(manifest(sql, config={"materialized": "table", "meta": meta}, description=str(meta)))

    assert changes(described("select 1", pii="no"), described("select 1", pii="yes")) == set()
    for sql in ("{{ config.get('meta') }}", "{{ model.columns }}", "{{ config.meta_get('pii') }}"):
        assert changes(described(sql, pii="no"), described(sql, pii="yes")) == {"configuration"}


def test_the_order_of_columns_and_the_types_of_functions_count() -> None:
    enforced = {"materialized": "table", "contract": {"enforced": True}}
    columns = {"a": {"data_type": "int"}, "b": {"data_type": "int"}}
    turned = dict(reversed([*columns.items()]))
    assert changes(
        code(manifest(config=enforced, columns=columns)), code(manifest(config=enforced, columns=turned))
    ) == {"configuration"}
    before, after = manifest(), manifest()
    for made, kind in ((before, "integer"), (after, "varchar")):
        made["nodes"][MODEL]["depends_on"]["nodes"].append("function.shop.f")
        made["functions"] = {
            "function.shop.f": {"resource_type": "function", "raw_code": "1", "returns": {"data_type": kind}}
        }
    assert changes(code(before), code(after)) == {"configuration"}


def test_hooks_at_the_start_of_a_run_count() -> None:
    before, after = manifest(), manifest()
    for made, text in ((before, "a"), (after, "b")):
        made["nodes"]["operation.shop.start"] = {"resource_type": "operation", "raw_code": text}
    assert changes(code(before), code(after)) == {"macros"}


def test_helpers_of_a_macro_that_replaces_one_of_dbt_count() -> None:
    before, after = manifest(), manifest()
    for made, text in ((before, "a"), (after, "b")):
        made["macros"] = {
            "macro.shop.duckdb__create": {
                "name": "duckdb__create",
                "package_name": "shop",
                "macro_sql": "{{ helper() }}",
            },
            "macro.shop.helper": {"name": "helper", "package_name": "shop", "macro_sql": text},
        }
    assert changes(code(before), code(after)) == {"macros"}


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
