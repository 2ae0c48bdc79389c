"""Few selectors, and exactly what they were asked for, by dbt's own matching."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from dbt.graph.selector_methods import QualifiedNameSelectorMethod
from hypothesis import assume, given
from hypothesis import strategies as st
from lakehouse_analytics.selectors import Fqn, select_args

PARTS = st.sampled_from(["bronze", "silver", "stg", "orders", "v1", "not_null_x"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(lambda parts: ("shop", *parts))


def _matched(args: list[str], everything: set[Fqn]) -> set[Fqn]:
    at = args.index("--exclude") if "--exclude" in args else len(args)
    assert args[0] == "--select"
    method = SimpleNamespace()

    def matches(selector: str, fqn: Fqn) -> bool:
        assert not set(selector) & set(" \t")
        name, _, package = selector.removeprefix("fqn:").partition(",package:")
        return QualifiedNameSelectorMethod.node_is_match(method, name, list(fqn), False) and package in ("", fqn[0])

    def of(selectors: list[str]) -> set[Fqn]:
        return {fqn for fqn in everything if any(matches(selector, fqn) for selector in selectors)}

    return of(args[1:at]) - of(args[at + 1 :])


@given(st.sets(NAMES, min_size=1, max_size=25), st.data())
def test_dbt_selects_exactly_what_was_asked_for(everything: set[Fqn], data: st.DataObject) -> None:
    # A node and a folder of one name cannot be told apart by names; no table is lost then (next test).
    assume(not any(a != b and b[: len(a)] == a for a in everything for b in everything))
    wanted = data.draw(st.sets(st.sampled_from(sorted(everything)), min_size=1))
    assert _matched(select_args(wanted, everything), everything) == wanted


@given(st.sets(NAMES, min_size=1, max_size=25), st.data())
def test_nothing_that_was_asked_for_is_ever_left_out(everything: set[Fqn], data: st.DataObject) -> None:
    wanted = data.draw(st.sets(st.sampled_from(sorted(everything)), min_size=1))
    assert _matched(select_args(wanted, everything), everything) >= wanted


@given(st.sets(NAMES, min_size=1, max_size=25), st.data())
def test_it_is_never_longer_than_one_name_each(everything: set[Fqn], data: st.DataObject) -> None:
    assume(not any(a != b and b[: len(a)] == a for a in everything for b in everything))
    wanted = data.draw(st.sets(st.sampled_from(sorted(everything)), min_size=1))
    assert len([word for word in select_args(wanted, everything) if word.startswith("fqn:")]) <= len(wanted)


def test_a_whole_layer_is_one_selector_and_a_layer_less_one_table_is_two() -> None:
    layer = {("shop", "bronze", f"stg_{n}") for n in range(400)}
    everything = layer | {("shop", "silver", "dim")}
    assert select_args(layer, everything) == ["--select", "fqn:shop.bronze"]
    assert select_args(layer - {("shop", "bronze", "stg_7")}, everything) == [
        "--select",
        "fqn:shop.bronze",
        "--exclude",
        "fqn:shop.bronze.stg_7",
    ]


@pytest.mark.parametrize("name", ["stg_orders", "v1"])
def test_a_table_without_a_folder_is_named_with_its_package(name: str) -> None:
    assert select_args({("shop", name)}, {("shop", name), ("shop", "other")}) == ["--select", f"fqn:shop.{name}"]


# Names that dbt's selectors cannot say, and packages named like folders.

ODD_PARTS = st.sampled_from(["shop", "x", "my models", "a,b", "stg", "orders"])
ODD_NAMES = st.tuples(st.sampled_from(["shop", "x"]), st.lists(ODD_PARTS, min_size=1, max_size=3)).map(
    lambda parts: (parts[0], *parts[1])
)


@given(st.sets(ODD_NAMES, min_size=1, max_size=15), st.data())
def test_packages_named_like_folders_and_names_with_blanks_stay_apart(
    everything: set[Fqn], data: st.DataObject
) -> None:
    # By names dbt cannot tell apart a node and a folder of one name, nor a package and a folder of its own.
    assume(all(name[0] != name[1] for name in everything))
    assume(not any(a != b and b[: len(a)] == a for a in everything for b in everything))
    wanted = data.draw(st.sets(st.sampled_from(sorted(everything)), min_size=1))
    assert _matched(select_args(wanted, everything), everything) == wanted
