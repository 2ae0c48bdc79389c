"""The probe of exports: whether each connection can be reached, and may create tables."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from lakehouse_analytics.common.names import counted
from lakehouse_analytics.components import with_components
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine, skipped
from lakehouse_analytics.exports.base import ExportError, Target
from lakehouse_analytics.exports.columns import Column, Kind
from lakehouse_analytics.exports.registry import connection_of, connection_variable, destination
from lakehouse_analytics.user_defs import load_user_defs

if TYPE_CHECKING:
    from lakehouse_analytics.arrivals.connections import Connection
    from lakehouse_analytics.dbt.graph import Graph

#: Name of the table that the probe creates and drops, before the suffix of a staged table.
TABLE = "lakehouse_doctor"
CHECK_CONNECTIONS = "Check that the databases of LAKEHOUSE_CONNECTION_* answer, and that no firewall is in between."


def exports(context: ProbeContext) -> Finding:
    """Create an empty table in each schema that has copies, and drop it."""
    wanted = _schemas(with_components(context.graph, load_user_defs().tree))
    if not wanted:
        return skipped("no model or exposure has meta.lakehouse.serve")
    words, problems, fixes = [], [], []
    for (name, schema), copies in sorted(wanted.items(), key=str):
        try:
            found = connection_of(name)
            try_out(found, schema)
        except ExportError as error:
            problems.append(f"{name}: {error}")
            fixes.append(connection_variable(name))
            continue
        where = found.redacted + (f", schema {schema}" if schema else "")
        words.append(f"{where}: {counted(copies, 'export')}; a table was created and dropped")
    if problems:
        variables = ", ".join(dict.fromkeys(fixes))
        fix = f"Check {variables}, and that its user may create tables and schemas: docs/exports.md (Rights)."
        return failed("\n".join([*problems, *words]), fix)
    return fine("\n".join(words))


def _schemas(graph: Graph) -> dict[tuple[str, str | None], int]:
    """Return the number of copies by connection and schema."""
    found: dict[tuple[str, str | None], int] = {}
    for copy in graph.copies:
        place = copy.serve.to, copy.serve.schema_name
        found[place] = found.get(place, 0) + 1
    return found


def try_out(there: Connection, schema: str | None) -> None:
    """Create an empty table, and drop it.

    Args:
        there: The connection.
        schema: The schema; None for the default of the connection.

    Raises:
        ExportError: That is not possible.
    """
    columns = [Column("n", Kind.INTEGER)]
    target = Target(schema, TABLE, (), TABLE, uuid.uuid4().hex)
    with destination(there, target) as made:
        made.prepare(columns)
        try:
            made.stage(columns, iter(()))
        finally:
            made.discard()
