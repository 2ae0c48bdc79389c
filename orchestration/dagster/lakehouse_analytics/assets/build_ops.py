"""The ops that build a dbt project. `build.py` has what one execution does."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import dagster as dg

from lakehouse_analytics._dagster_internals import remember_output_keys
from lakehouse_analytics.assets.branch_choice import branch_of
from lakehouse_analytics.assets.build import DEFAULT_THREADS, OP_NAME, Build, BuildConfig, Context
from lakehouse_analytics.assets.build_events import Event
from lakehouse_analytics.assets.multi_asset import multi_asset, multi_asset_check
from lakehouse_analytics.assets.own import OwnAssets
from lakehouse_analytics.assets.run_branch import refuse_other_branch
from lakehouse_analytics.assets.specs import table_spec
from lakehouse_analytics.checks.registry import EvaluationPoint, Scope, specs
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.engines.base import Engine
from lakehouse_analytics.partitions.by_column import ColumnPartitions, column_partitions
from lakehouse_analytics.partitions.definitions import GRAINS_OF_ONE_OP, GrainPartitions
from lakehouse_analytics.partitions.time_and_column import refuse_circles
from lakehouse_analytics.runs.failed_launch import refuse_failed_launch
from lakehouse_analytics.settings import Settings

OP_TAGS = {"dagster/compute_kind": "dbt"}
#: The evaluation points of the checks that the op evaluates.
EVALUATED_BY_OP = (EvaluationPoint.IN_DBT, EvaluationPoint.WITH_TABLES, EvaluationPoint.BEFORE_TABLES)


@dataclass(frozen=True)
class BuildOps:
    """The ops of a dbt project.

    One op builds the unpartitioned and the daily tables. Each other grain has its own op, and so has each column by
    which tables are partitioned, alone or with a grain, because Dagster does not run two partitions definitions in one
    op.

    Attributes:
        graph: The manifest's graph.
        project: The dbt project.
        grain_partitions: The partitions of partitioned tables, by grain.
        settings: The settings.
        own: The user's Python assets.
        pool: The concurrency pool of the ops; None if they need none.
    """

    graph: Graph
    project: DbtProject
    grain_partitions: Mapping[Grain, GrainPartitions]
    settings: Settings
    own: OwnAssets
    pool: str | None

    def definitions(self) -> list[dg.AssetsDefinition]:
        """Return the assets and checks of the whole dbt project."""
        by_op: dict[str, list[Table]] = {}
        for table in self.graph.tables.values():
            by_op.setdefault(op_of(table), []).append(table)
        by_column = column_partitions(self.graph)
        refuse_circles(self.graph)
        scope = Scope(self.graph, self.grain_partitions, by_column, circular=self.own.gates_in_a_circle())
        # Tests of sources and external tables gate the tables that read them. As in dagster-dbt, they belong to the
        # first op.
        of_unbuilt = [*specs(scope, self.graph.unbuilt.values(), *EVALUATED_BY_OP)]
        if not by_op:
            return [self._checks(OP_NAME, of_unbuilt)] if of_unbuilt else []
        # The op of unpartitioned tables is the first one if it exists.
        ops = sorted(by_op, key=lambda name: name != OP_NAME)
        return [
            self._op(
                name,
                tables,
                [*specs(scope, tables, *EVALUATED_BY_OP), *(of_unbuilt if name == ops[0] else ())],
                by_column,
            )
            for name in ops
            for tables in [by_op[name]]
        ]

    def _op(
        self,
        name: str,
        tables: list[Table],
        check_specs: list[dg.AssetCheckSpec],
        by_column: Mapping[str, ColumnPartitions],
    ) -> dg.AssetsDefinition:
        maximum, timezone = self.settings.max_partitions_per_run, self.settings.timezone
        folder = self.project.project_dir
        policy = dg.BackfillPolicy.multi_run(maximum) if maximum else dg.BackfillPolicy.single_run()

        @multi_asset(
            name=name,
            specs=[
                table_spec(self.graph, table, folder, timezone, self.grain_partitions, column_partitions=by_column)
                for table in tables
            ],
            check_specs=check_specs,
            can_subset=True,
            allow_arbitrary_check_specs=True,
            pool=self.pool,
            backfill_policy=None if all(table.is_whole for table in tables) else policy,
            op_tags=OP_TAGS,
        )
        def build(
            context: dg.AssetExecutionContext,
            config: BuildConfig,
            dbt_runner: dg.ResourceParam[DbtRunner],
            engine: dg.ResourceParam[Engine],
        ) -> Iterator[Event]:
            yield from self._execute(
                context, context.selected_asset_keys, config, dbt_runner, engine, by_column=by_column
            )

        return build

    def _checks(self, name: str, check_specs: list[dg.AssetCheckSpec]) -> dg.AssetChecksDefinition:
        """Return the op of a project with checks and no tables: Dagster refuses a `multi_asset` without assets."""

        @multi_asset_check(name=name, specs=check_specs, can_subset=True, pool=self.pool, op_tags=OP_TAGS)
        def build(
            context: dg.AssetCheckExecutionContext,
            config: BuildConfig,
            dbt_runner: dg.ResourceParam[DbtRunner],
            engine: dg.ResourceParam[Engine],
        ) -> Iterator[Event]:
            yield from self._execute(context, frozenset(), config, dbt_runner, engine, by_column={})

        return build

    def _execute(
        self,
        context: Context,
        keys: AbstractSet[dg.AssetKey],
        config: BuildConfig,
        dbt: DbtRunner,
        engine: Engine,
        *,
        by_column: Mapping[str, ColumnPartitions],
    ) -> Iterator[Event]:
        refuse_failed_launch(context.instance, context.run.run_id)
        refuse_other_branch(context.run.tags, self.settings.branch)
        remember_output_keys(context)
        run = Build(
            self.graph,
            self.project,
            context,
            keys,
            config,
            dbt=dbt,
            engine=engine,
            grain_partitions=self.grain_partitions,
            column_partitions=by_column,
            zone=ZoneInfo(self.settings.timezone),
            max_runtime=self.settings.max_runtime,
            threads=self.settings.dbt_threads or DEFAULT_THREADS,
            branch=branch_of(self.settings),
        )
        yield from run.events()


def op_of(table: Table) -> str:
    """Return the name of the op that builds a table."""
    if table.by:
        return f"{OP_NAME}_{table.grain}_{table.by}" if table.grain else f"{OP_NAME}_{table.by}"
    return OP_NAME if table.grain in GRAINS_OF_ONE_OP else f"{OP_NAME}_{table.grain}"
