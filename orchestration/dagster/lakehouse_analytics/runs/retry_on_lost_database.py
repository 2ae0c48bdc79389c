"""Retries of runs that failed because Dagster lost the connection to its own database.

Dagster stores an event in several statements. It retries only opening a connection, for a few seconds: if an
established connection is lost or a new one cannot be opened in that time, the step fails. Failed steps are not retried
in general, because a gate that failed would fail again, so the hook below marks these failures as worth a retry.
"""

import dagster as dg

from lakehouse_analytics._dagster_internals import RETRY_ON_ASSET_OR_OP_FAILURE_TAG


@dg.failure_hook(name="retry_after_a_lost_database")
def retry_after_a_lost_database(context: dg.HookContext) -> None:
    """Mark the run for a retry from the failed asset on, if the instance's `run_retries` allow another one."""
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import InterfaceError, OperationalError

    if isinstance(context.op_exception, (OperationalError, InterfaceError, DagsterPostgresException)):
        # Dagster decides about the retry when the run ends, so the tag must be set before.
        context.instance.add_run_tags(context.run_id, {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "true"})
        context.log.warning("This run lost the connection to a database. It is retried if it has retries left.")
