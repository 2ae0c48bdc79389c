"""Which macros a node calls."""

from __future__ import annotations

from typing import Any

from lakehouse_analytics.dbt.macro_calls import MacroCalls


def calls(code: str, *recorded: str, **macros: str) -> set[str]:
    manifest: dict[str, Any] = {
        "metadata": {"adapter_type": "duckdb"},
        "macros": {
            "macro.dbt.run_query": {"name": "run_query", "package_name": "dbt", "macro_sql": "{{ shop_secret() }}"},
            **{
                f"macro.shop.{name}": {"name": name, "package_name": "shop", "macro_sql": text}
                for name, text in macros.items()
            },
        },
    }
    return MacroCalls(manifest).of([{"raw_code": code, "depends_on": {"macros": [*recorded]}}])


def test_what_dbt_has_recorded_and_what_that_calls() -> None:
    found = calls("{{ a() }}", "macro.shop.a", a="{{ b () }}", b="1", other="2")
    assert found == {"macro.shop.a", "macro.shop.b"}


def test_what_is_called_only_while_dbt_executes() -> None:
    code = "{% if execute %}{% set v = latest() %}{% endif %} select 1"
    assert calls(code, latest="{{ run_query('select 1') }}") == {"macro.shop.latest"}


def test_names_outside_of_jinja_in_its_comments_and_in_dbts_own_macros_are_no_calls() -> None:
    assert calls("select latest() {# latest() #}", latest="1") == set()
    assert calls("", "macro.dbt.run_query", shop_secret="1") == {"macro.dbt.run_query"}


def test_macros_that_call_each_other_and_missing_ones() -> None:
    assert calls("{{ a() }}{{ gone() }}", "macro.shop.gone", a="{{ b() }}", b="{{ a() }}") == {
        "macro.shop.a",
        "macro.shop.b",
    }
