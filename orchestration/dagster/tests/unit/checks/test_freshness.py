"""Freshness of sources: what we make of dbt's declarations and of what it measured, against dbt's own classes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from typing import Any

import dagster as dg
import pytest
from dbt.artifacts.resources.v1.components import FreshnessThreshold
from dbt.graph.selector_spec import RAW_SELECTOR_PATTERN
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.checks.freshness import THRESHOLDS, Freshness, freshness_result, selectors, thresholds
from lakehouse_analytics.checks.registry import EvaluationPoint, Scope, reserved_names, specs
from lakehouse_analytics.contract.models import SourceContract
from lakehouse_analytics.dbt.graph import Graph, Source
from lakehouse_analytics.dbt.nodes import Node
from manifests import Manifest

#: A limit as a manifest has it: dbt completes what is not said by null.
LIMITS = st.none() | st.fixed_dictionaries(
    {"count": st.none() | st.integers(0, 200), "period": st.none() | st.sampled_from(["minute", "hour", "day"])}
)
DECLARED = st.none() | st.fixed_dictionaries({"warn_after": LIMITS, "error_after": LIMITS, "filter": st.none()})
AGES = st.floats(-1e6, 1e8) | st.integers(0, 200 * 86400)


def graph(*sources: tuple[str, str, Any], asset_key: list[str] | None = None) -> Graph:
    m = Manifest()
    for source, table, declared in sources:
        unique_id = m.source(source, table, dagster={"asset_key": asset_key} if asset_key else None)
        m.sources[unique_id] |= {"freshness": declared}
    m.model("stg", *m.sources)
    return m.graph()


def source_of(declared: Any) -> Source:
    [source] = graph(("raw", "a", declared)).sources.values()
    return source


@given(DECLARED)
def test_a_source_has_the_check_where_dbt_evaluates_its_freshness(declared: Any) -> None:
    threshold = FreshnessThreshold.from_dict(declared) if declared else None
    source = source_of(declared)
    found = [*Freshness().specs(source, Scope(graph(("raw", "a", declared)), {}))]
    assert bool(found) == bool(threshold)
    assert all(not spec.blocking and spec.asset_key == dg.AssetKey(["raw", "a"]) for spec in found)


@given(DECLARED, AGES)
def test_a_result_is_as_severe_as_dbt_finds_the_age(declared: Any, age: float) -> None:
    threshold = FreshnessThreshold.from_dict(declared or {})
    status = str(threshold.status(age))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    measured = {"max_loaded_at": (now - timedelta(seconds=age)).isoformat(), "max_loaded_at_time_ago_in_s": age}
    result = freshness_result(source_of(declared), status, measured, "")
    assert result.passed == (status == "pass")
    assert (result.severity == dg.AssetCheckSeverity.WARN) == (status == "warn")
    # It names the threshold that dbt compared with, whichever is the longer one.
    exceeded = {name for name, of in THRESHOLDS.items() if of == status}
    assert {name for name in THRESHOLDS if f"{name} is" in (result.description or "")} == exceeded
    for name in exceeded:
        limit = getattr(threshold, name)
        assert f"{name} is {limit.count} {limit.period}" in (result.description or "")


def test_limits_are_written_as_people_say_them() -> None:
    declared = {"warn_after": {"count": 1, "period": "day"}, "error_after": {"count": 36, "period": "hour"}}
    assert thresholds(source_of(declared)) == {"warn_after": "1 day", "error_after": "36 hours"}


@pytest.mark.parametrize("message", ["Catalog Error: no table", ""])
def test_a_source_that_dbt_could_not_query_is_an_error(message: str) -> None:
    result = freshness_result(source_of({"warn_after": {"count": 1, "period": "day"}}), "runtime error", {}, message)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.ERROR
    assert result.description == f"dbt could not evaluate the source: {message or 'dbt gave no reason'}"


NAMES = st.text(st.sampled_from("ab_-.+@*?[] ,:ä"), min_size=1, max_size=6)


def node(source: str, table: str) -> Node:
    return Node(f"source.shop.{source}.{table}", "source", table, "shop", source_name=source)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=4, unique=True))
def test_dbt_selects_every_source_that_is_asked(names: list[tuple[str, str]]) -> None:
    sources = [
        Source(f"source.shop.{source}.{table}", (source, table), SourceContract(), node(source, table))
        for source, table in names
    ]
    # As dbt takes `--select` apart: at blanks and commas, and each value as a pattern of package, source and table.
    words = [word for selector in selectors(sources) for part in selector.split(" ") for word in part.split(",")]
    criteria = [match.groupdict() for word in words if (match := RAW_SELECTOR_PATTERN.match(word))]
    assert len(criteria) == len(words)
    assert all(c["method"] == "source" and not (c["parents"] or c["children"]) for c in criteria)
    values = [str(c["value"]).split(".") for c in criteria]
    patterns = [parts if len(parts) > 1 else ["*", *parts, "*"] for parts in values]
    for source, table in names:
        matching = [p for p in patterns if all(map(fnmatch, ("shop", source, table), p))]
        assert len(matching) == 1


def test_sources_of_one_asset_have_one_check() -> None:
    declared = {"error_after": {"count": 1, "period": "day"}}
    made = graph(("raw", "a", declared), ("raw", "b", declared), asset_key=["lake", "orders"])
    found = [*specs(Scope(made, {}), made.sources.values(), EvaluationPoint.BEFORE_TABLES)]
    assert [spec.key for spec in found] == [dg.AssetCheckKey(dg.AssetKey(["lake", "orders"]), "freshness")]


def test_a_dbt_test_of_a_source_gets_another_name_and_one_of_a_model_keeps_it() -> None:
    m = Manifest()
    source = m.source("raw", "a")
    model = m.model("stg", source)
    on_source, on_model = m.test("freshness", source, attached=source), m.test("freshness_", model, attached=model)
    m.nodes[on_model]["name"] = "freshness"
    made = m.graph()
    assert made.tests[on_source].name != "freshness"
    assert made.tests[on_model].name == "freshness"
    assert "freshness" in reserved_names(made.sources[source])
    assert "freshness" not in reserved_names(made.tables[model])
