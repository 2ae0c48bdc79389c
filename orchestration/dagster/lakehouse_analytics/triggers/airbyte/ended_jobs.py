"""Converts ended jobs to events of their tables, and to one run request per connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from lakehouse_analytics.common.names import FEW, counted, some
from lakehouse_analytics.dbt.graph import Key
from lakehouse_analytics.triggers.airbyte.events import job_events
from lakehouse_analytics.triggers.airbyte.job_identity import identity_of
from lakehouse_analytics.triggers.airbyte.job_outcome import JobOutcome, job_outcome
from lakehouse_analytics.triggers.airbyte.jobs import Job
from lakehouse_analytics.triggers.airbyte.partial_rows import PartialRows
from lakehouse_analytics.triggers.airbyte.snapshot import ConnectionSnapshot
from lakehouse_analytics.triggers.airbyte.workspace import AirbyteWorkspace
from lakehouse_analytics.triggers.event_log import Event


@dataclass(frozen=True)
class EndedJobs:
    """Creates the events and run requests for jobs that have ended.

    Attributes:
        instance: Dagster's instance, which stores the events of earlier jobs.
        workspace: The Airbyte server, and the source tables.
        snapshot: The connections, including those of the jobs.
        notes: Messages of the tick. Methods append to it.
    """

    instance: dg.DagsterInstance
    workspace: AirbyteWorkspace
    snapshot: ConnectionSnapshot
    notes: list[str]

    def process(self, jobs: Sequence[Job], epoch: str) -> tuple[list[Event], list[dg.RunRequest]]:
        """Return the events and run requests of jobs.

        Args:
            jobs: In the order in which they ended.
            epoch: Distinguishes the runs of a replay from earlier runs; empty without a replay.
        """
        by_connection: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            by_connection[job.connection].append(job)
        self._note_unmapped(by_connection)
        partial_rows = self._partial_rows(by_connection)
        events: list[Event] = []
        requests: list[dg.RunRequest] = []
        for connection, of_connection in by_connection.items():
            if connection in self.snapshot.mapping.tables_by_connection:
                more, request = self._of_connection(connection, of_connection, partial_rows, epoch)
                events += more
                requests += [request] if request else []
        return events, requests

    def _of_connection(
        self, connection: str, jobs: Sequence[Job], partial_rows: PartialRows, epoch: str
    ) -> tuple[list[Event], dg.RunRequest | None]:
        events: list[Event] = []
        filling: list[Job] = []
        filled: set[Key] = set()
        for job in jobs:
            origin = self.workspace.origin(job, self.snapshot)
            for table in self.snapshot.mapping.tables_by_connection[connection]:
                asset = dg.AssetKey(table.key)
                outcome = self._outcome(job, table.key, partial_rows)
                carried = partial_rows.update(asset, job, outcome)
                events += job_events(job, outcome, [asset], origin, rows_before=carried)
                if outcome.filled:
                    filled.add(table.key)
                    if job not in filling:
                        filling.append(job)
        return events, self._run_request(connection, filling, filled, epoch) if filling else None

    def _outcome(self, job: Job, key: Key, partial_rows: PartialRows) -> JobOutcome:
        may_be_empty = self.workspace.contract(key).allow_empty
        outcome = job_outcome(job, may_be_empty=may_be_empty)
        without_rows = not outcome.filled and job.status == "succeeded" and not job.empties
        if without_rows and partial_rows.before(dg.AssetKey(key), job):
            return job_outcome(job, may_be_empty=may_be_empty, partial_rows=True)
        return outcome

    def _run_request(self, connection: str, jobs: Sequence[Job], tables: set[Key], epoch: str) -> dg.RunRequest | None:
        """Return one run request for the jobs of a connection that filled tables."""
        newest, name = jobs[-1], self.snapshot.name(connection)
        identity = identity_of(newest, self.workspace.airbyte.server.url)
        several = {"airbyte/sync_ids": ",".join(str(job.id) for job in jobs)} if len(jobs) > 1 else {}
        request = self.workspace.tables.run_request(
            tables,
            trigger="airbyte",
            run_key="_".join(["airbyte", identity, *([epoch] if epoch else [])]),
            tags={"airbyte/sync_id": str(newest.id), "airbyte/connection": name, **several},
        )
        if request is None:
            self.notes.append(f"No bronze model reads the tables of connection {name!r}.")
        return request

    def _partial_rows(self, by_connection: Mapping[str, Sequence[Job]]) -> PartialRows:
        keys = (
            dg.AssetKey(table.key)
            for connection, jobs in by_connection.items()
            if any(job.moved_nothing for job in jobs)
            for table in self.snapshot.mapping.tables_by_connection.get(connection, ())
        )
        return PartialRows(self.instance, keys, self.workspace.airbyte.server.url)

    def _note_unmapped(self, by_connection: Mapping[str, Sequence[Job]]) -> None:
        snapshot, mapping = self.snapshot, self.snapshot.mapping
        others = [c for c in by_connection if c not in mapping.tables_by_connection and c not in snapshot.ignored]
        if others:
            names = some(sorted(repr(snapshot.name(connection)) for connection in others))
            self.notes.append(
                f"Jobs ended of {counted(len(others), 'connection')} without a dbt source: {names}. Set "
                "meta.lakehouse.airbyte.connection on their sources, or LAKEHOUSE_AIRBYTE_EXCLUDE."
            )
        self.notes.extend(mapping.problems)
        for connection in by_connection:
            if streams := mapping.unmapped_streams.get(connection):
                name, names = snapshot.name(connection), some([*map(repr, streams)], FEW)
                self.notes.append(
                    f"{counted(len(streams), 'stream')} of connection {name!r} without a source table: {names}."
                )
        if tables := mapping.suspicious_tables:
            names = some([".".join(table.key) for table in tables], FEW)
            self.notes.append(
                f"{counted(len(tables), 'source table')} without a known connection: {names}. Set "
                "meta.lakehouse.airbyte on those that Airbyte fills."
            )
