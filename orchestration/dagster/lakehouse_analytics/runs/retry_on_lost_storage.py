"""Retries runs that failed because Dagster's own database was unavailable for a moment.

Dagster stores an event with several statements, and only retries to connect, for some seconds. If a connection is cut
off or cannot be established, the step fails. Steps that build tables are not retried (a gate that failed would fail
again), so such a failure is tagged for a retry.
"""

import dagster as dg

from lakehouse_analytics._dagster_internals import RETRY_ON_ASSET_OR_OP_FAILURE_TAG


@dg.failure_hook(name="retry_after_a_lost_database")
def retry_after_a_lost_database(context: dg.HookContext) -> None:
    """Tag the run for a retry by the daemon, starting with the failed asset, if `run_retries` permits one."""
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import InterfaceError, OperationalError

    if isinstance(context.op_exception, (OperationalError, InterfaceError, DagsterPostgresException)):
        # The tag must be set before the run ends, which is when Dagster decides.
        context.instance.add_run_tags(context.run_id, {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "true"})
        context.log.warning(
            "Dagster's database was unavailable during this run. The run is retried, if retries are left."
        )
