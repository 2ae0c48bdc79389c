"""`freshness` of a source that declares it in dbt: what `dbt source freshness` says of it.

dbt itself renders the SQL and compares, so that `loaded_at_field`, `loaded_at_query`, `filter`, a project's own
`collect_freshness` macro and future options mean here what they mean there.
https://docs.getdbt.com/reference/resource-properties/freshness
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_analytics.checks.registry import Dbt, Owner, Scope
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.keys import asset_key

NAME = "freshness"
#: dbt's keys of the thresholds, and the status of a source that is older.
THRESHOLDS = {"warn_after": "warn", "error_after": "error"}
#: dbt's artifact: https://docs.getdbt.com/reference/artifacts/sources-json
ARTIFACT = "sources.json"

#: dbt reads blanks, commas, dots, `+`, `@` and wildcards of a selector in its own way.
_PLAIN = re.compile(r"[\w-]+", re.ASCII)
#: dbt's stand-in for the newest time of a table without rows.
_NO_ROWS = 1


class Freshness:
    """One check for each source of which dbt declares `warn_after` or `error_after`."""

    def specs(self, owner: Owner, scope: Scope) -> Iterator[dg.AssetCheckSpec]:  # noqa: ARG002
        """The check of a source."""
        if isinstance(owner, Source) and (declared := thresholds(owner)):
            limits = ", ".join(f"{name} {limit}" for name, limit in declared.items())
            yield dg.AssetCheckSpec(
                NAME,
                asset=asset_key(owner),
                description=f"How old the newest row is, as `dbt source freshness` evaluates it: {limits}.",
            )

    def evaluate(self, sources: Sequence[Source], dbt: Dbt) -> Iterator[dg.AssetCheckResult]:
        """Run `dbt source freshness` once, for some sources."""
        result, folder = dbt(["source", "freshness", "--select", *selectors(sources)])
        measured = read(folder / ARTIFACT)
        for source in sources:
            node = result.nodes.get(source.unique_id)
            status, message = (node.status, node.message) if node else ("", result.reason)
            yield outcome(source, status, measured.get(source.unique_id, {}), message)


KIND = Freshness()


def thresholds(source: Source) -> dict[str, str]:
    """The thresholds that count for dbt, as `{"warn_after": "26 hours"}`; empty where it evaluates no freshness."""
    declared = source.node.freshness
    found: dict[str, str] = {}
    for name in THRESHOLDS:
        limit = declared.get(name) or {}
        count, period = limit.get("count"), limit.get("period")
        if count is not None and period is not None:
            found[name] = f"{count} {period}" if count == 1 else f"{count} {period}s"
    return found


def selectors(sources: Sequence[Source]) -> list[str]:
    """The sources for dbt's `--select`; all of them where a name cannot be selected."""
    paths = [(source.node.package_name, source.node.source_name, source.node.name) for source in sources]
    if all(_PLAIN.fullmatch(part) for path in paths for part in path):
        return [f"source:{'.'.join(path)}" for path in paths]
    return ["source:*"]


def read(artifact: Path) -> dict[str, Mapping[str, Any]]:
    """What dbt measured, by unique id; nothing of sources that it could not query."""
    if not artifact.is_file():
        return {}
    return {entry["unique_id"]: entry for entry in json.loads(artifact.read_text())["results"]}


def outcome(source: Source, status: str, measured: Mapping[str, Any], message: str) -> dg.AssetCheckResult:
    """The result of a source.

    Args:
        source: Which was evaluated.
        status: dbt's: `pass`, `warn`, `error` or `runtime error`; empty if dbt ended without one.
        measured: Its entry in `sources.json`; empty if it has none.
        message: dbt's, where it could not evaluate the source.
    """
    metadata: dict[str, Any] = {"status": status} if status else {}
    if measured:
        newest = _time(measured["max_loaded_at"])
        description = "the source has no rows that count"
        if newest.year > _NO_ROWS:
            age = measured["max_loaded_at_time_ago_in_s"]
            description = f"the newest row is {_duration(age)} old, of {newest:%Y-%m-%d %H:%M:%S} UTC"
            metadata |= {"age_seconds": round(age, 3), "newest_loaded_at": dg.MetadataValue.timestamp(newest)}
        exceeded = [name for name, of in THRESHOLDS.items() if of == status]
        description += "".join(f"; {name} is {thresholds(source).get(name)}" for name in exceeded)
    else:
        description = f"dbt could not evaluate it: {message or 'it gave no reason'}"
    severity = dg.AssetCheckSeverity.WARN if status == "warn" else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(
        asset_key=asset_key(source),
        check_name=NAME,
        passed=status == "pass",
        severity=severity,
        description=description,
        metadata=metadata,
    )


def _time(text: str) -> datetime:
    read_time = datetime.fromisoformat(text)
    return read_time.astimezone(UTC) if read_time.tzinfo else read_time.replace(tzinfo=UTC)


def _duration(seconds: float) -> str:
    """`1 day, 2:03:04`; also of a time that lies in the future."""
    sign = "-" if seconds < 0 else ""
    return sign + str(timedelta(seconds=round(abs(seconds))))
