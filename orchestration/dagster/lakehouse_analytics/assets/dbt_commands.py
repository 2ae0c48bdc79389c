"""The dbt commands that one execution of the op runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from lakehouse_analytics.assets.gates.plan import Plan
from lakehouse_analytics.dbt.query_tags import Provenance
from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.dbt.session import Request
from lakehouse_analytics.partitions.by_column import RunValues
from lakehouse_analytics.partitions.run_partitions import RunWindows

#: Values of environment variables that dbt's options read as `true` (click's BOOL).
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})


def rebuilds(runner: DbtRunner, *, full_refresh: bool) -> bool:
    """Return whether dbt rebuilds incremental models from scratch, because of the run's config or DBT_FULL_REFRESH."""
    value = {**os.environ, **runner.environment}.get("DBT_FULL_REFRESH", "")
    return full_refresh or value.strip().lower() in _TRUE


class DbtCommands:
    """Creates requests for dbt, with the options and the environment of one run."""

    def __init__(
        self,
        runner: DbtRunner,
        *,
        run_id: str,
        job: str,
        windows: RunWindows | None,
        values: RunValues | None = None,
        full_refresh: bool,
        asks: bool,
        schemas: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            runner: Runs dbt with the project.
            run_id, job: The id and the job of the run, which its queries contain.
            windows: The partitions of the run; None if it has no tables that are partitioned by time.
            values: The values of the run; None if it has no tables that are partitioned by a column.
            full_refresh: Whether the run's config requests `--full-refresh`.
            asks: Whether dbt asks the run before it builds a table.
            schemas: The schemas of tables that are built in another one than the manifest names, by unique id.
        """
        self._runner, self._windows, self._values = runner, windows, values
        self._full_refresh, self._asks, self._schemas = full_refresh, asks, schemas or {}
        labels = [*([windows.span.label] if windows else []), *([values.label] if values else [])]
        self._provenance = Provenance(run_id, job, " ".join(labels))

    def build(self, plan: Plan, folder: str, threads: int | None = None) -> Request:
        """Return the request for `dbt build` of a plan.

        Args:
            plan: The plan.
            folder: The folder for artifacts such as compiled SQL.
            threads: Number of dbt's threads; None: as in the profile.
        """
        args = ["build"]
        if plan.tables and self._full_refresh:
            args.append("--full-refresh")
        if self._windows and any(table.grain for table in plan.tables):
            args += self._windows.span.dbt_args()
        if threads:
            args += ["--threads", str(threads)]
        nodes = {
            "nodes": plan.nodes,
            "gates": [*plan.row_count_gates],
            "edges": [*plan.edges],
            "ask": self._asks,
            "schemas": {**self._schemas},  # also of tables that an earlier attempt has built
        }
        return self._runner.request(args, self._environment(), target_path=folder, plan=nodes)

    def other(self, args: Sequence[str], folder: str) -> Request:
        """Return the request for a command that builds nothing.

        Args:
            args: The command and its options.
            folder: The folder for artifacts.
        """
        return self._runner.request(args, self._environment(), target_path=folder, parsed=True)

    def _environment(self) -> dict[str, str]:
        whole = (self._windows or self._values) and rebuilds(self._runner, full_refresh=self._full_refresh)
        whole_history = {"LAKEHOUSE_WHOLE_HISTORY": "true"} if whole else {}
        values = self._values.environment() if self._values else {}
        return {**self._runner.database_environment, **self._provenance.environment(), **whole_history, **values}
