"""The dbt commands of one execution of the op."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lakehouse_analytics.assets.gates.plan import Plan
from lakehouse_analytics.dbt.query_tags import Provenance
from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.dbt.session import Request
from lakehouse_analytics.partitions.run_partitions import RunWindows

#: Values of a variable that dbt's options read as `true` (click's BOOL).
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})


def rebuilds(runner: DbtRunner, *, full_refresh: bool) -> bool:
    """Whether dbt rebuilds incremental models from scratch, because of the run's config or dbt's own variable."""
    said = {**os.environ, **runner.environment}.get("DBT_FULL_REFRESH", "")
    return full_refresh or said.strip().lower() in _TRUE


class DbtCommands:
    """Requests for dbt, with the options and the environment of one run."""

    def __init__(
        self,
        runner: DbtRunner,
        *,
        run_id: str,
        job: str,
        windows: RunWindows | None,
        full_refresh: bool,
        locks_tables: bool,
    ) -> None:
        """
        Args:
            runner: Of the project.
            run_id, job: Of the run, for its queries.
            windows: Of the run, where it has partitioned tables.
            full_refresh: Of the run's config.
            locks_tables: Whether dbt asks before it builds a table.
        """
        self._runner, self._windows = runner, windows
        self._full_refresh, self._locks_tables = full_refresh, locks_tables
        self._provenance = Provenance(run_id, job, windows.span.label if windows else "")

    def build(self, plan: Plan, folder: str, threads: int | None = None) -> Request:
        """`dbt build` of a plan.

        Args:
            plan: What to build.
            folder: For compiled SQL.
            threads: Other than the profile's.
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
            "ask": self._locks_tables,
        }
        return self._runner.request(args, self._environment(), target_path=folder, plan=nodes)

    def other(self, args: Sequence[str], folder: str) -> Request:
        """A command that builds nothing.

        Args:
            args: The command and its options.
            folder: For its artifacts.
        """
        return self._runner.request(args, self._environment(), target_path=folder, parsed=True)

    def _environment(self) -> dict[str, str]:
        whole = self._windows and rebuilds(self._runner, full_refresh=self._full_refresh)
        whole_history = {"LAKEHOUSE_WHOLE_HISTORY": "true"} if whole else {}
        return {**self._runner.database_environment, **self._provenance.environment(), **whole_history}
