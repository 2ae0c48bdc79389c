"""Results of the row-count checks, as Dagster displays them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

import dagster as dg

from lakehouse_analytics.checks.history import (
    ACCEPTED,
    ACCEPTED_LEVEL,
    BASELINE,
    EXCLUDED,
    HISTORY_BEFORE,
    ROWS,
    History,
    PastCount,
    history_metadata,
)
from lakehouse_analytics.checks.row_count_rules import Counts, DriftResult, broken_rules, evaluate_drift
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.contract.models import Drift, Rows
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.keys import asset_key

#: Rules of a table whose contract has no `rows`: an empty table is a warning and does not block.
DEFAULT_RULES = Rows(severity="warn")

#: Dagster's severity by that of dbt and the contract.
SEVERITY = {"error": dg.AssetCheckSeverity.ERROR, "warn": dg.AssetCheckSeverity.WARN}


def row_count_results(
    table: Table, counts: Counts, history: History, *, now: datetime, zone: tzinfo, accepted: bool
) -> list[dg.AssetCheckResult]:
    """Return the row-count check of one table, and its drift check if the contract has one.

    See `row_count_outcomes` for the arguments.
    """
    outcomes = row_count_outcomes(table, counts, history, now=now, zone=zone, accepted=accepted)
    return [
        dg.AssetCheckResult(asset_key=asset_key(table), check_name=name, **outcome)
        for name, outcome in outcomes.items()
    ]


def row_count_outcomes(
    table: Table,
    counts: Counts,
    history: History,
    *,
    now: datetime,
    zone: tzinfo,
    accepted: bool,
    partition: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the fields of the checks by check name, compared with the history of the table or of one partition.

    Args:
        table: The table that was counted.
        counts: Its counts, or those of the partition.
        history: Earlier counts.
        now: The time of this count, timezone-aware.
        zone: The time zone that determines the day of the week.
        accepted: Whether an operator accepts this count as the new level: `max_drop` and drift start from it.
        partition: The partition; None for the whole table.
    """
    subject = Subject(asset_key(table), table.name, table.contract.rows or DEFAULT_RULES)
    return outcomes_of(subject, counts.rows, history, now=now, zone=zone, accepted=accepted, partition=partition)


@dataclass(frozen=True)
class Subject:
    """What is counted.

    Attributes:
        key: The asset key of the table.
        name: The name of the model, as in `accept_row_counts`, or of the source.
        rules: The rules of the contract.
        how_to_accept: What the operator can do to accept a count; by default, for a model.
    """

    key: dg.AssetKey
    name: str
    rules: Rows
    how_to_accept: str | None = None


