"""dbt's data tests as asset checks. dbt evaluates them during a build."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from lakehouse_analytics.checks.registry import Owner, Scope
from lakehouse_analytics.checks.row_count_results import SEVERITY
from lakehouse_analytics.dbt.graph import DbtTest, Graph
from lakehouse_analytics.dbt.run_results import FAILED_STATUS, NodeResult
from lakehouse_analytics.keys import asset_key, check_key

#: Maximum length of the SQL in the metadata of a result, in characters.
MAX_SQL = 10_000


class DbtTests:
    """One check per dbt test, on the table, source or external that dbt attaches the test to."""

    def specs(self, owner: Owner, scope: Scope) -> Iterator[dg.AssetCheckSpec]:
        """Yield the checks of an owner. They are not partitioned, even if the owner is.

        `blocking` follows the test's severity, because Dagster's retry from the failed asset depends on it.
        """
        for test in scope.graph.tests_of.get(owner.unique_id, ()):
            yield _spec(scope.graph, test, blocking=test.blocking and test.unique_id not in scope.circular)


KIND = DbtTests()


def _spec(graph: Graph, test: DbtTest, *, blocking: bool) -> dg.AssetCheckSpec:
    own = asset_key(graph.resource(test.attached))
    others = {key: None for parent in test.parents if (key := asset_key(graph.resource(parent))) != own}
    return dg.AssetCheckSpec(
        test.name,
        asset=own,
        description=test.node.description or test.node.meta.get("description"),
        additional_deps=list(others),
        metadata={"dagster_dbt/unique_id": test.unique_id},
        blocking=blocking,
    )


def dbt_test_result(graph: Graph, test: DbtTest, result: NodeResult) -> dg.AssetCheckResult | dg.AssetCheckEvaluation:
    """Return the result of a dbt test that ran.

    dbt's status decides whether the run fails. For a test with `severity: warn`, dbt reports a failure only under
    `warn_error`, and an error only if the test could not run.

    Args:
        graph: The graph of the manifest.
        test: The test.
        result: dbt's result of the test.

    Returns:
        An evaluation if a test with `severity: warn` failed nevertheless, otherwise a check result.
    """
    key = check_key(graph, test)
    failed = result.status in FAILED_STATUS
    warned = not failed and (result.status == "warn" or not test.blocking)
    outcome: dict[str, Any] = {
        "asset_key": key.asset_key,
        "check_name": key.name,
        "passed": result.status == "pass",
        "severity": SEVERITY["warn" if warned else "error"],
        "description": result.message or None,
        "metadata": {
            "status": result.status,
            "seconds": round(result.seconds, 3),
            **({"failures": result.failures} if result.failures is not None else {}),
            **({"sql": _sql(result.compiled_code)} if result.compiled_code and result.status != "pass" else {}),
        },
    }
    if failed and not test.blocking:
        # Dagster's retry from the failed asset only considers checks whose evaluation is marked as blocking.
        return dg.AssetCheckEvaluation(blocking=True, **outcome)
    return dg.AssetCheckResult(**outcome)


def _sql(code: str) -> dg.MarkdownMetadataValue:
    """Return a test's SQL as Markdown, truncated to `MAX_SQL` characters."""
    code = code.strip()
    if len(code) > MAX_SQL:
        code = f"{code[:MAX_SQL]}\n-- and {len(code) - MAX_SQL:,} more characters"
    return dg.MetadataValue.md(f"```sql\n{code}\n```")
