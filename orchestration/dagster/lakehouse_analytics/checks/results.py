"""Results of the row-count checks, as Dagster reports them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, tzinfo
from typing import Any

import dagster as dg

from lakehouse_analytics.checks.history import (
    ACCEPTED,
    BASELINE,
    EXCLUDED,
    REMEMBERED,
    ROWS,
    STARTS,
    History,
    Past,
    memory_of,
)
from lakehouse_analytics.checks.row_count_rules import Counts, DriftVerdict, broken_rules, judge_drift
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.contract.models import Drift, Rows
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.keys import asset_key

#: A table that says nothing of rows: empty is worth a warning, never a stop.
UNSAID = Rows(severity="warn")

#: Of Dagster, by dbt's and the contract's word.
SEVERITY = {"error": dg.AssetCheckSeverity.ERROR, "warn": dg.AssetCheckSeverity.WARN}


def row_count_results(
    table: Table, counts: Counts, history: History, *, now: datetime, zone: tzinfo, accepted: bool
) -> list[dg.AssetCheckResult]:
    """The row-count check of one table, and its drift check if the contract has one.

    Args:
        table: The table that was counted.
        counts: Its counts.
        history: Earlier counts.
        now: The time of this count, aware.
        zone: Decides what a weekday is.
        accepted: An operator accepts this count as the new level: `max_drop` and drift start from it.
    """
    rules = table.contract.rows or UNSAID
    key = dg.AssetCheckKey(asset_key(table), ROW_COUNT)
    last_passed = None
    if rules.max_drop is not None and not accepted:
        last_passed = last_count(history, key)
    rows = row_count_outcome(rules, counts.rows, last_passed, name=table.name, accepted=accepted)
    results = [dg.AssetCheckResult(asset_key=key.asset_key, check_name=ROW_COUNT, **rows)]
    if rules.drift:
        drift_key = dg.AssetCheckKey(asset_key(table), DRIFT)
        earlier = [*_since_accepted(history.counts(drift_key))]
        past = [(p.when, p.rows) for p in earlier if p.rows is not None]
        verdict = judge_drift(rules.drift, counts.rows, past, now, zone)
        drift = drift_outcome(
            rules.drift, counts.rows, verdict, len(past),
            name=table.name, accepted=accepted, row_count_passed=rows["passed"], history=earlier,
        )  # fmt: skip
        results.append(dg.AssetCheckResult(asset_key=key.asset_key, check_name=DRIFT, **drift))
    return results


def last_count(history: History, key: dg.AssetCheckKey, partition: str | None = None) -> int | None:
    """The last count of a check that passed or was accepted; None if there is none."""
    past = history.last(key, partition)
    return past.known if past else None


def row_count_outcome(rules: Rows, rows: int, last_passed: int | None, *, name: str, accepted: bool) -> dict[str, Any]:
    """The row-count check, as the fields that a result and an evaluation share.

    Args:
        rules: The contract.
        rows: Rows now.
        last_passed: Rows of the last count of the same table or partition that passed or was accepted, if known.
        name: Of the model, as `accept_row_counts` takes it.
        accepted: An operator accepts this count as the new level.
    """
    broken = broken_rules(rules, rows, last_passed)
    notes = [f"{rows} rows"]
    if rules.max_drop is not None and last_passed is None:
        notes.append("max_drop not judged: accepted by hand" if accepted else "max_drop not judged: no earlier count")
    if any("(max_drop" in rule for rule in broken):
        broken.append(_how_to_accept(name))
    return {
        "passed": not broken,
        "severity": SEVERITY[rules.severity],
        "description": "; ".join(broken or notes),
        "metadata": {
            ROWS: rows,
            **({BASELINE: last_passed} if last_passed is not None else {}),
            **({ACCEPTED: True} if accepted else {}),
        },
    }


def drift_outcome(
    rules: Drift,
    rows: int,
    verdict: DriftVerdict,
    earlier: int,
    *,
    name: str,
    accepted: bool,
    row_count_passed: bool,
    memory: Past | None = None,
    history: Iterable[Past] = (),
) -> dict[str, Any]:
    """The drift check, likewise.

    Args:
        rules: The contract.
        rows: Rows now.
        verdict: The comparison with earlier counts.
        earlier: How many counts were compared with.
        name: Of the model, as `accept_row_counts` takes it.
        accepted: An operator accepts this count as the new level.
        row_count_passed: Result of `row_count` for the same count: one that failed does not become history.
        memory: Of a partition, what is known from its earlier evaluations.
        history: Of a table without partitions, the earlier counts since the last accepted one, newest first.
    """
    passed = verdict.passed or accepted
    excluded = not accepted and not row_count_passed
    carried = _carried(memory)
    note = " (accepted by hand)" if accepted and not verdict.passed else "" if passed else f"; {_how_to_accept(name)}"
    return {
        "passed": passed,
        "severity": SEVERITY[rules.severity],
        "description": verdict.explanation + note,
        "metadata": {
            ROWS: rows,
            "judged": verdict.judged,
            "earlier_counts": earlier,
            **carried,
            **({ACCEPTED: True} if accepted else {}),
            **({EXCLUDED: "row_count failed"} if excluded else {}),
            # One that failed hides no earlier count: only those that passed are searched.
            **({REMEMBERED: memory_of(history)} if excluded and passed and not carried else {}),
            **({"median": verdict.median, "allowed": verdict.allowed} if verdict.judged else {}),
        },
    }


def _how_to_accept(name: str) -> str:
    return f"to accept this count as the new level, run with accept_row_counts: [{name}]"


def _carried(memory: Past | None) -> dict[str, Any]:
    """What an evaluation records of the ones before it."""
    if memory is None or memory.known is None:
        return {}
    return {BASELINE: memory.known, **({STARTS: True} if memory.accepted or memory.starts else {})}


def uncounted_results(table: Table, reason: str, history: History) -> list[dg.AssetCheckResult]:
    """The same checks if the table could not be counted: failed, so that a retry looks at the table again."""
    return [
        dg.AssetCheckResult(asset_key=asset_key(table), check_name=name, **outcome)
        for name, outcome in uncounted_outcomes(table, reason, history).items()
    ]


def uncounted_outcomes(
    table: Table, reason: str, history: History, partition: str | None = None
) -> dict[str, dict[str, Any]]:
    """The fields of these checks, by name. They record the baseline that the next count is compared with."""
    rules = table.contract.rows or UNSAID
    severities = {ROW_COUNT: rules.severity} | ({DRIFT: rules.drift.severity} if rules.drift else {})
    return {
        name: {
            "passed": False,
            "severity": SEVERITY[severity],
            "description": f"cannot be counted: {reason}",
            "metadata": _carried(history.last(dg.AssetCheckKey(asset_key(table), name), partition)),
        }
        for name, severity in severities.items()
    }


def _since_accepted(history: Iterable[Past]) -> Iterable[Past]:
    for past in history:
        yield past
        if past.accepted:
            return
