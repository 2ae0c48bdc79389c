"""What dbt says of the nodes that it ran. Pure.

Format: https://docs.getdbt.com/reference/artifacts/run-results-json
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakehouse_analytics.dbt.batches import Batches

#: dbt's exit codes 0 and 1 mean that it ran and wrote its results; anything else is a crash.
RAN = (0, 1)
#: A line of dbt's message that names a file of the temporary target folder, which is gone when the run ends.
COMPILED_CODE = re.compile(r"\n[ \t]*compiled code at [^\n]+")


@dataclass(frozen=True)
class NodeResult:
    """What dbt says of one node, as in `run_results.json`.

    `status` is dbt's own: success, error, skipped, pass, fail, warn. `seconds` is dbt's execution time. `query_id` is
    the engine's name of the query that did the work, where it has one. `batches` are those of a microbatch model.
    `compiled_code` is the SQL of a test that did not pass, without Jinja.
    """

    unique_id: str
    status: str
    message: str
    seconds: float
    failures: int | None
    compiled_code: str | None
    query_id: str | None = None
    batches: Batches | None = None

    @classmethod
    def read(cls, item: Mapping[str, Any], reasons: Mapping[int, str] | None = None) -> NodeResult:
        """One entry of `run_results.json`.

        Args:
            item: The entry.
            reasons: Why batches of a microbatch model failed, by dbt's number of the batch, from 1.
        """
        said = item.get("batch_results")
        batches = Batches.read(said, reasons or {}) if said else None
        # dbt's own message of a microbatch model says how many batches failed, and not which.
        message = (batches.message if batches else "") or str(item.get("message") or "")
        return cls(
            unique_id=item["unique_id"],
            status=str(item["status"]),
            message=COMPILED_CODE.sub("", message),
            seconds=float(item.get("execution_time") or 0.0),
            failures=item.get("failures"),
            compiled_code=item.get("compiled_code"),
            query_id=(item.get("adapter_response") or {}).get("query_id") or None,
            batches=batches,
        )


@dataclass(frozen=True)
class DbtResult:
    """One finished dbt command."""

    exit_code: int
    nodes: Mapping[str, NodeResult]
    errors: Sequence[str] = field(default_factory=tuple)
    #: The last lines that were not dbt's own: what Python or a library said before the end.
    stray: Sequence[str] = field(default_factory=tuple)

    @property
    def reason(self) -> str:
        """What dbt said of its end, or what was said last."""
        said = "\n".join(self.errors or self.stray)
        if self.exit_code == -signal.SIGKILL:
            # It cannot say so itself.
            said += (
                "\nIt was killed, most often because memory ran out: give runs more, "
                "or dbt fewer threads (LAKEHOUSE_DBT_THREADS)"
            )
        return said.strip() or "it said nothing; see the run's stdout"

    @property
    def crashed(self) -> bool:
        """Whether dbt ended without having run its nodes."""
        return self.exit_code not in RAN or (self.exit_code != 0 and not self.nodes)
