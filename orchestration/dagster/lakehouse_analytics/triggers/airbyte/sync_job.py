"""Job `airbyte_sync`: start a sync, or attach to one that runs, and wait for its end. The sensor answers it, as any."""

import time

import dagster as dg
from pydantic import Field

from lakehouse_analytics.triggers.airbyte.client import AirbyteError
from lakehouse_analytics.triggers.airbyte.connections import UnknownConnectionError
from lakehouse_analytics.triggers.airbyte.jobs import Job
from lakehouse_analytics.triggers.airbyte.workspace import Listening

NAME = "airbyte_sync"
#: Seconds between two looks at a job, and for how long Airbyte may be out of reach while one is waited for.
EVERY, PATIENCE = 10.0, 600.0


class SyncConfig(dg.Config):
    """Which connection."""

    connection: str = Field(description="Its id or exact name.")


def sync_job(listening: Listening, *, every: float = EVERY) -> dg.JobDefinition:
    """The job; `every` is in seconds."""

    @dg.op(name="sync")
    def sync(context: dg.OpExecutionContext, config: SyncConfig) -> None:
        try:
            Sync(context, listening, every).run(config.connection)
        except (AirbyteError, UnknownConnectionError) as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    @dg.job(
        name=NAME,
        description="Syncs one Airbyte connection, attaching to a sync that is running.",
        tags={"dagster/max_runtime": str(listening.max_runtime)},
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        sync()

    return job


class Sync:
    """One execution."""

    def __init__(self, context: dg.OpExecutionContext, listening: Listening, every: float) -> None:
        self.context, self.listening, self.every = context, listening, every

    def run(self, connection: str) -> None:
        """Return when the sync has succeeded.

        Raises:
            AirbyteError: it cannot be started or asked after.
            UnknownConnectionError: there is no such connection.
            dagster.Failure: it did not succeed.
        """
        known = self.listening.inventory.known()
        meant = known.meant(connection)
        job, ours = self._start(meant.id)
        url = self.listening.url(job, known)
        self.context.log.info(f"{'Started' if ours else 'Attached to'} job {job.id} of {meant.name!r}: {url}")
        try:
            job = self._wait(job)
        except BaseException:
            if ours:
                self._cancel(job)
            raise
        if job.status != "succeeded":
            raise dg.Failure(
                f"Airbyte's {job.kind} {job.id} of {meant.name!r} {job.status}: see {url}", allow_retries=False
            )
        self.context.log.info(f"Job {job.id} succeeded: {job.rows} rows. The sensor builds what reads them.")

    def _start(self, connection: str) -> tuple[Job, bool]:
        if running := self._unfinished(connection):
            return running, False
        try:
            return self.listening.airbyte.start_sync(connection), True
        except AirbyteError as error:
            # Somebody was faster between our two questions; or the answer to our own start was lost.
            if running := self._unfinished(connection):
                return running, False
            raise error from None

    def _unfinished(self, connection: str) -> Job | None:
        return next((job for job in self.listening.airbyte.jobs_of(connection) if not job.has_ended), None)

    def _wait(self, job: Job) -> Job:
        reached = time.monotonic()
        while not job.has_ended:
            time.sleep(self.every)
            try:
                job = self.listening.airbyte.job(job.id)
                reached = time.monotonic()
            except AirbyteError as error:
                if time.monotonic() - reached > PATIENCE or error.status in (401, 403, 404):
                    raise
                self.context.log.warning(f"{error} Asked again for up to {PATIENCE:g} s.")
        return job

    def _cancel(self, job: Job) -> None:
        try:
            self.listening.airbyte.cancel(job.id)
            self.context.log.warning(f"Job {job.id} was cancelled, because this run started it.")
        except AirbyteError as error:
            self.context.log.warning(f"Job {job.id} may run on: {error}")
