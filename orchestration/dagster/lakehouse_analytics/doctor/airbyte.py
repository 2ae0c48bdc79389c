"""The probe of Airbyte: its credentials, and which connections fill dbt's sources."""

from __future__ import annotations

import time

from lakehouse_analytics.common.names import FEW, counted, some
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine, skipped


def airbyte(context: ProbeContext) -> Finding:
    """List the connections and jobs, as the Airbyte sensor does."""
    if context.settings.airbyte_url is None:
        return skipped("LAKEHOUSE_AIRBYTE_URL is not set: there is no Airbyte sensor")

    from lakehouse_analytics.triggers.airbyte.client import AirbyteError
    from lakehouse_analytics.triggers.airbyte.resource import airbyte_of
    from lakehouse_analytics.triggers.airbyte.snapshot import ConnectionCache
    from lakehouse_analytics.triggers.airbyte.workspace import source_tables

    settings, graph = context.settings, context.graph_if_any
    client = airbyte_of(settings)
    assert client  # noqa: S101  # the URL is set
    tables = source_tables(graph) if graph else []
    cache = ConnectionCache(client, tables, settings.airbyte_include, settings.airbyte_exclude)
    deadline = time.monotonic() + context.patience
    try:
        found = cache.snapshot(deadline=deadline)
        client.now(deadline=deadline)  # listing jobs may require other permissions
    except AirbyteError as error:
        message, colon, fix = str(error).rpartition(": ")
        if not colon or not fix.startswith(("check", "set", "LAKEHOUSE")):
            message, fix = str(error), "Check that Airbyte is running, and try again."
        return failed(message, fix[0].upper() + fix[1:])

    included = len(found.connections) - len(found.ignored)
    words = [f"{settings.airbyte_url} accepts the credentials; {counted(len(found.connections), 'connection')}"]
    if found.ignored:
        words[0] += f", {included} of them included (LAKEHOUSE_AIRBYTE_INCLUDE, _EXCLUDE)"
    if graph is None:
        words.append("which of them fill dbt's sources is unknown without a manifest")
        return fine("\n".join(words))
    by_connection = found.mapping.tables_by_connection
    filled = sum(map(len, by_connection.values()))
    words[0] += f", {len(by_connection)} mapped to {filled} of {counted(len(tables), 'source table')}"
    if unmapped := [connection.name or connection.id for connection in found.mapping.unmapped_connections]:
        words.append(f"connections without a source: {some(sorted(unmapped), FEW)}")
    for connection, streams in found.mapping.unmapped_streams.items():
        words.append(f"streams of {found.name(connection)} without a source table: {some(streams, FEW)}")
    if unmapped_tables := sorted(".".join(table.key) for table in found.mapping.unmapped_tables):
        words.append(f"source tables without a known connection: {some(unmapped_tables, FEW)}")
    if found.mapping.problems:
        return failed("\n".join([*words, *found.mapping.problems]), fixes.correct_connections(fixes.here()))
    return fine("\n".join(words))
