"""Where a table is read on a branch that consists of schemas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.branches.catalog import BranchError, Name
from lakehouse_analytics.branches.deferral import refuse_other_databases, schemas_of_build
from lakehouse_analytics.branches.names import name_of
from manifests import Manifest, manifests, medallion


def test_what_is_built_or_selected_is_read_on_the_branch() -> None:
    graph = medallion().graph()
    schemas = schemas_of_build(
        graph.tables.values(),
        "pr_42",
        selected=["model.shop.fct"],
        built=[Name("main", "dim_a"), Name("main", "not_in_the_project"), Name("other", "dim_b")],
    )
    assert schemas == {"model.shop.fct": "main__pr_42", "model.shop.dim_a": "main__pr_42"}
    relations = {table.name: table.node.relation_name for table in graph.with_schemas(schemas).tables.values()}
    assert relations["dim_a"] == '"lake"."main__pr_42"."dim_a"'
    assert relations["dim_b"] == '"lake"."main"."dim_b"'


@given(made=manifests(), runs=st.lists(st.sets(st.integers(0, 9), max_size=4), max_size=5))
def test_every_run_reads_what_earlier_ones_have_built(made: Manifest, runs: list[set[int]]) -> None:
    """After any runs, a table is read on the branch if and only if one of them, or the run itself, builds it."""
    graph = made.graph()
    built: set[Name] = set()
    ever: set[str] = set()
    for numbers in runs:
        selected = [name for place, name in enumerate(sorted(graph.tables)) if place in numbers]
        schemas = schemas_of_build(graph.tables.values(), "b", selected=selected, built=built)
        assert schemas.keys() == ever | {*selected}
        on_branch = graph.with_schemas(schemas)
        for unique_id, table in on_branch.tables.items():
            expected = "main__b" if unique_id in schemas else "main"
            assert (table.node.schema, name_of(table).schema) == (expected, expected)
        ever |= {*selected}
        built |= {name_of(graph.tables[name]) for name in selected}


def test_tables_of_other_databases_are_refused() -> None:
    made = medallion()
    made.nodes["model.shop.dim_a"]["database"] = "elsewhere"
    graph = made.graph()
    with pytest.raises(BranchError, match=r"must be in Lake, .* and these are not: silver/dim_a \(elsewhere\)\."):
        refuse_other_databases(graph.tables.values(), "Lake")
    refuse_other_databases([table for table in graph.tables.values() if table.name != "dim_a"], "Lake")
