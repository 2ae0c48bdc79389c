"""The job `airbyte_sync` starts a sync, or attaches to a running one, and waits for its end.

The sensor processes this sync like any other.
"""

import time

import dagster as dg
from pydantic import Field

from lakehouse_analytics.triggers.airbyte.client import AirbyteError
from lakehouse_analytics.triggers.airbyte.connections import UnknownConnectionError
from lakehouse_analytics.triggers.airbyte.jobs import Job
from lakehouse_analytics.triggers.airbyte.workspace import AirbyteWorkspace

NAME = "airbyte_sync"
#: Seconds between two requests for the status of a job, and the maximum seconds for which Airbyte may be unreachable.
POLL_INTERVAL, MAX_UNREACHABLE = 10.0, 600.0


class SyncConfig(dg.Config):
    """Run configuration of the job."""

    connection: str = Field(description="Id or exact name of the connection to sync.")


def sync_job(workspace: AirbyteWorkspace, *, interval: float = POLL_INTERVAL) -> dg.JobDefinition:
    """Return the job. It requests the status of the sync every `interval` seconds."""

    @dg.op(name="sync")
    def sync(context: dg.OpExecutionContext, config: SyncConfig) -> None:
        try:
            Sync(context, workspace, interval).run(config.connection)
        except (AirbyteError, UnknownConnectionError) as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    @dg.job(
        name=NAME,
        description="Syncs an Airbyte connection, or attaches to its running sync.",
        tags={"dagster/max_runtime": str(workspace.max_runtime)},
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        sync()

    return job


class Sync:
    """One execution of the op."""

    def __init__(self, context: dg.OpExecutionContext, workspace: AirbyteWorkspace, interval: float) -> None:
        self.context, self.workspace, self.interval = context, workspace, interval

    def run(self, connection: str) -> None:
        """Start the sync of a connection and wait until it has succeeded.

        Args:
            connection: Id or exact name.

        Raises:
            AirbyteError: The sync cannot be started, or its status cannot be requested.
            UnknownConnectionError: There is no such connection.
            dagster.Failure: The sync did not succeed.
        """
        snapshot = self.workspace.connections.snapshot()
        found = snapshot.find(connection)
        job, started = self._start(found.id)
        url = self.workspace.url(job, snapshot)
        self.context.log.info(f"{'Started' if started else 'Attached to'} job {job.id} of {found.name!r}: {url}")
        try:
            job = self._wait(job)
        except BaseException:
            if started:
                self._cancel(job)
            raise
        if job.status != "succeeded":
            raise dg.Failure(
                f"Airbyte's {job.kind} {job.id} of {found.name!r} {job.status}: see {url}", allow_retries=False
            )
        self.context.log.info(
            f"Job {job.id} succeeded: {job.rows} rows. The sensor requests a run of the models that read them."
        )

    def _start(self, connection: str) -> tuple[Job, bool]:
        if running := self._unfinished(connection):
            return running, False
        try:
            return self.workspace.airbyte.start_sync(connection), True
        except AirbyteError as error:
            # Another sync started between the two requests, or the response to ours was lost.
            if running := self._unfinished(connection):
                return running, False
            raise error from None

    def _unfinished(self, connection: str) -> Job | None:
        return next((job for job in self.workspace.airbyte.jobs_of(connection) if not job.has_ended), None)

    def _wait(self, job: Job) -> Job:
        reached = time.monotonic()
        while not job.has_ended:
            time.sleep(self.interval)
            try:
                job = self.workspace.airbyte.job(job.id)
                reached = time.monotonic()
            except AirbyteError as error:
                if time.monotonic() - reached > MAX_UNREACHABLE or error.status in (401, 403, 404):
                    raise
                self.context.log.warning(f"{error} Retrying for up to {MAX_UNREACHABLE:g} s.")
        return job

    def _cancel(self, job: Job) -> None:
        try:
            self.workspace.airbyte.cancel(job.id)
            self.context.log.warning(f"Cancelled job {job.id}, because this run had started it.")
        except AirbyteError as error:
            self.context.log.warning(f"Job {job.id} may still be running: {error}")
