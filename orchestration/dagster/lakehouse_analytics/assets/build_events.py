"""What a build reports to Dagster: materializations, check evaluations, and why something is missing."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_analytics.assets.dbt_build import Report
from lakehouse_analytics.assets.gates.plan import Plan
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.assets.retries import Patience
from lakehouse_analytics.checks.dbt_tests import dbt_test_result
from lakehouse_analytics.checks.evaluations import Evaluations
from lakehouse_analytics.checks.registry import table_check_names
from lakehouse_analytics.checks.row_count_rules import Counts
from lakehouse_analytics.checks.runner import Counter, CountResult
from lakehouse_analytics.common.names import ROW_COUNT, unique_metadata_key
from lakehouse_analytics.dbt.error_location import with_source_line
from lakehouse_analytics.dbt.graph import Function, Graph, Table
from lakehouse_analytics.dbt.run_results import BUILT_STATUS, DbtResult, NodeResult
from lakehouse_analytics.engines.base import Engine
from lakehouse_analytics.keys import asset_key, check_key
from lakehouse_analytics.partitions.definitions import Window
from lakehouse_analytics.partitions.run_partitions import RunWindows

Event = dg.MaterializeResult[Any] | dg.Output[None] | dg.AssetCheckEvaluation


class BuildEvents:
    """The events of one execution of the op.

    Attributes:
        evaluations: Of checks.
        verdicts: Results of the checks of each table that was counted, by unique id; reported with the table.
    """

    def __init__(
        self,
        graph: Graph,
        project_dir: Path,
        context: dg.AssetExecutionContext,
        checks: AbstractSet[dg.AssetCheckKey],
        *,
        run: Run,
        engine: Engine,
        windows: RunWindows | None,
    ) -> None:
        """
        Args:
            graph: The manifest's.
            project_dir: The dbt project, for the places of errors.
            context: Of the op.
            checks: Those that were selected.
            run: What is to be built, and what became of it.
            engine: Explains failures, and knows the pages of queries.
            windows: Of the run, where it has partitioned tables.
        """
        self._graph, self._project_dir, self._context, self._checks = graph, project_dir, context, checks
        self._run, self._engine, self._windows = run, engine, windows
        self.evaluations = Evaluations(context)
        self.verdicts: dict[str, list[dg.AssetCheckResult | dg.AssetCheckEvaluation]] = {}
        self._counted_in_part: dict[str, CountResult] = {}
        self._reported: set[str] = set()

    def of_node(self, report: Report, patience: Patience) -> Iterator[Event]:
        """What there is to tell of a node that will not be tried again."""
        table, node = report.table, report.node
        if table is None:
            # Functions are not assets. A test that may be retried is reported when that is decided.
            if node and node.unique_id in self._graph.tests and not _may_pass(node, patience):
                yield from self._of_test(node)
            return
        if node and node.status not in BUILT_STATUS:
            if report.answer is not None:
                self._counted_in_part[table.unique_id] = report.answer
            return
        if node and not report.late:
            metadata = self._metadata(table, report.answer, node)
            self._tell_partitions(table, report.answer)
            yield dg.MaterializeResult(asset_key=asset_key(table), metadata=metadata)
            self.evaluations.refresh(asset_key(table))
        if report.late:
            for partition, metadata in _counted(report.answer):
                self._context.log_event(dg.AssetObservation(asset_key(table), partition=partition, metadata=metadata))
        if report.answer is not None:
            yield from self.evaluations.events(self.verdicts[table.unique_id])

    def _of_test(self, node: NodeResult) -> Iterator[Event]:
        if node.status != "skipped" and node.unique_id not in self._reported:
            self._reported.add(node.unique_id)
            result = dbt_test_result(self._graph, self._graph.tests[node.unique_id], node)
            yield from self.evaluations.events([result])

    def of_end(self, plan: Plan, result: DbtResult, counter: Counter) -> Iterator[Event]:
        """What is known only at the end: failures that were retried, and tables that were built in part."""
        things: list[Table | Function] = [*plan.tables, *plan.functions]
        for thing in things:
            if thing.unique_id in self._run.failed:
                message = self.with_advice(self._run.failed[thing.unique_id])
                self._run.failed[thing.unique_id] = with_source_line(message, thing.node, self._project_dir)
        for unique_id, reasons in self._partly_replaced(plan.tables, result).items():
            answer = self._counted_in_part.get(unique_id, "dbt ended before it was counted")
            yield from self._of_windows(self._graph.tables[unique_id], answer, reasons, counter)
        for test in plan.tests:
            if node := result.nodes.get(test.unique_id):
                yield from self._of_test(node)

    def _partly_replaced(self, tables: Sequence[Table], result: DbtResult) -> dict[str, dict[Window, str | None]]:
        """Of failed tables of which dbt replaced some windows: for each window None, or why it was not replaced.

        Only where this run may report the row count: its failure is what brings the table into Dagster's retry.
        """
        found: dict[str, dict[Window, str | None]] = {}
        if self._windows is None:
            return found
        for table in tables:
            node = result.nodes.get(table.unique_id)
            counted = dg.AssetCheckKey(asset_key(table), ROW_COUNT) in self._checks
            if not (table.grain and counted and table.unique_id in self._run.failed):
                continue
            if node and node.batches and node.batches.replaced and node.batches.failed:
                found[table.unique_id] = node.batches.errors_by_window(self._windows.span.windows)
        return found

    def _of_windows(
        self, table: Table, answer: CountResult, reasons: Mapping[Window, str | None], counter: Counter
    ) -> Iterator[Event]:
        """Record the windows that were replaced, and a failed row count for each of the others."""
        key = asset_key(table)
        done = {window.key for window, reason in reasons.items() if reason is None}
        for partition in done:
            counts = answer.get(partition) if isinstance(answer, Mapping) else None
            metadata = {"dagster/partition_row_count": counts.rows, **_of_rows(counts)} if counts else {}
            self._context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=metadata))
        self.evaluations.refresh(key)
        judged = [v for v in counter.evaluate(table, answer) if getattr(v, "partition", None) in done]
        yield from self.evaluations.events(judged)
        kept = [
            dg.AssetCheckEvaluation(
                asset_key=key,
                check_name=ROW_COUNT,
                partition=window.key,
                passed=False,
                blocking=True,
                description=f"dbt did not replace this window: {reason}",
            )
            for window, reason in reasons.items()
            if reason is not None
        ]
        yield from self.evaluations.events(kept)

    def close(self) -> None:
        """Log the summary, or fail with it.

        Raises:
            dg.Failure: something was not built, a gate failed, or a planned check was not evaluated.
        """
        summary = self._run.summary()
        silent = sorted(key.to_user_string() for key in self._checks - self.evaluations.evaluated - self._explained())
        if silent:
            summary += "\n✘ planned checks that were not evaluated: " + ", ".join(silent)
        if silent or not self._run.succeeded:
            raise dg.Failure(f"The build did not pass.\n{summary}", allow_retries=False)
        self._context.log.info(summary)

    def _explained(self) -> set[dg.AssetCheckKey]:
        """Checks that could not be evaluated for a reason the summary gives already."""
        out = {*self._run.blocked, *self._run.failed}
        tests = self._graph.tests.values()
        explained = {
            check_key(self._graph, t)
            for t in tests
            if t.unique_id in self._run.unevaluated or not out.isdisjoint((*t.parents, *t.functions))
        }
        # A table that was not built has no rows to judge.
        keys = (asset_key(self._graph.tables[table]) for table in out & self._graph.tables.keys())
        names = table_check_names()
        return explained | {dg.AssetCheckKey(key, name) for key in keys for name in names}

    def _tell_partitions(self, table: Table, answer: CountResult | None) -> None:
        """What a materialization says of its own partition, and not of the run."""
        for partition, metadata in _counted(answer):
            if partition is not None:
                self._context.add_asset_metadata(metadata, asset_key(table), partition)

    def _metadata(self, table: Table, answer: CountResult | None, node: NodeResult) -> dict[str, Any]:
        metadata: dict[str, Any] = {"runtime_seconds": round(node.seconds, 3), "relation": table.node.relation_name}
        for partition, rows in _counted(answer):
            metadata |= rows if partition is None else {}
        if url := node.query_id and self._engine.query_url(node.query_id):
            metadata["query"] = dg.MetadataValue.url(url)
        return metadata

    def with_advice(self, message: str) -> str:
        """An error of the engine, and what to do about it."""
        advice = self._engine.classify_error(message).advice
        return f"{message.rstrip()}\n  {advice}" if advice else message


def _may_pass(node: NodeResult, patience: Patience) -> bool:
    return node.status == "error" and patience.classify_error(node.message).transient


def _counted(answer: CountResult | None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """The metadata of a table's rows: of the table, or of each partition."""
    if isinstance(answer, Counts):
        yield None, {"dagster/row_count": answer.rows, **_of_rows(answer)}
    elif isinstance(answer, Mapping):
        for partition, counts in answer.items():
            yield partition, {"dagster/partition_row_count": counts.rows, **_of_rows(counts)}


def _of_rows(counts: Counts) -> dict[str, Any]:
    metadata: dict[str, Any] = {unique_metadata_key(column): n for column, n in counts.distinct.items()}
    if counts.newest:
        metadata["newest_event_time"] = dg.MetadataValue.timestamp(counts.newest)
    return metadata
