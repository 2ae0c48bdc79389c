"""What `lakehouse build` builds, and the order of its jobs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.cli.selection import select_changed, steps
from lakehouse_analytics.impact.side import Inputs
from manifests import Manifest, manifests


@given(manifests(), st.data())
def test_every_table_is_built_once_and_after_those_that_it_reads(manifest: Manifest, data: st.DataObject) -> None:
    graph = manifest.graph()
    jobs = {name: data.draw(st.sampled_from(["main", "monthly", "region"])) for name in sorted(graph.tables)}
    chosen = data.draw(st.sets(st.sampled_from(sorted(graph.tables)))) if graph.tables else set()
    done: list[str] = []
    previous = ""
    for job, tables in steps(graph, chosen, jobs):
        assert job != previous
        assert {jobs[name] for name in tables} == {job}
        for name in tables:
            assert chosen & {*graph.tables[name].parents} <= {*done}
            done.append(name)
        previous = job
    assert sorted(done) == sorted(chosen)


def _project() -> Manifest:
    m = Manifest()
    source = m.source("raw", "t")
    a = m.model("a", source)
    v = m.model("v", a, materialized="view")
    w = m.model("w", v, materialized="view")
    short = m.model("short", w, materialized="ephemeral")
    b = m.model("b", short)
    c = m.model("c", b)
    lookup = m.model("lookup", a, materialized="view")
    m.model("other", a, materialized="view")
    m.test("related", c, lookup, attached=c)
    m.test("unique_a", a, attached=a)
    return m


def test_a_branch_gets_the_views_that_the_built_tables_and_their_tests_read() -> None:
    base, current = _project(), _project()
    current.nodes["model.shop.b"]["raw_code"] = "select 1"
    graph = current.graph()
    sides = Inputs(base.build()), Inputs(current.build())
    on_branch = select_changed(graph, *sides, without_views=True)
    assert on_branch.tables == {"model.shop.b", "model.shop.c"}
    assert on_branch.views == {"model.shop.v", "model.shop.w", "model.shop.lookup"}
    assert on_branch.built == on_branch.tables | on_branch.views
    assert select_changed(graph, *sides, without_views=False).built == on_branch.tables


def test_a_changed_ephemeral_model_reaches_its_readers() -> None:
    base, current = _project(), _project()
    current.nodes["model.shop.short"]["raw_code"] = "select 1"
    chosen = select_changed(current.graph(), Inputs(base.build()), Inputs(current.build()), without_views=False)
    assert chosen.changed == {"model.shop.short": ["SQL"]}
    assert chosen.tables == {"model.shop.b", "model.shop.c"}


def test_changed_tests_build_nothing() -> None:
    base, current = _project(), _project()
    current.nodes["test.shop.unique_a.0a1b2c"]["config"]["severity"] = "WARN"
    graph = current.graph()
    chosen = select_changed(graph, Inputs(base.build()), Inputs(current.build()), without_views=True)
    assert chosen.built == frozenset()
    assert chosen.tests == {"test.shop.unique_a.0a1b2c"}
    current.nodes["model.shop.a"]["raw_code"] = "select 1"
    with_table = select_changed(graph, Inputs(base.build()), Inputs(current.build()), without_views=True)
    assert with_table.tests == frozenset()  # those of a table that is built run with it
