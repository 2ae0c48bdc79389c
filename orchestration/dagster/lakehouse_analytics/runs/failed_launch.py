"""Guard against runs that Dagster marked as failed during their launch, but whose pod starts anyway."""

import dagster as dg

ENDED = {dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED}


def refuse_failed_launch(instance: dg.DagsterInstance, run_id: str) -> None:
    """Stop a run that Dagster marked as failed or canceled before its first step.

    The daemon launches a run in two steps: it creates the Kubernetes Job, then stores that it did. If PostgreSQL
    becomes unavailable between them, the daemon marks the run as failed and retries it, but the pod of the first
    attempt starts nevertheless. Dagster 1.13.27 refuses such a run only if the failure is stored before the pod reads
    the run's status.

    Args:
        instance: The instance of the run.
        run_id: The run of the current step.

    Raises:
        dagster.Failure: The run has already ended. The step is not retried, because the run that replaces it builds the
            tables.
    """
    records = instance.get_records_for_run(run_id, of_type=ENDED, limit=1).records
    if records:
        raise dg.Failure(
            "This run was marked as failed while it was being launched, so that another run may build the same tables. "
            "It stops before its first step.",
            allow_retries=False,
        )
