"""Runs that failed because Dagster's own database went away for a moment.

Dagster stores an event in several statements and tries only connections again, for some seconds: one that is cut off,
or that does not come, fails the step. Failed steps are not retried here (a gate that failed fails again), so such a one
is marked as worth it.
"""

import dagster as dg

from lakehouse_analytics._dagster_internals import RETRY_ON_ASSET_OR_OP_FAILURE_TAG


@dg.failure_hook(name="retry_after_a_lost_database")
def retry_after_a_lost_database(context: dg.HookContext) -> None:
    """Have the daemon retry the run, from the failed asset on, where `run_retries` lets it."""
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import InterfaceError, OperationalError

    if isinstance(context.op_exception, (OperationalError, InterfaceError, DagsterPostgresException)):
        # Before the end of the run, which is when Dagster decides.
        context.instance.add_run_tags(context.run_id, {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "true"})
        context.log.warning("A database went away under this run: it is retried, where retries are left.")
