"""What a finished dbt command says of its nodes. Pure: reads dbt's `run_results.json`.

Format: https://docs.getdbt.com/reference/artifacts/run-results-json
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakehouse_analytics.batches import Batches, reasons_in

#: dbt's exit codes 0 and 1 mean that it ran and wrote its results; anything else is a crash.
RAN = (0, 1)
#: The event with which dbt reports a seed that it has loaded.
_SEED = "LogSeedResult"
#: A line of dbt's message that names a file of the temporary target folder, which is gone when the run ends.
COMPILED_CODE = re.compile(r"\n[ \t]*compiled code at [^\n]+")


@dataclass(frozen=True)
class NodeResult:
    """What `run_results.json` says of one node.

    `status` is dbt's own: success, error, skipped, pass, fail, warn. `seconds` is dbt's execution time. `query_id` is
    the engine's name of the query that did the work, where it has one. `batches` are those of a microbatch model.
    `relation` is what dbt built, as SQL names it. `compiled_code` is the SQL, without Jinja.
    """

    unique_id: str
    status: str
    message: str
    seconds: float
    failures: int | None
    compiled_code: str | None
    query_id: str | None = None
    batches: Batches | None = None
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
    """Node results by unique id; none where dbt wrote no file.

    Args:
        path: `run_results.json`. `dbt.log` beside it, in JSON, has what this file does not: the reasons of failed
            batches and the relations of seeds.
    """
    if not path.is_file():
        return {}
    results = json.loads(path.read_bytes())["results"]
    reasons: Mapping[str, Mapping[int, str]] = {}
    if any((item.get("batch_results") or {}).get("failed") for item in results):
        reasons = _reasons(path.with_name("dbt.log"))
    seeds: Mapping[str, str] = {}
    if any(_is_loaded_seed(item) for item in results):
        seeds = _relations_of_seeds(path.with_name("dbt.log"))
    batches = {
        item["unique_id"]: Batches.read(item["batch_results"], reasons.get(item["unique_id"], {}))
        for item in results
        if item.get("batch_results")
    }
    return {
        item["unique_id"]: NodeResult(
            unique_id=item["unique_id"],
            status=str(item["status"]),
            message=_message(item, batches.get(item["unique_id"])),
            seconds=float(item.get("execution_time") or 0.0),
            failures=item.get("failures"),
            compiled_code=item.get("compiled_code"),
            query_id=(item.get("adapter_response") or {}).get("query_id") or None,
            batches=batches.get(item["unique_id"]),
            relation=item.get("relation_name") or seeds.get(item["unique_id"]),
        )
        for item in results
    }


def _message(item: Mapping[str, Any], batches: Batches | None) -> str:
    """dbt's own message of a microbatch model says how many batches failed, and not which."""
    said = (batches.message if batches else "") or str(item.get("message") or "")
    return COMPILED_CODE.sub("", said)


def _reasons(log: Path) -> Mapping[str, Mapping[int, str]]:
    if not log.is_file():
        return {}
    with log.open(errors="replace") as lines:
        return reasons_in(lines)


def _is_loaded_seed(item: Mapping[str, Any]) -> bool:
    return str(item["unique_id"]).startswith("seed.") and item["status"] == "success" and not item.get("relation_name")


def _relations_of_seeds(log: Path) -> dict[str, str]:
    """The relations that dbt loaded seeds into, by unique id."""
    found: dict[str, str] = {}
    if not log.is_file():
        return found
    with log.open(errors="replace") as lines:
        for line in lines:
            if _SEED not in line:
                continue
            try:
                event = json.loads(line)
                if event["info"]["name"] == _SEED:
                    node = event["data"]["node_info"]
                    if relation := node["node_relation"]["relation_name"]:
                        found[node["unique_id"]] = str(relation)
            except (ValueError, KeyError, TypeError):
                continue
    return found
