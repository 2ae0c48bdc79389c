"""Policies of this code location: warnings in other people's projects, errors under LAKEHOUSE_STRICT."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.partitions.definitions import time_zone_warnings
from manifests import PROJECT, Manifest
from windowed import windowed

DELETE_INSERT = {
    "materialized": "incremental",
    "incremental_strategy": "delete+insert",
    "unique_key": "id",
    "on_table_exists": "replace",
}
MICROBATCH = {**DELETE_INSERT, "incremental_strategy": "microbatch"}
TRACED = {"query-comment": "{{ query_comment(node) }}"}


def on_trino(m: Manifest, *, strict: bool = False, project: dict[str, Any] | None = None) -> Graph:
    metadata = {"adapter_type": "trino", "project_name": PROJECT}
    return read({**m.build(), "metadata": metadata}, {**TRACED, **(project or {})}, strict=strict)


def facts(number: int, **config: Any) -> Manifest:
    m = Manifest()
    for n in range(number):
        m.model(f"fact_{n:02}", folder="gold", **{**DELETE_INSERT, **config})
    return m


def test_a_project_of_delete_insert_loads_with_one_line_that_counts_names_and_shows_the_way_out() -> None:
    graph = on_trino(facts(21))
    assert len(graph.tables) == 21
    [warning] = graph.warnings
    assert warning.startswith("21 models (fact_00 ")
    assert "fact_04" in warning
    assert "fact_05" not in warning
    assert "and 16 more" in warning
    for way_out in (
        "use merge with the same unique_key",
        "meta.lakehouse.accept: [not_atomic]",
        "LAKEHOUSE_STRICT=true",
    ):
        assert way_out in warning


def test_one_model_is_named_with_its_file() -> None:
    [warning] = on_trino(facts(1)).warnings
    assert warning.startswith("models/gold/fact_00.sql: model fact_00 ")


@pytest.mark.parametrize("config", [DELETE_INSERT, MICROBATCH, {"on_table_exists": "drop"}])
def test_strict_refuses_every_model_with_its_file(config: dict[str, Any]) -> None:
    m = Manifest()
    m.model("one", folder="gold", **config)
    m.model("two", folder="gold", **config)
    with pytest.raises(ContractError) as caught:
        on_trino(m, strict=True)
    one, two = str(caught.value).splitlines()
    assert one.startswith("models/gold/one.sql: model one ")
    assert two.startswith("models/gold/two.sql: model two ")
    assert "meta.lakehouse.accept: [not_atomic]" in two
    assert "LAKEHOUSE_STRICT" in two


@pytest.mark.parametrize("accept", ["not_atomic", ["not_atomic"]])
def test_one_key_accepts_a_model_strict_or_not(accept: object) -> None:
    m = facts(1, lakehouse={"accept": accept})
    assert on_trino(m, strict=True).warnings == ()
    m.model("other", folder="gold", **MICROBATCH)
    with pytest.raises(ContractError, match="model other"):
        on_trino(m, strict=True)
    [warning] = on_trino(m).warnings
    assert "model other" in warning


def test_a_folder_is_accepted_in_the_project_file() -> None:
    project = {"models": {PROJECT: {"gold": {"+meta": {"lakehouse": {"accept": ["not_atomic"]}}}}}}
    assert on_trino(facts(3), strict=True, project=project).warnings == ()


def test_what_can_be_accepted_is_a_list_of_names() -> None:
    with pytest.raises(ContractError, match="'not_atomic'") as caught:
        facts(1, lakehouse={"accept": ["not_atomc"]}).graph()
    assert "meta.lakehouse.accept.0 is 'not_atomc'" in str(caught.value)


def test_each_kind_is_accepted_by_its_own_name() -> None:
    m = Manifest()
    m.model("a", folder="gold", on_table_exists="skip", contract={"enforced": True}, lakehouse={"accept": "not_atomic"})
    with pytest.raises(ContractError, match=r"accept: \[repeated_inserts\]"):
        on_trino(m, strict=True)


def test_windows_that_keep_rows_are_a_policy_too() -> None:
    m = Manifest()
    days = windowed(m, "days", grain="daily", incremental_strategy="merge")
    [warning] = m.graph().warnings
    assert "keeps rows that a window no longer has" in warning
    with pytest.raises(ContractError, match=r"accept: \[stale_rows\]"):
        m.graph(strict=True)
    m.nodes[days]["config"]["meta"]["lakehouse"]["accept"] = ["stale_rows"]
    assert m.graph(strict=True).warnings == ()


def test_batches_that_are_cut_in_utc_are_a_policy_too() -> None:
    m = Manifest()
    days = windowed(m, "days", grain="daily", incremental_strategy="microbatch", batch_size="day")
    assert time_zone_warnings(m.graph(), "UTC", strict=True) == []
    [warning] = time_zone_warnings(m.graph(), "Europe/Berlin", strict=False)
    assert "model days: dbt cuts the batches of a microbatch model in UTC" in warning
    with pytest.raises(ContractError, match=r"accept: \[utc_batches\]"):
        time_zone_warnings(m.graph(), "Europe/Berlin", strict=True)
    m.nodes[days]["config"]["meta"]["lakehouse"]["accept"] = ["utc_batches"]
    assert time_zone_warnings(m.graph(), "Europe/Berlin", strict=True) == []


def test_mistakes_in_the_contract_are_errors_all_the_same() -> None:
    m = facts(1, lakehouse={"layr": "gold"})
    with pytest.raises(ContractError, match="unknown key"):
        on_trino(m, strict=False)


def test_what_can_refuse_the_project_comes_first() -> None:
    m = Manifest()
    for n in range(3):
        m.model(f"unmapped_{n}", folder="scratch")
    m.model("renamed", folder="gold", on_table_exists="rename")
    m.model("fact", folder="gold", **DELETE_INSERT)
    first, *others = on_trino(m).warnings
    assert "delete+insert" in first
    assert len(others) == 2  # the renamed models, and the unmapped


@given(
    st.lists(st.sampled_from(["delete+insert", "microbatch", "merge", "drop", "rename"]), max_size=30), st.booleans()
)
def test_the_number_of_lines_goes_by_kinds_and_not_by_models(kinds: list[str], strict: bool) -> None:
    m = Manifest()
    for n, kind in enumerate(kinds):
        if kind in ("drop", "rename"):
            m.model(f"m{n}", folder="gold", on_table_exists=kind)
        else:
            m.model(f"m{n}", folder="gold", **{**DELETE_INSERT, "incremental_strategy": kind})
    refused = [kind for kind in kinds if kind in ("delete+insert", "microbatch", "drop")]
    if strict and refused:
        with pytest.raises(ContractError) as caught:
            on_trino(m, strict=True)
        assert len(str(caught.value).splitlines()) == len(refused)
    else:
        assert len(on_trino(m, strict=strict).warnings) == len({*kinds} - {"merge"})
