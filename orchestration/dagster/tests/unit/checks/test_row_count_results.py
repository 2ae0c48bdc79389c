from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from lakehouse_analytics.checks.dbt_tests import dbt_test_result as result_of_test
from lakehouse_analytics.checks.history import PastCount, history_of
from lakehouse_analytics.checks.registry import Scope
from lakehouse_analytics.checks.row_count import RowCounts
from lakehouse_analytics.checks.row_count_results import row_count_results
from lakehouse_analytics.checks.row_count_rules import Counts
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.run_results import NodeResult
from manifests import Manifest

NOW = datetime(2024, 3, 13, 12, tzinfo=UTC)
ROW_COUNT = dg.AssetCheckKey(dg.AssetKey(["gold", "fct"]), "row_count")
DRIFT = dg.AssetCheckKey(dg.AssetKey(["gold", "fct"]), "row_count_drift")
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def graph(rows: Mapping[str, Any] | None = None, severity: str = "ERROR") -> Graph:
    m = Manifest()
    table = m.model("fct", folder="gold", lakehouse={} if rows is None else {"rows": rows})
    m.test("unique_fct", table, attached=table, severity=severity)
    return m.graph()


def past(*evaluations: tuple[int, bool], baseline: int | None = None) -> list[PastCount]:
    """Newest first."""
    return [PastCount(NOW - timedelta(hours=n), rows, ok, baseline) for n, (rows, ok) in enumerate(evaluations, 1)]


class Given:
    """A history that is given: newest first."""

    def __init__(self, history: Sequence[PastCount]) -> None:
        self.history = history

    def last(self, key: dg.AssetCheckKey, partition: str | None = None) -> PastCount | None:
        return next((past for past in self.history if past.new_baseline is not None), None)

    def counts(self, key: dg.AssetCheckKey, partition: str | None = None) -> list[PastCount]:
        return [past for past in self.history if past.is_history]


def judge(
    rows: Mapping[str, Any] | None, counted: int, history: Sequence[PastCount] = (), *, accepted: bool = False
) -> dict[str, dg.AssetCheckResult]:
    [table] = graph(rows).tables.values()
    results = row_count_results(table, Counts(counted), Given(history), now=NOW, zone=UTC, accepted=accepted)
    assert all(result.asset_key == ROW_COUNT.asset_key for result in results)
    return {result.check_name or "": result for result in results}


def node(status: str, message: str = "", failures: int | None = None) -> NodeResult:
    return NodeResult("test.shop.unique_fct.0a1b2c", status, message, 0.1239, failures, None)


@pytest.mark.parametrize(
    ("status", "severity", "passed", "expected"),
    [
        ("pass", "ERROR", True, ERROR),
        ("fail", "ERROR", False, ERROR),
        ("error", "ERROR", False, ERROR),
        ("warn", "ERROR", False, WARN),
        ("pass", "WARN", True, WARN),
        ("warn", "WARN", False, WARN),
        ("fail", "WARN", False, ERROR),  # under `warn_error`
        ("error", "WARN", False, ERROR),
    ],
)
def test_a_dbt_test_becomes_a_check_result(
    status: str, severity: str, *, passed: bool, expected: dg.AssetCheckSeverity
) -> None:
    project = graph(severity=severity)
    [test] = project.tests.values()
    result = result_of_test(project, test, node(status, "Got 3 results", 3))
    assert (result.passed, result.severity) == (passed, expected)
    assert (result.asset_key, result.check_name) == (ROW_COUNT.asset_key, "unique_fct")
    assert result.description == "Got 3 results"
    assert result.metadata["failures"] == dg.IntMetadataValue(3)
    assert result.metadata["seconds"] == dg.FloatMetadataValue(0.124)


@pytest.mark.parametrize(("status", "blocking"), [("fail", True), ("error", True), ("warn", False), ("pass", False)])
def test_a_failure_that_stops_a_run_is_marked_for_dagsters_retry(status: str, blocking: bool) -> None:
    project = graph(severity="warn")
    [test] = project.tests.values()
    assert getattr(result_of_test(project, test, node(status)), "blocking", False) == blocking


def test_a_test_that_broke_has_no_count_of_failures() -> None:
    project = graph()
    [test] = project.tests.values()
    assert "failures" not in result_of_test(project, test, node("error")).metadata


def test_an_empty_table_nobody_spoke_of_is_a_warning() -> None:
    [result] = judge(None, 0).values()
    assert (result.passed, result.severity, result.description) == (False, WARN, "the table is empty")
    assert judge(None, 1)["row_count"].passed


def test_rules_are_errors_unless_they_say_warn() -> None:
    assert judge({"min": 5}, 4)["row_count"].severity == ERROR
    assert judge({"min": 5, "severity": "warn"}, 4)["row_count"].severity == WARN


@pytest.mark.parametrize("rows", [None, {}, {"severity": "warn"}, {"drift": {"severity": "error"}}])
def test_a_result_is_as_blocking_as_its_spec(rows: Mapping[str, Any] | None) -> None:
    # Dagster gates by the spec, our op by the result's severity: they must not differ.
    made = graph(rows)
    every = (spec for table in made.tables.values() for spec in RowCounts().specs(table, Scope(made, {})))
    blocking = {spec.name: spec.blocking for spec in every}
    assert blocking == {name: result.severity == ERROR for name, result in judge(rows, 0).items()}


def test_a_drop_is_measured_from_the_last_passed_count_not_from_the_last() -> None:
    history = past((10, False), (40, False), (100, True), (1, True))
    result = judge({"max_drop": 0.5}, 45, history)["row_count"]
    assert not result.passed
    assert result.description == (
        "45 rows, 55% fewer than the 100 of the last passed check (max_drop 50%); "
        "to accept this count as the new level, run with accept_row_counts: [fct]"
    )
    assert result.metadata["last_passed_rows"] == dg.IntMetadataValue(100)


