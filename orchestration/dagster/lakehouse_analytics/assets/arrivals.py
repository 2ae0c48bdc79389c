"""The assets of sources that the lakehouse loads itself, from files or from databases: `meta.lakehouse.arrives`."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import dagster as dg
from pydantic import Field

from lakehouse_analytics.arrivals.files.places import FILES_TABLE, QUARANTINE_TABLE
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.assets.file_loads import FileLoad
from lakehouse_analytics.assets.multi_asset import multi_asset
from lakehouse_analytics.assets.specs import source_spec
from lakehouse_analytics.assets.table_loads import TableLoad
from lakehouse_analytics.assets.transfer_retries import fail_or_retry
from lakehouse_analytics.checks.freshness import thresholds
from lakehouse_analytics.common.environment import SettingsError
from lakehouse_analytics.common.names import apart, some
from lakehouse_analytics.contract.arrivals import FileArrival, TableArrival
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.graph import Graph, Source
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.keys import EXPORTS_POOL, broken_row_count_tag
from lakehouse_analytics.locks import TableBusyError, TableLocks, export_lock, lock_name
from lakehouse_analytics.partitions.arrivals import source_partitions
from lakehouse_analytics.runs.failed_launch import refuse_failed_launch
from lakehouse_analytics.settings import Settings

Event = dg.MaterializeResult[None] | dg.AssetMaterialization | dg.AssetCheckResult


class LoadConfig(dg.Config):
    """The run config of a load."""

    reload: bool = Field(
        default=False,
        description="Load everything again and replace the whole table, instead of only what is new. No effect in a "
        "run for partitions, which replaces these.",
    )
    accept_row_count: bool = Field(
        default=False,
        description="Accept the row count after this load as the new level: `max_drop` and drift of the source's "
        "`rows` start from it.",
    )


def arrival_assets(graph: Graph, settings: Settings) -> list[dg.AssetsDefinition]:
    """Return an asset for each source that the lakehouse loads itself.

    Args:
        graph: The manifest's graph.
        settings: The settings.

    Raises:
        ContractError: A source that is copied to ClickHouse is read by a model or a test.
    """
    refuse_readers(graph)
    loaded = {source.key: source for source in graph.sources.values() if is_loaded(source)}
    names = apart(map("_".join, loaded), lambda name: "load_" + re.sub(r"\W", "_", name, flags=re.ASCII))
    return [_asset(graph, source, settings, names["_".join(key)]) for key, source in loaded.items()]


def is_loaded(source: Source) -> bool:
    """Return whether the lakehouse loads a source itself."""
    return source.contract.is_loaded


def refuse_readers(graph: Graph) -> None:
    """Refuse models and tests that read a table which is not in the lakehouse.

    Raises:
        ContractError: There are some. The message has one line for each source.
    """
    wrong = []
    for source in graph.sources.values():
        if not source.contract.copied_to:
            continue
        name = f"{source.node.source_name}.{source.node.name}"
        readers = [f"model {graph.tables[child].name}" for child in graph.children.get(source.unique_id, ())]
        readers += [f"test {test.node.name}" for test in graph.tests.values() if source.unique_id in test.parents]
        readers += ["its freshness"] if thresholds(source) else []
        if readers:
            wrong.append(
                f"{source.node.original_file_path}: source {name}: meta.lakehouse.arrives.to: its table is in "
                f"ClickHouse (connection {source.contract.copied_to.to}), where dbt cannot read it, but it is read by "
                f"{some(readers)}. Remove `to` to copy it into the lakehouse, and export a model with `serve` "
                "(docs/exports.md); or add a second table to the source, for the copy in ClickHouse"
            )
    if wrong:
        raise ContractError("\n".join(wrong))


def _asset(graph: Graph, source: Source, settings: Settings, name: str) -> dg.AssetsDefinition:
    load = _load_of(source, settings)
    partitions = source_partitions(source, settings.timezone)
    spec = source_spec(graph, source, settings.timezone).replace_attributes(partitions_def=partitions, skippable=True)

    @multi_asset(
        name=name,
        specs=[spec],
        check_specs=load.check_specs(),
        # Makes all results optional: a load that finds nothing new has none.
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run() if partitions else None,
        # A folder of chdb can be open in one process, and exports may use the same.
        pool=graph.engine.pool or (EXPORTS_POOL if source.contract.copied_to else None),
    )
    def run(context: dg.AssetExecutionContext, config: LoadConfig) -> Iterator[Event]:
        refuse_failed_launch(context.instance, context.run.run_id)
        try:
            with _locked(graph, source, context, wait=settings.max_runtime):
                broken: dict[str, str] = {}
                for event in load.events(context, reload=config.reload, accept=config.accept_row_count):
                    if not isinstance(event, dg.AssetCheckResult):
                        yield event
                    elif _is_selected(context, event):
                        yield event
                        if not event.passed and event.severity == dg.AssetCheckSeverity.ERROR:
                            broken[str(event.check_name)] = event.description or "failed"
            if broken:
                # The rows are loaded. The failure stops what this run would build from them.
                context.instance.add_run_tags(context.run.run_id, broken_row_count_tag(context.run.run_id, broken))
                reasons = some([f"{check}: {reason}" for check, reason in broken.items()], between="; ")
                raise dg.Failure(f"{'/'.join(source.key)}: {reasons}", allow_retries=False)
        except ArrivalError as error:
            fail_or_retry(context, str(error), transient=error.transient)
        except (SettingsError, TableBusyError) as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        except OSError as error:  # such as a full disk
            raise dg.Failure(f"{'/'.join(source.key)}: {error.strerror or error}", allow_retries=False) from error

    return run


def _is_selected(context: dg.AssetExecutionContext, result: dg.AssetCheckResult) -> bool:
    """Return whether a run includes a check."""
    return any(key.name == result.check_name for key in context.selected_asset_check_keys)


def _load_of(source: Source, settings: Settings) -> FileLoad | TableLoad:
    arrival = source.contract.arrives
    if isinstance(arrival, FileArrival):
        return FileLoad(source, arrival, settings)
    assert isinstance(arrival, TableArrival)  # noqa: S101  # `is_loaded`
    return TableLoad(source, arrival, settings)


@contextmanager
def _locked(graph: Graph, source: Source, context: dg.AssetExecutionContext, *, wait: float) -> Iterator[None]:
    """Lock the table against other loads and maintenance, if several runs can write at once."""
    elsewhere = source.contract.copied_to
    if not (graph.engine.concurrent_writers or elsewhere):
        yield
        return
    relation = relation_of(source.node)
    suffixes = ("", FILES_TABLE, QUARANTINE_TABLE) if isinstance(source.contract.arrives, FileArrival) else ("",)
    names = [lock_name(replace(relation, name=relation.name + suffix)) for suffix in suffixes]
    if elsewhere:
        names = [export_lock(str(elsewhere.to), elsewhere.to_table or source.node.table_name)]
    step = context.op_execution_context.op_def.name
    with ExitStack() as locked:
        locks = locked.enter_context(closing(TableLocks(context.instance, context.run.run_id, step)))
        for name in names:
            locked.enter_context(locks.locked(name, wait=wait, log=context.log.info))
        yield
