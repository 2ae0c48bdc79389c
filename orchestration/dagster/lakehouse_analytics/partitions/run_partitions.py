"""The partitions that a run builds, and the rules under which it may build them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.partitions.definitions import (
    GrainPartitions,
    PartitionRange,
    PartitionSelectionError,
    describe_missing,
    missing_upstream_partitions,
    no_values,
    requested_range,
)

#: Settings of the connection pool: statement timeout in milliseconds, maximum age of a connection in seconds, and the
#: number of additional connections.
_STATEMENT_TIMEOUT, _POOL_RECYCLE, _MAX_OVERFLOW = 300_000, 3600, 1


@dataclass(frozen=True)
class RunWindows:
    """The partitions of one run, and their definition."""

    partitions_def: GrainPartitions
    span: PartitionRange

    @classmethod
    def for_run(
        cls,
        context: dg.AssetExecutionContext,
        tables: Sequence[Table],
        grain_partitions: Mapping[Grain, GrainPartitions],
    ) -> RunWindows | None:
        """Return the partitions of a run, or None if none of its tables is partitioned.

        Args:
            context: The context of the step.
            tables: The tables that the run builds or checks.
            grain_partitions: The partitions definition of each grain.

        Raises:
            dagster.Failure: The run was started without a partition, or for one that does not exist.
        """
        partitioned = [table for table in tables if table.grain]
        grain = next((table.grain for table in partitioned), None)
        if grain is None:
            return None
        try:
            return cls(grain_partitions[grain], requested_range(context, grain_partitions[grain], partitioned))
        except PartitionSelectionError as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    def pool_connections(self, instance: dg.DagsterInstance) -> None:
        """Keep a connection to Dagster's PostgreSQL database open in this process if the run has several partitions.

        Such a run stores hundreds of events, and Dagster connects two or three times for each. Of the 17 to 20 ms that
        an event takes, every connection costs 6 ms. The webserver uses the same setting.
        """
        if len(self.span.windows) > 1:
            instance.event_log_storage.optimize_for_webserver(
                statement_timeout=_STATEMENT_TIMEOUT, pool_recycle=_POOL_RECYCLE, max_overflow=_MAX_OVERFLOW
            )

    def refuse_partial_rebuild(self) -> None:
        """Raise an error unless the run has all partitions. Rebuilding a table from some of them would lose the others.

        Raises:
            dagster.Failure: The run does not have all partitions.
        """
        first, last = self.partitions_def.get_first_partition_key(), self.partitions_def.get_last_partition_key()
        if (self.span.windows[0].key, self.span.windows[-1].key) != (first, last):
            raise dg.Failure(
                "full_refresh (or DBT_FULL_REFRESH) of partitioned tables needs every partition in one run, "
                f"{first}...{last}; a run of {self.span.label} would delete all others. Without full_refresh, this run "
                f"replaces {self.span.label} only.",
                allow_retries=False,
            )

    def refuse_gaps(
        self,
        graph: Graph,
        selected: Collection[str],
        grain_partitions: Mapping[Grain, GrainPartitions],
        instance: dg.DagsterInstance,
        *,
        values_of: Callable[[Table, Table], Sequence[str]] = no_values,
    ) -> None:
        """Raise an error if upstream partitions are missing, so that a month is not built from some of its days.

        Args:
            graph: The graph of the manifest.
            selected: Unique ids of the tables to build.
            grain_partitions: The partitions definition of each grain.
            instance: The instance, which knows the materialized partitions.
            values_of: Returns the values that a table needs of one that it reads.

        Raises:
            dagster.Failure: An upstream table for which a table waits does not have all partitions in this range.
        """
        gaps = [
            describe_missing(above, keys)
            for unique_id in sorted(selected)
            for above, keys in missing_upstream_partitions(
                graph, graph.tables[unique_id], self.span, grain_partitions, instance, values_of=values_of
            )
        ]
        if gaps:
            raise dg.Failure(
                f"{self.span.label} cannot be built yet: {'; '.join(dict.fromkeys(gaps))}. Build those first, or set "
                "`allow_missing_partitions: true` in this run's config.",
                allow_retries=False,
            )
