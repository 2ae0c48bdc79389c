"""What a finished dbt command says of its nodes. Pure: reads dbt's `run_results.json`.

Format: https://docs.getdbt.com/reference/artifacts/run-results-json
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: dbt's exit codes 0 and 1 mean that it ran and wrote its results; anything else is a crash.
RAN = (0, 1)


@dataclass(frozen=True)
class NodeResult:
    """What `run_results.json` says of one node.

    `status` is dbt's own: success, error, skipped, pass, fail, warn. `seconds` is dbt's execution time. `query_id` is
    the engine's name of the query that did the work, where it has one. `relation` is what dbt built, as SQL names it;
    dbt gives none for seeds.
    """

    unique_id: str
    status: str
    message: str
    seconds: float
    failures: int | None
    compiled_path: str | None
    query_id: str | None = None
    relation: str | None = None


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


def read_results(path: Path) -> dict[str, NodeResult]:
    """Node results by unique id; none where dbt wrote no file."""
    if not path.is_file():
        return {}
    results = json.loads(path.read_bytes())["results"]
    return {
        item["unique_id"]: NodeResult(
            unique_id=item["unique_id"],
            status=str(item["status"]),
            message=str(item.get("message") or ""),
            seconds=float(item.get("execution_time") or 0.0),
            failures=item.get("failures"),
            compiled_path=item.get("compiled_path"),
            query_id=(item.get("adapter_response") or {}).get("query_id") or None,
            relation=item.get("relation_name") or None,
        )
        for item in results
    }
