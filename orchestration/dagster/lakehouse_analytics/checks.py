"""Check results: what dbt and the row counts said, as Dagster reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

import dagster as dg

from lakehouse_analytics.contract import Drift, Rows
from lakehouse_analytics.gates import FAILED_STATUS
from lakehouse_analytics.graph import DbtTest, Graph, Table
from lakehouse_analytics.row_counts import Counts, DriftVerdict, broken_rules, judge_drift
from lakehouse_analytics.run_results import NodeResult
from lakehouse_analytics.translator import DRIFT, ROW_COUNT, asset_key, check_key

#: Earlier evaluations of one check that are looked at: two months of a daily run.
HISTORY = 60
ROWS = "rows"
BASELINE = "last_passed_rows"
ACCEPTED = "accepted_by_hand"

#: A table that says nothing of rows: empty is worth a warning, never a stop.
UNSAID = Rows(severity="warn")

_SEVERITY = {"error": dg.AssetCheckSeverity.ERROR, "warn": dg.AssetCheckSeverity.WARN}


@dataclass(frozen=True)
class Past:
    """One earlier evaluation of a row-count check."""

    when: datetime
    rows: int
    passed: bool
    baseline: int | None = None  # rows of the last passed check, as this one saw it
    accepted: bool = False

    @property
    def known(self) -> int | None:
        """Rows of the last passed check: this one's own, where it passed."""
        return self.rows if self.passed else self.baseline


#: Earlier evaluations of a check, newest first.
History = Callable[[dg.AssetCheckKey], Sequence[Past]]


def history_of(instance: dg.DagsterInstance) -> History:
    """Read a check's own history from Dagster's event log; about 5 ms a check."""

    def read(key: dg.AssetCheckKey) -> list[Past]:
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=HISTORY)
        return list(past_of(records))

    return read


def past_of(records: Iterable[object]) -> Iterable[Past]:
    """Those records of evaluations that tell a row count."""
    for record in records:
        event = getattr(record, "event", None)
        evaluation = event.asset_check_evaluation if event else None
        value = evaluation.metadata.get(ROWS) if evaluation else None
        if event and evaluation and isinstance(value, dg.IntMetadataValue) and value.value is not None:
            baseline = evaluation.metadata.get(BASELINE)
            yield Past(
                datetime.fromtimestamp(event.timestamp, UTC),
                value.value,
                evaluation.passed,
                baseline.value if isinstance(baseline, dg.IntMetadataValue) else None,
                ACCEPTED in evaluation.metadata,
            )


def dbt_test_result(graph: Graph, test: DbtTest, result: NodeResult) -> dg.AssetCheckResult | dg.AssetCheckEvaluation:
    """The outcome of a dbt test that ran.

    dbt's status decides what stops a run: dbt reports a failure of a test with `severity: warn` only under
    `warn_error`, and an error where the test could not run at all.
    """
    key = check_key(graph, test)
    failed = result.status in FAILED_STATUS
    warned = not failed and (result.status == "warn" or not test.blocking)
    outcome: dict[str, Any] = {
        "asset_key": key.asset_key,
        "check_name": key.name,
        "passed": result.status == "pass",
        "severity": _SEVERITY["warn" if warned else "error"],
        "description": result.message or None,
        "metadata": {
            "status": result.status,
            "seconds": round(result.seconds, 3),
            **({"failures": result.failures} if result.failures is not None else {}),
        },
    }
    if failed and not test.blocking:
        # Dagster's retry from the failed asset looks again only at checks whose evaluation is marked as blocking.
        return dg.AssetCheckEvaluation(blocking=True, **outcome)
    return dg.AssetCheckResult(**outcome)


def row_count_results(
    table: Table, counts: Counts, history: History, *, now: datetime, zone: tzinfo, accepted: bool
) -> list[dg.AssetCheckResult]:
    """The row-count check of one table, and its drift check where the contract asks for one.

    Args:
        table: What was counted.
        counts: What was seen.
        history: Earlier evaluations.
        now, zone: The time of this count, and the zone that decides its weekday.
        accepted: Somebody said that this count is the new normal: `max_drop` and drift start from it.
    """
    rules = table.contract.rows or UNSAID
    key = dg.AssetCheckKey(asset_key(table), ROW_COUNT)
    last_passed = None
    if rules.max_drop is not None and not accepted:
        # A failed check carries the baseline on: it must not fall out of the history that is looked at.
        last_passed = next((past.known for past in history(key) if past.known is not None), None)
    rows = row_count_outcome(rules, counts.rows, last_passed, accepted=accepted)
    results = [dg.AssetCheckResult(asset_key=key.asset_key, check_name=ROW_COUNT, **rows)]
    if rules.drift:
        drift_key = dg.AssetCheckKey(asset_key(table), DRIFT)
        past = [(p.when, p.rows) for p in _since_accepted(history(drift_key))]
        verdict = judge_drift(rules.drift, counts.rows, past, now, zone)
        drift = drift_outcome(rules.drift, counts.rows, verdict, len(past), accepted=accepted)
        results.append(dg.AssetCheckResult(asset_key=key.asset_key, check_name=DRIFT, **drift))
    return results


def row_count_outcome(rules: Rows, rows: int, last_passed: int | None, *, accepted: bool) -> dict[str, Any]:
    """The row-count check, as the fields that a result and an evaluation share.

    Args:
        rules: The contract.
        rows: Rows now.
        last_passed: Rows of the last passed check of the same rows, where it is known and counts.
        accepted: Somebody said that this count is the new normal.
    """
    broken = broken_rules(rules, rows, last_passed)
    notes = [f"{rows} rows"]
    if rules.max_drop is not None and last_passed is None:
        notes.append("max_drop not judged: accepted by hand" if accepted else "max_drop not judged: no earlier count")
    return {
        "passed": not broken,
        "severity": _SEVERITY[rules.severity],
        "description": "; ".join(broken or notes),
        "metadata": {ROWS: rows, **({BASELINE: last_passed} if last_passed is not None else {})},
    }


def drift_outcome(rules: Drift, rows: int, verdict: DriftVerdict, earlier: int, *, accepted: bool) -> dict[str, Any]:
    """The drift check, likewise; `earlier` is how many counts were looked at."""
    note = " (accepted by hand)" if accepted and not verdict.passed else ""
    return {
        "passed": verdict.passed or accepted,
        "severity": _SEVERITY[rules.severity],
        "description": verdict.explanation + note,
        "metadata": {
            ROWS: rows,
            "judged": verdict.judged,
            "earlier_counts": earlier,
            **({ACCEPTED: True} if accepted else {}),
            **({"median": verdict.median, "allowed": verdict.allowed} if verdict.judged else {}),
        },
    }


def uncounted_results(table: Table, reason: str) -> list[dg.AssetCheckResult]:
    """The same checks where the table could not be counted: failed, so that a retry looks at the table again."""
    return [
        dg.AssetCheckResult(asset_key=asset_key(table), check_name=name, **outcome)
        for name, outcome in uncounted_outcomes(table, reason).items()
    ]


def uncounted_outcomes(table: Table, reason: str) -> dict[str, dict[str, Any]]:
    """The fields of these checks, by name."""
    rules = table.contract.rows or UNSAID
    severities = {ROW_COUNT: rules.severity} | ({DRIFT: rules.drift.severity} if rules.drift else {})
    return {
        name: {"passed": False, "severity": _SEVERITY[severity], "description": f"cannot be counted: {reason}"}
        for name, severity in severities.items()
    }


def _since_accepted(history: Iterable[Past]) -> Iterable[Past]:
    for past in history:
        yield past
        if past.accepted:
            return
