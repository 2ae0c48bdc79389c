"""States, and the tables that names mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.diff.errors import DiffError
from lakehouse_analytics.diff.relations import State, find_table, parse_state
from manifests import Manifest


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("main", State("main")),
        ("schema:dbt_jane", State("schema", "dbt_jane")),
        ("branch:pr-42", State("branch", "pr-42")),
        ("snapshot:123", State("snapshot", "123")),
        ("file:C:\\lake.duckdb", State("file", "C:\\lake.duckdb")),
        ("2026-11-29T00:00:00Z", State("time", "2026-11-29T00:00:00Z")),
        ("2026-11-29 01:00+01:00", State("time", "2026-11-29 01:00+01:00")),
    ],
)
def test_states(text: str, state: State) -> None:
    assert parse_state(text, "--base") == state
    assert str(state) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maim", "--base maim is not a state; did you mean `main`? Expected `main` (the table as it is), "),
        ("snapshot:abc", "--base snapshot:abc: a snapshot's id is a number, as in `snapshot:123456789`."),
        ("schema:", "--base schema: is not a state"),
        ("2026-11-29", "needs its offset from UTC, such as 2026-11-29T00:00:00Z or 2026-11-29T00:00:00+01:00."),
    ],
)
def test_what_is_no_state(text: str, message: str) -> None:
    with pytest.raises(DiffError) as caught:
        parse_state(text, "--base")
    assert message in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_a_state_or_a_clear_error(text: str) -> None:
    found = ""
    try:
        found = str(parse_state(text, "--head"))
    except DiffError as error:
        found = str(error).removeprefix("--head ")[: len(text)]
    assert found == text


def test_a_table_by_its_asset_key_or_its_name() -> None:
    manifest = Manifest()
    model = manifest.model("fct_orders", folder="gold")
    manifest.model("dim_customer", folder="silver")
    source = manifest.source("shop", "orders")
    graph = read(manifest.build(), {})
    assert find_table(graph, "gold/fct_orders").unique_id == model
    assert find_table(graph, "fct_orders").unique_id == model
    assert find_table(graph, "shop.orders").unique_id == source
    for wrong in ("gold/fct_order", "fct_order", "silver/fct_orders"):
        with pytest.raises(DiffError, match=r"; did you mean gold/fct_orders\?$"):
            find_table(graph, wrong)
    with pytest.raises(
        DiffError,
        match=r"^The dbt project has no table zzz\. The tables are gold/fct_orders, shop/orders, silver/dim_cust",
    ):
        find_table(graph, "zzz")
