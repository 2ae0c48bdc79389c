"""dbt's results of the nodes that it ran. Pure.

Format: https://docs.getdbt.com/reference/artifacts/run-results-json
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakehouse_analytics.dbt import UNCHANGED
from lakehouse_analytics.dbt.batches import Batches

#: dbt's exit codes if it ran and wrote its results. Any other exit code is a crash.
COMPLETED = (0, 1)
#: Statuses of dbt's nodes. dbt has already applied severity, `warn_if`, `error_if` and `warn_error`: a failure stops
#: what is downstream of the test, whatever severity the manifest shows.
BUILT_STATUS = frozenset({"success"})
EVALUATED_STATUS = frozenset({"pass", "warn", "fail", "error"})
FAILED_STATUS = frozenset({"fail", "error"})
FINE_STATUS = frozenset({"success", "pass", "warn", "no-op"})
#: A line of dbt's message that names a file in the temporary target folder, which is deleted at the end of the run.
COMPILED_CODE = re.compile(r"\n[ \t]*compiled code at [^\n]+")


@dataclass(frozen=True)
class NodeResult:
    """dbt's result of one node, from `run_results.json`.

    Attributes:
        unique_id: dbt's unique id of the node.
        status: dbt's status: success, error, skipped, pass, fail or warn.
        message: dbt's message.
        seconds: dbt's execution time in seconds.
        failures: The number of rows that failed a test.
        compiled_code: The SQL of a test that did not pass, or of a model that was built, without Jinja.
        query_id: The engine's id of the query that built or tested the node, if it has one.
        batches: The batches of a microbatch model.
        unchanged: Whether it was not built, because it would have become what it is.
    """

    unique_id: str
    status: str
    message: str
    seconds: float
    failures: int | None
    compiled_code: str | None
    query_id: str | None = None
    batches: Batches | None = None
    unchanged: bool = False

    @classmethod
    def read(cls, item: Mapping[str, Any], reasons: Mapping[int, str] | None = None) -> NodeResult:
        """Read an entry of `run_results.json`.

        Args:
            item: The entry.
            reasons: The errors of batches of a microbatch model by dbt's number of the batch, from 1.
        """
        found = item.get("batch_results")
        batches = Batches.read(found, reasons or {}) if found else None
        # dbt's own message about a microbatch model only says how many batches failed, not which.
        message = (batches.message if batches else "") or str(item.get("message") or "")
        response = item.get("adapter_response") or {}
        return cls(
            unique_id=item["unique_id"],
            status=str(item["status"]),
            message=COMPILED_CODE.sub("", message),
            seconds=float(item.get("execution_time") or 0.0),
            failures=item.get("failures"),
            compiled_code=item.get("compiled_code"),
            query_id=response.get("query_id") or None,
            batches=batches,
            unchanged=bool(response.get(UNCHANGED)),
        )


@dataclass(frozen=True)
class DbtResult:
    """The result of a dbt command.

    Attributes:
        exit_code: dbt's exit code. A negative one is the number of the signal that ended the process.
        nodes: The results of the nodes by unique id.
        errors: dbt's errors.
        stray: The last lines of output that dbt did not log, such as a traceback or a message of a library.
    """

    exit_code: int
    nodes: Mapping[str, NodeResult]
    errors: Sequence[str] = field(default_factory=tuple)
    stray: Sequence[str] = field(default_factory=tuple)

    @property
    def reason(self) -> str:
        """The reason why dbt ended: its errors, or else the last lines of other output."""
        text = "\n".join(self.errors or self.stray)
        if self.exit_code == -signal.SIGKILL:
            # A killed process cannot report the reason itself.
            text += (
                "\nIt was killed, most often because memory ran out: give runs more memory, "
                "or dbt fewer threads (LAKEHOUSE_DBT_THREADS)"
            )
        return text.strip() or "it gave no reason; see the run's stdout"

    @property
    def crashed(self) -> bool:
        """Whether dbt ended without having run its nodes."""
        return self.exit_code not in COMPLETED or (self.exit_code != 0 and not self.nodes)
