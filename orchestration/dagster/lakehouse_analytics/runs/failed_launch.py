"""Stops runs whose launch failed halfway: their pod starts, although Dagster has marked them as failed."""

import dagster as dg

ENDED = {dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED}


def refuse_failed_launch(instance: dg.DagsterInstance, run_id: str) -> None:
    """Stop a run that Dagster marked as failed or canceled before its first step.

    The daemon launches a run in several steps: it creates the Kubernetes Job, then records that it did. If PostgreSQL
    becomes unavailable in between, the daemon marks the run as failed and retries it, but the pod of the first attempt
    starts. Dagster 1.13.27 stops such a run only if the failure is recorded before the pod reads the run's status.

    Args:
        instance: The instance of the run.
        run_id: The run of the current step.

    Raises:
        dagster.Failure: The run has ended already. The step is not retried, because the run that replaces it builds the
            tables.
    """
    records = instance.get_records_for_run(run_id, of_type=ENDED, limit=1).records
    if records:
        raise dg.Failure(
            "This run was marked as failed while it was being launched, so that another run may build the same tables. "
            "It stops before its first step.",
            allow_retries=False,
        )
