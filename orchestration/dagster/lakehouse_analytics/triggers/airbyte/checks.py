"""`airbyte_sync` on every source table: what the last job of its connection says of it.

The sensor evaluates it when a job ends; a person may ask again, and then Airbyte is asked.
"""

from collections.abc import Iterator

import dagster as dg

from lakehouse_analytics.assets.multi_asset import multi_asset_check
from lakehouse_analytics.triggers.airbyte.client import AirbyteError
from lakehouse_analytics.triggers.airbyte.events import CHECK, metadata_of, outcome
from lakehouse_analytics.triggers.airbyte.job_outcome import judge
from lakehouse_analytics.triggers.airbyte.workspace import Listening


def sync_checks(listening: Listening) -> list[dg.AssetChecksDefinition]:
    """The check of every source table; none without sources."""
    keys = dict.fromkeys(source.key for source in listening.graph.sources.values())
    if not keys:
        return []

    @multi_asset_check(name="airbyte_sync_check", specs=[_spec(dg.AssetKey(key)) for key in keys], can_subset=True)
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        asked = {key.asset_key for key in context.selected_asset_check_keys}
        try:
            yield from _results(listening, asked)
        except AirbyteError as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    return [check]


def _spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        CHECK,
        asset=key,
        description="The last Airbyte job of this table's connection: succeeded with rows, failed, cancelled, stalled.",
    )


def _results(listening: Listening, asked: set[dg.AssetKey]) -> Iterator[dg.AssetCheckResult]:
    known = listening.inventory.known()
    filled: set[dg.AssetKey] = set()
    for connection, tables in known.fills.tables.items():
        keys = [table.key for table in tables if dg.AssetKey(table.key) in asked]
        job = next((job for job in listening.airbyte.jobs_of(connection) if job.has_ended), None) if keys else None
        for key in keys:
            filled.add(dg.AssetKey(key))
            if job is None:
                yield _unjudged(dg.AssetKey(key), f"no job of connection {known.name(connection)!r} has ended yet")
                continue
            verdict = judge(job, may_be_empty=listening.contract(key).allow_empty)
            metadata = metadata_of(job, verdict, listening.origin(job, known))
            yield dg.AssetCheckResult(**outcome(dg.AssetKey(key), verdict, metadata))
    for unfilled in sorted(asked - filled):
        yield _unjudged(unfilled, "no connection is known to fill this table: set meta.lakehouse.airbyte.connection")


def _unjudged(key: dg.AssetKey, reason: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key, check_name=CHECK, passed=False, severity=dg.AssetCheckSeverity.WARN, description=reason
    )
