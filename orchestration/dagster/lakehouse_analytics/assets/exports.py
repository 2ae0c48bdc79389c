"""Exports as assets: one asset and one op per copy of a table, downstream of the table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import dagster as dg

from lakehouse_analytics.arrivals.connections import connection_variable
from lakehouse_analytics.assets.export_gates import closed_gates, gates_of
from lakehouse_analytics.assets.specs import export_spec
from lakehouse_analytics.assets.transfer_retries import fail_or_retry
from lakehouse_analytics.contract.exports import Serve
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.dbt.nodes import Exposure
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.engines.base import DatabaseError, Engine
from lakehouse_analytics.exports.base import ExportError, NotEqualError, Target
from lakehouse_analytics.exports.registry import connection_of, destination, kind_of
from lakehouse_analytics.exports.run import Published, export
from lakehouse_analytics.keys import EXPORTS_POOL, asset_key, copy_key
from lakehouse_analytics.locks import TableBusyError, TableLocks, export_lock
from lakehouse_analytics.runs.failed_launch import refuse_failed_launch
from lakehouse_analytics.settings import Settings

ROWS_SERVED = "rows_served"
#: Metadata of an export: the table's materialization that it has copied, so that the sensor finds newer ones.
COPIED = "lakehouse/copied_materialization"


@dataclass(frozen=True)
class Export:
    """A copy of a table.

    Attributes:
        table: The table.
        serve: The copy, as the contract describes it.
        gates: The blocking checks of the table.
        key: The asset key.
        exposure: The exposure whose contract describes the copy; None if it is that of the table.
    """

    table: Table
    serve: Serve
    gates: Sequence[dg.AssetCheckKey]
    key: dg.AssetKey
    exposure: Exposure | None = None

    @property
    def owner(self) -> str:
        """What describes the copy, as messages name it: `model orders` or `exposure sales`."""
        node = self.exposure or self.table.node
        return f"{node.resource_type} {node.name}"

    @property
    def variable(self) -> str:
        """The environment variable of the connection."""
        return connection_variable(self.serve.to)


def exports_of(graph: Graph) -> list[Export]:
    """Return all exports of a project.

    Raises:
        ContractError: Two contracts describe the same copy, or a copy has the key of another asset.
    """
    found: dict[dg.AssetKey, Export] = {}
    taken = {asset_key(owner) for owner in (*graph.tables.values(), *graph.unbuilt.values())}
    for copy in graph.copies:
        table, serve = graph.tables[copy.table], copy.serve
        one = Export(table, serve, gates_of(graph, table), copy_key(copy), copy.exposure)
        where = f"{(copy.exposure or table.node).original_file_path}: {one.owner}: meta.lakehouse.serve"
        if one.key in found:
            other = found[one.key]
            fix = "Remove one of the two." if other.table is table else "Each copy needs a name of its own."
            raise ContractError(f"{where}: {serve.to} and {serve.table} are also those of {other.owner}. {fix}")
        if one.key in taken:
            raise ContractError(f"{where}: {one.key.to_user_string()} is the key of another asset; rename the copy.")
        found[one.key] = one
    return [found[key] for key in sorted(found)]


def export_assets(graph: Graph, exports: Sequence[Export], settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the assets of some exports.

    Args:
        graph: The manifest's graph.
        exports: The exports.
        settings: The settings.
    """
    return [_asset(graph, one, settings) for one in exports]


def _asset(graph: Graph, one: Export, settings: Settings) -> dg.AssetsDefinition:
    kind = kind_of(one.serve.to)
    name = "export__" + "__".join(one.key.path)

    @dg.multi_asset(
        name=name,
        specs=[export_spec(graph, one.table, one.key, kind, settings.timezone, exposure=one.exposure)],
        check_specs=[
            dg.AssetCheckSpec(
                ROWS_SERVED,
                asset=one.key,
                description="The copy has the rows of the lakehouse's table: their number and checksum are equal.",
            )
        ],
        pool=graph.engine.pool or EXPORTS_POOL,
    )
    def execute(context: dg.AssetExecutionContext, engine: dg.ResourceParam[Engine]) -> Iterator[Any]:
        refuse_failed_launch(context.instance, context.run.run_id)
        yield from _Execution(context, engine, one, settings.max_runtime).events()

    return execute


class _Execution:
    """One execution of the op of an export."""

    def __init__(self, context: dg.AssetExecutionContext, engine: Engine, one: Export, max_wait: float) -> None:
        self._context, self._engine, self._export, self._max_wait = context, engine, one, max_wait
        self._table = "/".join(one.table.key)

    def events(self) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        """Export, and yield the events.

        Raises:
            dg.Failure: The export failed, or a gate does not allow it.
        """
        self._refuse_closed_gates()
        copied = self._newest()
        try:
            url, published = self._run()
        except NotEqualError as error:
            yield dg.AssetCheckResult(
                check_name=ROWS_SERVED, asset_key=self._export.key, passed=False, description=str(error)
            )
            self._fail(str(error), transient=error.transient)
        except (ExportError, TableBusyError) as error:
            self._fail(str(error), transient=getattr(error, "transient", False))
        except DatabaseError as error:
            self._fail(str(error), transient=self._engine.classify_error(str(error)).transient)
        yield self._result(url, published, copied)

    def _refuse_closed_gates(self) -> None:
        if closed := closed_gates(self._context.instance, self._export.gates):
            lines = "\n".join(f"✘ {line}" for line in closed)
            self._fail(f"its gates do not allow it. Fix the data, and build the table again.\n{lines}")

    def _newest(self) -> int:
        """Return the storage id of the table's latest materialization; 0 if there is none."""
        key = asset_key(self._export.table)
        records = self._context.instance.get_asset_records([key])
        return max((r.asset_entry.last_materialization_storage_id or 0 for r in records), default=0)

    def _run(self) -> tuple[str, Published]:
        one, serve, context = self._export.table, self._export.serve, self._context
        found = connection_of(serve.to)
        target = Target(serve.schema_name, serve.table_name, serve.key, self._table, context.run.run_id)
        name = str(one.node.relation_name)
        locks = TableLocks(context.instance, context.run.run_id, context.op_execution_context.op_def.name)
        lock = export_lock(serve.to, serve.table)
        log: Callable[[str], None] = context.log.info
        with (
            locks,
            locks.locked(lock, wait=self._max_wait, log=log),
            destination(found, target) as copy,
            self._engine.read_table(relation_of(one.node), name) as reader,
        ):
            log(f"Exporting {name} ({reader.rows} rows) to {serve.table} in {found.redacted}.")
            return found.redacted, export(reader, copy, serve.key, log)

    def _result(self, url: str, published: Published, copied: int) -> dg.MaterializeResult[Any]:
        rows = published.checksum.rows
        columns = [dg.TableColumn(column.name, column.kind.value) for column in published.columns]
        metadata: dict[str, Any] = {
            "dagster/row_count": rows,
            "dagster/column_schema": dg.TableSchema(columns=columns),
            "dagster/table_name": self._export.serve.table,
            "bytes": published.bytes,
            "seconds": round(published.seconds, 3),
            "url": url,
            COPIED: copied,
        }
        served = dg.AssetCheckResult(
            check_name=ROWS_SERVED,
            passed=True,
            metadata={"rows": rows, "checksum": f"{published.checksum.total:x}"},
        )
        return dg.MaterializeResult(asset_key=self._export.key, metadata=metadata, check_results=[served])

    def _fail(self, reason: str, *, transient: bool = False) -> NoReturn:
        message = f"{self._table} was not exported to {self._export.serve.to}: {reason}"
        fail_or_retry(self._context, message, transient=transient)
