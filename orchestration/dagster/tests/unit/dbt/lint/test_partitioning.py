"""Which models may have windows, and what a person reads where one may not."""

from __future__ import annotations

from typing import Any

import pytest
from lakehouse_analytics.contract.models import ContractError
from manifests import Manifest
from windowed import ladder, windowed


def refusal(**more: Any) -> str:
    m = Manifest()
    m.source("shop", "orders")
    windowed(m, "days", grain="daily", **more)
    with pytest.raises(ContractError) as caught:
        m.graph()
    return str(caught.value)


def test_the_ladder_loads_without_a_word() -> None:
    assert ladder().graph().warnings == ()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"materialized": "table"}, "needs `materialized: incremental`, not table"),
        ({"materialized": "view"}, "needs `materialized: incremental`, not view"),
        ({"kind": "seed"}, "needs `materialized: incremental`"),
        ({"kind": "snapshot"}, "needs `materialized: incremental`"),
        ({"full_refresh": True}, "`full_refresh: true`, which rebuilds the table in every run, and a run builds one"),
        ({"event_time": None}, "needs `event_time`, the column with the time of each row"),
        ({"begin": None}, "needs `begin`, the first day of its history, but it is not set"),
        ({"begin": "soon"}, "but it is 'soon': expected a date such as 2026-01-01"),
        ({"begin": "0001-01-01"}, "but it is '0001-01-01': expected a year from 1900 to 2100"),
        ({"begin": "2999-01-01"}, "but it is '2999-01-01': expected a year from 1900 to 2100"),
        ({"begin": "9999-12-31"}, "but it is '9999-12-31': expected a year from 1900 to 2100"),
        ({"begin": "x" * 100_000}, "(100,000 characters): expected a date such as 2026-01-01"),
        ({"begin": "2026-01-01T00:00:00+01:00"}, "expected no offset, because it is a time in LAKEHOUSE_TIMEZONE"),
        ({"incremental_strategy": None}, "`incremental_strategy: default`, which adds the window's rows a second time"),
        ({"incremental_strategy": "append"}, "which adds the window's rows a second time when it is built twice"),
        ({"incremental_strategy": "insert_overwrite"}, "which is not known to these engines; use replace_window"),
        (
            {"incremental_strategy": "microbatch", "batch_size": "month"},
            "a batch is longer than a window; set batch_size",
        ),
        ({"lakehouse": {"after": "shop.order"}}, "'shop.order', which does not exist; did you mean `shop.orders`?"),
        ({"lakehouse": {"partition": None, "after": "shop.orders"}}, "after is for models with a `partition`"),
    ],
)
def test_what_windows_would_spoil_is_refused_by_file_and_model(config: dict[str, Any], words: str) -> None:
    said = refusal(**config)
    assert "days" in said.split(":", maxsplit=1)[0] or "days" in said
    assert words in said


def test_a_microbatch_that_is_rebuilt_each_time_is_refused_beside_windows_only() -> None:
    m = Manifest()
    rebuilt: dict[str, Any] = {
        "materialized": "incremental",
        "incremental_strategy": "microbatch",
        "full_refresh": True,
    }
    m.model("all_of_it", folder="silver", event_time="t", begin="2026-01-01", **rebuilt)
    m.graph()
    windowed(m, "days", grain="daily")
    with pytest.raises(ContractError, match=r"all_of_it.*would delete all other rows"):
        m.graph()


@pytest.mark.parametrize("said", [None, False])
def test_windows_are_built_with_full_refresh_off(said: bool | None) -> None:
    m = Manifest()
    windowed(m, "days", grain="daily", full_refresh=said)
    assert m.graph().tables


def test_every_mistake_is_told_at_once() -> None:
    said = refusal(event_time=None, begin=None, incremental_strategy="append")
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize("after", ["shop.orders", ["shop.orders"]])
def test_after_takes_one_source_or_a_list(after: object) -> None:
    m = Manifest()
    m.source("shop", "orders")
    days = windowed(m, "days", grain="daily", lakehouse={"after": after})
    assert m.graph().tables[days].contract.after == ("shop.orders",)


@pytest.mark.parametrize("after", [5, "", [""], [5], {"a": 1}])
def test_after_takes_nothing_else(after: object) -> None:
    assert "meta.lakehouse.after is" in refusal(lakehouse={"after": after})


@pytest.mark.parametrize("piece", [0, -1, True, 1.5, "90", "0h", "6 hours", "6h30m", "", [6]])
def test_a_piece_of_a_window_that_cannot_be_cut_is_refused(piece: object) -> None:
    m = Manifest()
    days = windowed(m, "days", grain="daily")
    m.nodes[days]["config"]["meta"]["window_piece"] = piece
    with pytest.raises(ContractError) as caught:
        m.graph()
    said = str(caught.value)
    assert f"meta.window_piece is {piece!r}: expected how much of a window one commit replaces" in said


@pytest.mark.parametrize("piece", [1, 90, "6h", "30 m", "2d", "1w"])
def test_a_piece_is_a_number_of_partitions_or_a_duration(piece: object) -> None:
    m = Manifest()
    days = windowed(m, "days", grain="daily")
    m.nodes[days]["config"]["meta"]["window_piece"] = piece
    assert m.graph().warnings == ()


def test_a_piece_of_a_model_without_windows_is_the_projects_own_key() -> None:
    m = Manifest()
    m.nodes[m.model("orders", folder="gold")]["config"]["meta"]["window_piece"] = "north side"
    assert m.graph().warnings == ()


def test_a_strategy_of_the_projects_own_is_believed() -> None:
    m = Manifest()
    windowed(m, "days", grain="daily", incremental_strategy="swap_partition")
    assert m.graph().warnings == ()


@pytest.mark.parametrize(
    ("strategy", "words"), [("replace_window", "pass it no window"), ("microbatch", "since its last batch")]
)
def test_windows_without_a_grain_are_worth_a_word(strategy: str, words: str) -> None:
    m = Manifest()
    windowed(m, "days", grain="daily")
    m.model("m", folder="gold", materialized="incremental", incremental_strategy=strategy)
    [warning] = m.graph().warnings
    assert f"{strategy} without meta.lakehouse.partition" in warning
    assert words in warning
