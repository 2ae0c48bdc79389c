"""Which windows one run builds, and whether it may."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.partitions.definitions import (
    GrainPartitions,
    NoWindowError,
    PartitionRange,
    missing_above,
    span_of,
)

#: Of the connection that is kept: milliseconds of a statement, seconds until it is opened again, and others beside it.
_STATEMENT_TIMEOUT, _POOL_RECYCLE, _MAX_OVERFLOW = 300_000, 3600, 1


@dataclass(frozen=True)
class RunWindows:
    """The windows of one run, and the partitions that they are of."""

    partitions_def: GrainPartitions
    span: PartitionRange

    @classmethod
    def of(
        cls,
        context: dg.AssetExecutionContext,
        tables: Sequence[Table],
        grain_partitions: Mapping[Grain, GrainPartitions],
    ) -> RunWindows | None:
        """Those of the partitioned tables that a run builds or checks; None where it has none.

        Raises:
            dagster.Failure: the run was started without a partition, or for one that does not exist.
        """
        partitioned = [table for table in tables if table.grain]
        grain = next((table.grain for table in partitioned), None)
        if grain is None:
            return None
        try:
            return cls(grain_partitions[grain], span_of(context, grain_partitions[grain], partitioned))
        except NoWindowError as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    def hold_connection(self, instance: dg.DagsterInstance) -> None:
        """Several windows are hundreds of events, and Dagster connects to PostgreSQL two or three times for each.

        So in this process one connection stays open, as the webserver has it: 6 ms each of 17 to 20 an event.
        """
        if len(self.span.windows) > 1:
            instance.event_log_storage.optimize_for_webserver(
                statement_timeout=_STATEMENT_TIMEOUT, pool_recycle=_POOL_RECYCLE, max_overflow=_MAX_OVERFLOW
            )

    def refuse_partial_rebuild(self) -> None:
        """A table that is rebuilt from some of its partitions would lose the others.

        Raises:
            dagster.Failure: the run has not every window.
        """
        first, last = self.partitions_def.get_first_partition_key(), self.partitions_def.get_last_partition_key()
        if (self.span.windows[0].key, self.span.windows[-1].key) != (first, last):
            raise dg.Failure(
                "full_refresh (or DBT_FULL_REFRESH) of partitioned tables needs every partition in one run, "
                f"{first}...{last}, because {self.span.label} alone would be left of them. Without it this run "
                f"replaces {self.span.label}.",
                allow_retries=False,
            )

    def refuse_gaps(
        self,
        graph: Graph,
        selected: Collection[str],
        grain_partitions: Mapping[Grain, GrainPartitions],
        instance: dg.DagsterInstance,
    ) -> None:
        """A month is not built of the days that happen to be there.

        Raises:
            dagster.Failure: a table of a shorter grain does not have all partitions inside these.
        """
        gaps = [
            f"{'/'.join(above.key)} does not have {some(keys, FEW)}"
            for unique_id in sorted(selected)
            for above, keys in missing_above(graph, graph.tables[unique_id], self.span, grain_partitions, instance)
        ]
        if gaps:
            raise dg.Failure(
                f"{self.span.label} cannot be built yet: {'; '.join(dict.fromkeys(gaps))}. Build those first, or set "
                "`allow_missing_partitions: true` in this run's config.",
                allow_retries=False,
            )
