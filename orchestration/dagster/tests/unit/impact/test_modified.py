"""What differs from the base, without the lineage of columns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.impact.modified import downstream, modified
from lakehouse_analytics.impact.side import Inputs
from manifests import PROJECT, Manifest, manifests

A, B = f"model.{PROJECT}.a", f"model.{PROJECT}.b"


def project() -> dict[str, Any]:
    m = Manifest()
    a = m.model("a", m.source("raw", "t"), folder="bronze")
    m.model("b", a, folder="silver")
    m.model("codes", kind="seed", column_types={"code": "integer"})
    m.test("unique_a", a, attached=a)
    m.function("area")
    built = m.build()
    built["macros"] = {
        "macro.shop.outer": {"macro_sql": "{{ inner() }}", "depends_on": {"macros": ["macro.shop.inner"]}},
        "macro.shop.inner": {"macro_sql": "1", "depends_on": {"macros": []}},
    }
    for number, node in enumerate(built["nodes"].values()):
        node |= {"raw_code": f"select {number}", "compiled_code": f"select {number}", "checksum": {"checksum": "1"}}
    built["nodes"][B]["depends_on"]["macros"] = ["macro.shop.outer"]
    return built


@pytest.mark.parametrize(
    ("unique_id", "path", "value", "reasons"),
    [
        (A, ("raw_code",), "select 7", ["SQL"]),
        (A, ("raw_code",), "select 0\n", None),
        (A, ("compiled_code",), "select 7", ["compiled SQL"]),
        (A, ("compiled_code",), None, None),  # a macro that needs a connection
        (A, ("config", "unique_key"), "id", ["config unique_key"]),
        (A, ("description",), "Orders", None),
        (A, ("schema",), "other", ["relation"]),
        (f"seed.{PROJECT}.codes", ("checksum",), {"checksum": "2"}, ["seed"]),
        (f"seed.{PROJECT}.codes", ("config", "column_types"), {"code": "varchar"}, ["config column_types"]),
        (f"test.{PROJECT}.unique_a.0a1b2c", ("config", "severity"), "WARN", ["config severity"]),
        (f"source.{PROJECT}.raw.t", ("identifier",), "t2", ["relation"]),
        (f"function.{PROJECT}.area", ("raw_code",), "select pi()", ["SQL"]),
    ],
)
def test_reasons(unique_id: str, path: tuple[str, ...], value: object, reasons: list[str] | None) -> None:
    base, current = project(), project()
    node = {**current["nodes"], **current["sources"], **current["functions"]}[unique_id]
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    assert modified(Inputs(base), Inputs(current)) == ({unique_id: reasons} if reasons else {})


def test_a_macro_of_a_macro() -> None:
    base, current = project(), project()
    current["macros"]["macro.shop.inner"]["macro_sql"] = "2"
    assert modified(Inputs(base), Inputs(current)) == {B: ["macro inner"]}


def test_new_and_removed_nodes() -> None:
    base, current = project(), project()
    del base["nodes"][B], current["nodes"][f"test.{PROJECT}.unique_a.0a1b2c"]
    assert modified(Inputs(base), Inputs(current)) == {B: ["new"]}


def test_an_incremental_model_reads_other_rows() -> None:
    base, current = project(), project()
    before, after = Inputs(base, {A: "select 1 where false"}), Inputs(current, {A: "select 1 where true"})
    assert modified(before, after) == {A: ["compiled SQL"]}
    assert modified(Inputs(base), after) == {}


@given(manifests(tests=True), st.data())
def test_downstream_is_what_can_be_reached(manifest: Manifest, data: st.DataObject) -> None:
    built = copy.deepcopy(manifest.build())
    everything = {**built["nodes"], **built["sources"]}
    start = data.draw(st.sets(st.sampled_from(sorted(everything)), max_size=3))
    expected = set(start)
    while (
        more := {
            name for name, node in everything.items() if expected & {*(node.get("depends_on") or {}).get("nodes", ())}
        }
        - expected
    ):
        expected |= more
    assert downstream(built, start) == expected
