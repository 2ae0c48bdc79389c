"""The check `freshness` of sources that declare dbt's source freshness.

dbt renders the SQL and evaluates the thresholds itself, so `loaded_at_field`, `loaded_at_query`, `filter`, a project's
own `collect_freshness` macro and future options work as in dbt.
https://docs.getdbt.com/reference/resource-properties/freshness
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_analytics.checks.registry import Dbt, Owner, Scope
from lakehouse_analytics.common import durations
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.keys import asset_key

NAME = "freshness"
#: dbt's keys of the thresholds, and its status of a source that exceeds them.
THRESHOLDS = {"warn_after": "warn", "error_after": "error"}
#: dbt's artifact with the results: https://docs.getdbt.com/reference/artifacts/sources-json
ARTIFACT = "sources.json"

#: Names that are safe in a selector, where blanks, commas, dots, `+`, `@` and wildcards have a special meaning.
_PLAIN = re.compile(r"[\w-]+", re.ASCII)
#: The year that dbt reports for a table without rows.
_NO_ROWS = 1


class Freshness:
    """One check per source for which dbt declares `warn_after` or `error_after`."""

    def specs(self, owner: Owner, scope: Scope) -> Iterator[dg.AssetCheckSpec]:  # noqa: ARG002
        """Yield the check of a source, if it has thresholds."""
        if isinstance(owner, Source) and (declared := thresholds(owner)):
            limits = ", ".join(f"{name} {limit}" for name, limit in declared.items())
            yield dg.AssetCheckSpec(
                NAME,
                asset=asset_key(owner),
                description=f"How old the newest row is, as `dbt source freshness` evaluates it: {limits}.",
            )

    def evaluate(self, sources: Sequence[Source], dbt: Dbt) -> Iterator[dg.AssetCheckResult]:
        """Run `dbt source freshness` once for all of the sources, and yield a result per source."""
        result, folder = dbt(["source", "freshness", "--select", *selectors(sources)])
        measured = read(folder / ARTIFACT)
        for source in sources:
            node = result.nodes.get(source.unique_id)
            status, message = (node.status, node.message) if node else ("", result.reason)
            yield freshness_result(source, status, measured.get(source.unique_id, {}), message)


KIND = Freshness()


def thresholds(source: Source) -> dict[str, str]:
    """Return the thresholds that dbt applies, as `{"warn_after": "26 hours"}`.

    Empty if dbt does not evaluate the freshness of the source.
    """
    declared = source.node.freshness
    found: dict[str, str] = {}
    for name in THRESHOLDS:
        limit = declared.get(name) or {}
        count, period = limit.get("count"), limit.get("period")
        if count is not None and period is not None:
            found[name] = f"{count} {period}" if count == 1 else f"{count} {period}s"
    return found


def selectors(sources: Sequence[Source]) -> list[str]:
    """Return dbt's selectors of the sources, or of all sources if a name contains special characters."""
    paths = [(source.node.package_name, source.node.source_name, source.node.name) for source in sources]
    if all(_PLAIN.fullmatch(part) for path in paths for part in path):
        return [f"source:{'.'.join(path)}" for path in paths]
    return ["source:*"]


def read(artifact: Path) -> dict[str, Mapping[str, Any]]:
    """Return dbt's measurements by unique id. Sources that dbt could not query are missing."""
    if not artifact.is_file():
        return {}
    return {entry["unique_id"]: entry for entry in json.loads(artifact.read_text())["results"]}


def freshness_result(source: Source, status: str, measured: Mapping[str, Any], message: str) -> dg.AssetCheckResult:
    """Return the check result of a source.

    Args:
        source: The source.
        status: dbt's status: `pass`, `warn`, `error` or `runtime error`. Empty if dbt did not report one.
        measured: The source's entry in `sources.json`. Empty if there is none.
        message: dbt's message if it could not evaluate the source.
    """
    metadata: dict[str, Any] = {"status": status} if status else {}
    if measured:
        newest = _parse_time(measured["max_loaded_at"])
        description = "the source has no rows that count"
        if newest.year > _NO_ROWS:
            age = measured["max_loaded_at_time_ago_in_s"]
            description = f"the newest row is {durations.rounded(age)} old, of {newest:%Y-%m-%d %H:%M:%S} UTC"
            metadata |= {"age_seconds": round(age, 3), "newest_loaded_at": dg.MetadataValue.timestamp(newest)}
        exceeded = [name for name, of in THRESHOLDS.items() if of == status]
        description += "".join(f"; {name} is {thresholds(source).get(name)}" for name in exceeded)
    else:
        description = f"dbt could not evaluate the source: {message or 'dbt gave no reason'}"
    severity = dg.AssetCheckSeverity.WARN if status == "warn" else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(
        asset_key=asset_key(source),
        check_name=NAME,
        passed=status == "pass",
        severity=severity,
        description=description,
        metadata=metadata,
    )


def _parse_time(text: str) -> datetime:
    parsed = datetime.fromisoformat(text)
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
