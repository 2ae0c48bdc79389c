"""The events that a build reports to Dagster: materializations, check evaluations, and reasons for missing ones."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_analytics.assets.column_lineage import ColumnLineage
from lakehouse_analytics.assets.dbt_build import NOT_COUNTED, Report
from lakehouse_analytics.assets.dbt_retries import Patience
from lakehouse_analytics.assets.gates.plan import Plan
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.assets.reuse import Reuse
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
    """Creates the events of one execution of the op.

    Attributes:
        evaluations: Creates the evaluations of checks.
        verdicts: The results of the checks of each counted table, by unique id. They are reported with the table.
        unpublished: Unique ids of tables that were built on a branch and not published, so not materialized.
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
        lineage_folder: Path,
        reuse: Reuse,
        schemas: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            graph: The manifest's graph.
            project_dir: The folder of the dbt project, for the locations of errors.
            context: The context of the op.
            checks: The selected checks.
            run: The state of the run.
            engine: The engine, which has advice for failures and the pages of queries.
            windows: The partitions of the run; None if it has no partitioned tables.
            lineage_folder: Where the lineage of columns is kept between runs.
            reuse: Records the states of tables that may be reused.
            schemas: The schema that readers see, by the schema in which the run builds it.
        """
        self._graph, self._project_dir, self._context, self._checks = graph, project_dir, context, checks
        self._run, self._engine, self._windows = run, engine, windows
        self.evaluations = Evaluations(context)
        self.verdicts: dict[str, list[dg.AssetCheckResult | dg.AssetCheckEvaluation]] = {}
        self.unpublished: AbstractSet[str] = frozenset()
        self._counted_in_part: dict[str, CountResult] = {}
        self._reported: set[str] = set()
        self._lineage, self._reuse, self._schemas = ColumnLineage(graph, lineage_folder), reuse, schemas or {}

    def reused_events(self) -> Iterator[Event]:
        """Yield the materializations of the tables that need not be built."""
        for result in self._reuse.materializations():
            assert result.asset_key is not None  # noqa: S101  # each has one
            yield result
            self.evaluations.refresh(result.asset_key)

    def node_events(self, report: Report, patience: Patience) -> Iterator[Event]:
        """Yield the events of a finished node. Tests that may be retried are reported after the last attempt."""
        table, node = report.table, report.node
        if table is None:
            # Functions are not assets, so they have no events.
            if node and node.unique_id in self._graph.tests and not _may_be_retried(node, patience):
                yield from self._test_events(node)
            return
        if node and node.status not in BUILT_STATUS:
            if report.answer is not None:
                self._counted_in_part[table.unique_id] = report.answer
            return
        visible = table.unique_id not in self.unpublished
        if node and not report.late and visible:
            metadata = self._metadata(table, report.answer, node)
            self._add_partition_metadata(table, report.answer)
            yield dg.MaterializeResult(asset_key=asset_key(table), metadata=metadata)
            self.evaluations.refresh(asset_key(table))
        if report.late and visible:
            for partition, metadata in _counted(report.answer):
                self._context.log_event(dg.AssetObservation(asset_key(table), partition=partition, metadata=metadata))
        if report.answer is not None:
            verdicts = self.verdicts[table.unique_id]
            # What passed is not what readers see, and must not become the baseline of later row counts.
            yield from self.evaluations.events([v for v in verdicts if visible or not v.passed])

    def _test_events(self, node: NodeResult) -> Iterator[Event]:
        if node.status != "skipped" and node.unique_id not in self._reported:
            self._reported.add(node.unique_id)
            test = self._graph.tests[node.unique_id]
            result = dbt_test_result(self._graph, test, node)
            if result.passed and not self.unpublished.isdisjoint((test.attached, *test.parents)):
                return
            yield from self.evaluations.events([result])

    def final_events(self, plan: Plan, result: DbtResult, counter: Counter) -> Iterator[Event]:
        """Yield the events that are known only at the end: those of retried tests and of partly built tables."""
        nodes: list[Table | Function] = [*plan.tables, *plan.functions]
        for node in nodes:
            if node.unique_id in self._run.failed:
                message = self.with_advice(self._run.failed[node.unique_id])
                self._run.failed[node.unique_id] = with_source_line(message, node.node, self._project_dir)
        for unique_id, reasons in self._partly_replaced(plan.tables, result).items():
            answer = self._counted_in_part.get(unique_id, NOT_COUNTED)
            yield from self._partition_events(self._graph.tables[unique_id], answer, reasons, counter)
        for test in plan.tests:
            if found := result.nodes.get(test.unique_id):
                yield from self._test_events(found)

    def _partly_replaced(self, tables: Sequence[Table], result: DbtResult) -> dict[str, dict[Window, str | None]]:
        """Return the failed tables of which dbt replaced some partitions, by unique id.

        For each partition of the run, the value is None if dbt replaced it, or else the reason why not. Tables whose
        row count is not selected are not included: only a failed row count makes Dagster retry the table.
        """
        found: dict[str, dict[Window, str | None]] = {}
        if self._windows is None:
            return found
        for table in tables:
            if table.unique_id in self.unpublished:
                continue
            node = result.nodes.get(table.unique_id)
            counted = dg.AssetCheckKey(asset_key(table), ROW_COUNT) in self._checks
            if not (table.grain and counted and table.unique_id in self._run.failed):
                continue
            if node and node.batches and node.batches.replaced and node.batches.failed:
                found[table.unique_id] = node.batches.errors_by_window(self._windows.span.windows)
        return found

    def _partition_events(
        self, table: Table, answer: CountResult, reasons: Mapping[Window, str | None], counter: Counter
    ) -> Iterator[Event]:
        """Record materializations of the replaced partitions, and yield a failed row count for each of the others."""
        key = asset_key(table)
        done = {window.key for window, reason in reasons.items() if reason is None}
        for partition in done:
            counts = answer.get(partition) if isinstance(answer, Mapping) else None
            metadata = {"dagster/partition_row_count": counts.rows, **_of_rows(counts)} if counts else {}
            self._context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=metadata))
        self.evaluations.refresh(key)
        evaluated = [v for v in counter.evaluate(table, answer) if getattr(v, "partition", None) in done]
        yield from self.evaluations.events(evaluated)
        kept = [
            dg.AssetCheckEvaluation(
                asset_key=key,
                check_name=ROW_COUNT,
                partition=window.key,
                passed=False,
                blocking=True,
                description=f"dbt did not replace this partition: {reason}",
            )
            for window, reason in reasons.items()
            if reason is not None
        ]
        yield from self.evaluations.events(kept)

    def close(self) -> None:
        """Log the summary, or raise a failure with it.

        Raises:
            dg.Failure: Something was not built, a gate failed, or a planned check was not evaluated.
        """
        summary = self._run.summary()
        silent = sorted(key.to_user_string() for key in self._checks - self.evaluations.evaluated - self._explained())
        if silent:
            summary += "\n✘ planned checks that were not evaluated: " + ", ".join(silent)
        if silent or not self._run.succeeded:
            raise dg.Failure(f"The build did not pass.\n{summary}", allow_retries=False)
        self._context.log.info(summary)

    def _explained(self) -> set[dg.AssetCheckKey]:
        """Return the checks that could not be evaluated for reasons that the summary already has."""
        unbuilt = {*self._run.blocked, *self._run.failed, *self.unpublished}
        tests = self._graph.tests.values()
        explained = {
            check_key(self._graph, t)
            for t in tests
            if t.unique_id in self._run.unevaluated or not unbuilt.isdisjoint((*t.parents, *t.functions))
        }
        # Checks of tables are not evaluated if the table was not built.
        keys = (asset_key(self._graph.tables[table]) for table in unbuilt & self._graph.tables.keys())
        names = table_check_names()
        return explained | {dg.AssetCheckKey(key, name) for key in keys for name in names}

    def _add_partition_metadata(self, table: Table, answer: CountResult | None) -> None:
        """Add metadata to the materializations of single partitions, in addition to that of the whole table."""
        for partition, metadata in _counted(answer):
            if partition is not None:
                self._context.add_asset_metadata(metadata, asset_key(table), partition)

    def _metadata(self, table: Table, answer: CountResult | None, node: NodeResult) -> dict[str, Any]:
        rows = next((rows for partition, rows in _counted(answer) if partition is None), {})
        if node.unchanged:
            return {**self._reuse.metadata_of_reused(table.unique_id), **rows}
        relation = self._graph.tables[table.unique_id].node.relation_name  # not that on a branch
        metadata: dict[str, Any] = {"runtime_seconds": round(node.seconds, 3), "relation": relation, **rows}
        if url := node.query_id and self._engine.query_url(node.query_id):
            metadata["query"] = dg.MetadataValue.url(url)
        sql = node.compiled_code
        metadata |= self._reuse.metadata(table, sql)
        for schema, visible in self._schemas.items():
            sql = sql and sql.replace(schema, visible)
        return metadata | self._lineage.metadata(table, sql)

    def with_advice(self, message: str) -> str:
        """Return an error message, followed by the engine's advice if it has any."""
        advice = self._engine.classify_error(message).advice
        return f"{message.rstrip()}\n  {advice}" if advice else message


def _may_be_retried(node: NodeResult, patience: Patience) -> bool:
    return node.status == "error" and patience.classify_error(node.message).transient


def _counted(answer: CountResult | None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield the metadata with row counts: for the table as a whole (None), or for each partition."""
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
