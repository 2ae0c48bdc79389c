"""Every line of the registry of checks is what its module does."""

from __future__ import annotations

import importlib

import pytest
from lakehouse_analytics.checks.registry import KINDS, EvaluationPoint, Kind, Scope, reserved_names, table_check_names
from manifests import Manifest

ROWS = {"rows": {"severity": "error", "drift": {}}}
IDS = [kind.module.rsplit(".", 1)[-1] for kind in KINDS]


def shop() -> Scope:
    """A model and a source that every kind applies to."""
    m = Manifest()
    source = m.source("raw", "a")
    m.sources[source] |= {"freshness": {"warn_after": {"count": 1, "period": "day"}}}
    model = m.model("fct", source, lakehouse=ROWS)
    m.test("unique_fct_id", model, attached=model)
    return Scope(m.graph(), {})


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_a_kind_has_checks_of_the_names_in_its_line(kind: Kind) -> None:
    if kind.evaluated is EvaluationPoint.ALONE:
        assert importlib.import_module(kind.module)
        return
    scope, loaded = shop(), kind.load()
    owners = [*scope.graph.tables.values(), *scope.graph.sources.values()]
    specs = [spec for owner in owners for spec in loaded.specs(owner, scope)]
    assert specs
    if kind.names:
        assert {spec.name for spec in specs} == {*kind.names}
    assert hasattr(loaded, "evaluate") == (kind.evaluated is not EvaluationPoint.IN_DBT)


def test_no_two_kinds_have_a_name() -> None:
    names = [name for kind in KINDS for name in kind.names]
    assert len(names) == len({*names})


def test_names_are_reserved_where_the_checks_are() -> None:
    graph = shop().graph
    [table], [source] = graph.tables.values(), graph.sources.values()
    assert reserved_names(table) == table_check_names() == {"row_count", "row_count_drift"}
    assert reserved_names(source) == {name for kind in KINDS for name in kind.names}
