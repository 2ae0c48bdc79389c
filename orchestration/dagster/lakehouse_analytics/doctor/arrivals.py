"""The probe of arrivals: whether files can be listed, tables of databases read, and tables in ClickHouse written."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from lakehouse_analytics.common.environment import SettingsError
from lakehouse_analytics.common.names import counted
from lakehouse_analytics.components import with_components
from lakehouse_analytics.contract.arrivals import FileArrival, TableArrival
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.doctor.exports import try_out
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine, skipped
from lakehouse_analytics.exports.base import ExportError
from lakehouse_analytics.user_defs import load_user_defs

CHECK_PLACES = "Check that the storage of the files and the databases of LAKEHOUSE_CONNECTION_* answer."
_FIX = (
    "Correct `meta.lakehouse.arrives` of the source, its credentials or its LAKEHOUSE_CONNECTION_<NAME>: "
    "docs/arrivals.md"
)


def arrivals(context: ProbeContext) -> Finding:
    """List the files of each source, and open the table of each database."""
    from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError

    graph = with_components(context.graph, load_user_defs().tree)
    sources = {source.key: source for source in graph.sources.values() if source.contract.arrives}
    words, problems = [], []
    for key, source in sorted(sources.items()):
        try:
            if found := _look(source, context.settings.dbt_project_dir, context.timeout):
                words.append(f"{'/'.join(key)}: {found}")
        except (ArrivalError, ExportError, SettingsError) as error:
            problems.append(f"{'/'.join(key)}: {error}")
    if problems:
        return failed("\n".join([*problems, *words]), _FIX)
    return fine("\n".join(words)) if words else skipped("no source is loaded from files or a database")


def _look(source: Source, project_dir: Path, timeout: float) -> str | None:
    """Return what a source is loaded from; None if another system loads it."""
    arrival = source.contract.arrives
    if isinstance(arrival, FileArrival):
        from lakehouse_analytics.arrivals.files.storage import storage_of
        from lakehouse_analytics.arrivals.files.versions import fingerprint

        storage = storage_of(arrival, project_dir)
        return f"{counted(fingerprint(storage.versions())[1], 'file')} of {storage.pattern.text}"
    if isinstance(arrival, TableArrival):
        from lakehouse_analytics.arrivals.connections import connection
        from lakehouse_analytics.arrivals.databases.plan import Planner
        from lakehouse_analytics.arrivals.databases.sync import SCHEMES, opener

        found = connection(arrival.database, SCHEMES)
        name = arrival.table or source.node.table_name
        with opener(found)(found, name, timedelta(seconds=timeout)) as table:
            Planner(arrival, table, found.name).check()
            words = f"table {table.name} of {found.redacted}, {counted(len(table.columns), 'column')}"
        return words + (_try_target(arrival) if arrival.to else "")
    return None


def _try_target(arrival: TableArrival) -> str:
    """Create and drop a table where the source is copied to, and say so."""
    from lakehouse_analytics.arrivals.connections import connection
    from lakehouse_analytics.arrivals.raw_tables.registry import CLICKHOUSE

    there = connection(str(arrival.to), CLICKHOUSE)
    database = (arrival.to_table or "").rpartition(".")[0] or None
    try_out(there, database)
    where = there.redacted + (f", database {database}" if database else "")
    return f"; to {where}, where a table was created and dropped"