def test_a_drop_looked_at_for_months_does_not_become_normal() -> None:
    # The passed check has left the part of the history that is read; the failed ones remember it.
    result = judge({"max_drop": 0.5}, 45, past(*[(45, False)] * 60, baseline=100))["row_count"]
    assert not result.passed
    assert result.metadata["last_passed_rows"] == dg.IntMetadataValue(100)


def test_without_an_earlier_count_a_drop_is_not_judged_and_that_is_said() -> None:
    result = judge({"max_drop": 0.5}, 1)["row_count"]
    assert result.passed
    assert result.description == "1 rows; max_drop not checked: no earlier count"


def test_an_accepted_count_may_drop_but_must_keep_every_other_rule() -> None:
    history = past((1000, True))
    result = judge({"max_drop": 0.1, "min": 5}, 10, history, accepted=True)["row_count"]
    assert result.passed
    assert "accepted by hand" in (result.description or "")
    assert not judge({"max_drop": 0.1, "min": 50}, 10, history, accepted=True)["row_count"].passed


def test_drift_is_a_check_of_its_own_and_only_where_asked() -> None:
    assert set(judge({}, 1)) == {"row_count"}
    assert set(judge({"drift": {}}, 1)) == {"row_count", "row_count_drift"}


def test_drift_without_enough_history_passes_and_says_so() -> None:
    result = judge({"drift": {}}, 5, past(*[(1000, True)] * 6))["row_count_drift"]
    assert result.passed
    assert result.description == "not compared: 6 earlier counts, 7 are needed"
    assert result.metadata["judged"] == dg.BoolMetadataValue(value=False)
    assert "median" not in result.metadata


def test_drift_fails_with_its_own_severity() -> None:
    history = past(*[(1000, True)] * 10)
    warned = judge({"drift": {}}, 5, history)["row_count_drift"]
    stopped = judge({"drift": {"severity": "error"}, "severity": "warn"}, 5, history)["row_count_drift"]
    assert (warned.passed, warned.severity) == (False, WARN)
    assert (stopped.passed, stopped.severity) == (False, ERROR)
    assert stopped.metadata["median"] == dg.FloatMetadataValue(1000.0)


def test_drift_starts_anew_from_an_accepted_count() -> None:
    history = past(*[(1000, True)] * 10)
    result = judge({"drift": {}}, 5, history, accepted=True)["row_count_drift"]
    assert result.passed
    assert "(accepted by hand)" in (result.description or "")
    accepted = PastCount(NOW, 5, passed=True, accepted=True)
    after = judge({"drift": {"min_history": 3}}, 6, [*past((5, True), (6, True)), accepted, *history])[
        "row_count_drift"
    ]
    assert after.passed
    assert after.metadata["earlier_counts"] == dg.IntMetadataValue(3)
    assert after.metadata["median"] == dg.FloatMetadataValue(5.0)


def evaluate(instance: dg.DagsterInstance, counted: int, *, accepted: bool = False) -> dg.AssetCheckEvaluation:
    """Judge one count in a real run, with the history that Dagster has stored."""
    [table] = graph({"max_drop": 0.5, "drift": {"min_history": 3}}).tables.values()

    @dg.multi_asset_check(specs=[dg.AssetCheckSpec(k.name, asset=k.asset_key) for k in (ROW_COUNT, DRIFT)])
    def counts(context) -> Any:  # type: ignore[no-untyped-def]  # Dagster does not resolve the text of an annotation
        history = history_of(context.instance)
        yield from row_count_results(table, Counts(counted), history, now=NOW, zone=UTC, accepted=accepted)

    asset = dg.AssetSpec(ROW_COUNT.asset_key)
    job = dg.Definitions(assets=[asset], asset_checks=[counts]).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance)
    return next(e for e in result.get_asset_check_evaluations() if e.check_name == "row_count")


def test_history_is_what_passed_or_was_accepted_newest_first() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        passed = [evaluate(instance, counted).passed for counted in (100, 45, 60, 29)]
        assert passed == [True, False, True, False]
        history = history_of(instance)
        newest = history.last(ROW_COUNT)
        assert newest
        assert (newest.rows, newest.passed, newest.baseline, newest.new_baseline) == (29, False, 60, 60)
        assert newest.when.tzinfo is not None
        assert [past.rows for past in history.counts(ROW_COUNT)] == [60, 100]
        assert evaluate(instance, 10, accepted=True).passed
        assert evaluate(instance, 6).passed
        assert [(past.rows, past.accepted) for past in history.counts(DRIFT)] == [
            (6, False),
            (10, True),
            (60, False),
            (100, False),
        ]


def test_a_check_that_never_ran_has_no_history() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert history_of(instance).last(ROW_COUNT) is None
        assert history_of(instance).counts(DRIFT) == []


@pytest.mark.parametrize("status", ["fail", "error", "warn", "pass"])
def test_a_test_that_did_not_pass_shows_the_sql_that_finds_the_rows(status: str) -> None:
    g = graph()
    [test] = g.tests.values()
    result = result_of_test(g, test, NodeResult(test.unique_id, status, "", 0.1, 1, "\nselect id from fct\n"))
    shown = result.metadata.get("sql")
    assert shown == (None if status == "pass" else dg.MetadataValue.md("```sql\nselect id from fct\n```"))
    long = result_of_test(g, test, NodeResult(test.unique_id, "fail", "", 0.1, 1, "x" * 1_000_000))
    assert len(str(long.metadata["sql"].value)) < 11_000