def outcomes_of(
    subject: Subject,
    rows: int,
    history: History,
    *,
    now: datetime,
    zone: tzinfo,
    accepted: bool,
    partition: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the fields of the checks by check name. See `row_count_outcomes` for the arguments."""
    rules, name, how = subject.rules, subject.name, subject.how_to_accept
    last_passed = None
    if rules.max_drop is not None and not accepted:
        last_passed = last_count(history, dg.AssetCheckKey(subject.key, ROW_COUNT), partition)
    outcomes = {ROW_COUNT: row_count_outcome(rules, rows, last_passed, name=name, accepted=accepted, how=how)}
    if rules.drift:
        earlier = [*_since_accepted(history.counts(dg.AssetCheckKey(subject.key, DRIFT), partition))]
        past = [(p.when, p.rows) for p in earlier if p.rows is not None]
        verdict = evaluate_drift(rules.drift, rows, past, now, zone)
        outcomes[DRIFT] = drift_outcome(
            rules.drift, rows, verdict, len(past), name=name, accepted=accepted,
            row_count_passed=outcomes[ROW_COUNT]["passed"], history=earlier, how=how,
        )  # fmt: skip
    return outcomes


def last_count(history: History, key: dg.AssetCheckKey, partition: str | None = None) -> int | None:
    """Return the last count of a check that passed or was accepted, or None."""
    past = history.last(key, partition)
    return past.new_baseline if past else None


def row_count_outcome(
    rules: Rows, rows: int, last_passed: int | None, *, name: str, accepted: bool, how: str | None = None
) -> dict[str, Any]:
    """Evaluate the row-count check, and return the fields that a check result and an evaluation share.

    Args:
        rules: The rules of the contract.
        rows: The row count.
        last_passed: The last count of the same table or partition that passed or was accepted, if there is one.
        name: The name of the model, as in `accept_row_counts`.
        accepted: Whether an operator accepts this count as the new level.
        how: How an operator can accept the count; by default, for a model.
    """
    broken = broken_rules(rules, rows, last_passed)
    notes = [f"{rows} rows"]
    if rules.max_drop is not None and last_passed is None:
        notes.append("max_drop not checked: accepted by hand" if accepted else "max_drop not checked: no earlier count")
    if any("(max_drop" in rule for rule in broken):
        broken.append(how or _how_to_accept(name))
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
    verdict: DriftResult,
    earlier: int,
    *,
    name: str,
    accepted: bool,
    row_count_passed: bool,
    memory: PastCount | None = None,
    history: Iterable[PastCount] = (),
    how: str | None = None,
) -> dict[str, Any]:
    """Return the fields that a check result and an evaluation of the drift check share.

    Args:
        rules: The rules of the contract.
        rows: The row count.
        verdict: The comparison with earlier counts.
        earlier: The number of earlier counts in the comparison.
        name: The name of the model, as in `accept_row_counts`.
        accepted: Whether an operator accepts this count as the new level.
        row_count_passed: Whether `row_count` passed for the same count. If not, the count does not enter the history.
        memory: For a partition, its last evaluation with a baseline.
        history: For an unpartitioned table, the earlier counts since the last accepted one, newest first.
        how: How an operator can accept the count; by default, for a model.
    """
    passed = verdict.passed or accepted
    excluded = not accepted and not row_count_passed
    carried = _baseline_metadata(memory)
    accept = how or _how_to_accept(name)
    note = " (accepted by hand)" if accepted and not verdict.passed else "" if passed else f"; {accept}"
    return {
        "passed": passed,
        "severity": SEVERITY[rules.severity],
        "description": verdict.explanation + note,
        "metadata": {
            ROWS: rows,
            "judged": verdict.compared,
            "earlier_counts": earlier,
            **carried,
            **({ACCEPTED: True} if accepted else {}),
            **({EXCLUDED: "row_count failed"} if excluded else {}),
            # Not needed if the check failed: only evaluations that passed are searched, so it hides no earlier count.
            **({HISTORY_BEFORE: history_metadata(history)} if excluded and passed and not carried else {}),
            **({"median": verdict.median, "allowed": verdict.allowed} if verdict.compared else {}),
        },
    }


def _how_to_accept(name: str) -> str:
    return f"to accept this count as the new level, run with accept_row_counts: [{name}]"


def _baseline_metadata(memory: PastCount | None) -> dict[str, Any]:
    """Return the metadata in which an evaluation records the baseline of earlier ones."""
    if memory is None or memory.new_baseline is None:
        return {}
    return {
        BASELINE: memory.new_baseline,
        **({ACCEPTED_LEVEL: True} if memory.accepted or memory.starts_history else {}),
    }


def uncounted_results(table: Table, reason: str, history: History) -> list[dg.AssetCheckResult]:
    """Return the failed checks of a table that could not be counted.

    They fail so that a retry counts the table again.
    """
    return [
        dg.AssetCheckResult(asset_key=asset_key(table), check_name=name, **outcome)
        for name, outcome in uncounted_outcomes(table, reason, history).items()
    ]


def uncounted_outcomes(
    table: Table, reason: str, history: History, partition: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the fields of these failed checks by check name, with the baseline for the next count."""
    rules = table.contract.rows or DEFAULT_RULES
    severities = {ROW_COUNT: rules.severity} | ({DRIFT: rules.drift.severity} if rules.drift else {})
    return {
        name: {
            "passed": False,
            "severity": SEVERITY[severity],
            "description": f"cannot be counted: {reason}",
            "metadata": _baseline_metadata(history.last(dg.AssetCheckKey(asset_key(table), name), partition)),
        }
        for name, severity in severities.items()
    }


def _since_accepted(history: Iterable[PastCount]) -> Iterable[PastCount]:
    for past in history:
        yield past
        if past.accepted:
            return
