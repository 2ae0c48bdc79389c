"""Does Airbyte answer and let us in, and which of its connections fill dbt's sources?"""

from __future__ import annotations

import time

from lakehouse_analytics.common.names import FEW, counted, some
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import Finding, Known, failed, fine, skipped


def airbyte(known: Known) -> Finding:
    """As the sensor asks it."""
    if known.settings.airbyte_url is None:
        return skipped("LAKEHOUSE_AIRBYTE_URL is not set: nothing listens to Airbyte")

    from lakehouse_analytics.triggers.airbyte.client import AirbyteError
    from lakehouse_analytics.triggers.airbyte.inventory import Inventory
    from lakehouse_analytics.triggers.airbyte.resource import airbyte_of
    from lakehouse_analytics.triggers.airbyte.workspace import source_tables

    settings, graph = known.settings, known.graph_if_any
    client = airbyte_of(settings)
    assert client  # noqa: S101  # there is a URL
    tables = source_tables(graph) if graph else []
    inventory = Inventory(client, tables, settings.airbyte_include, settings.airbyte_exclude)
    deadline = time.monotonic() + known.patience
    try:
        found = inventory.known(deadline=deadline)
        client.now(deadline=deadline)  # jobs may be another right than connections
    except AirbyteError as error:
        message, colon, fix = str(error).rpartition(": ")
        if not colon or not fix.startswith(("check", "see", "LAKEHOUSE")):
            message, fix = str(error), "See that Airbyte runs, and ask again."
        return failed(message, fix[0].upper() + fix[1:])

    listened = len(found.connections) - len(found.ignored)
    words = [f"{settings.airbyte_url} lets us in; {counted(len(found.connections), 'connection')}"]
    if found.ignored:
        words[0] += f", {listened} of them listened to (LAKEHOUSE_AIRBYTE_INCLUDE, _EXCLUDE)"
    if graph is None:
        words.append("which of them fill dbt's sources is not known without the manifest")
        return fine("\n".join(words))
    filled = sum(map(len, found.fills.tables.values()))
    words[0] += f", {len(found.fills.tables)} mapped to {filled} of {counted(len(tables), 'source table')}"
    if unmapped := [connection.name or connection.id for connection in found.fills.unmapped]:
        words.append(f"fill no source: {some(sorted(unmapped), FEW)}")
    for connection, streams in found.fills.unused.items():
        words.append(f"streams of {found.name(connection)} that fill no source table: {some(streams, FEW)}")
    if unfilled := sorted(".".join(table.key) for table in found.fills.unfilled):
        words.append(f"source tables that no connection is known to fill: {some(unfilled, FEW)}")
    if found.fills.problems:
        return failed("\n".join([*words, *found.fills.problems]), fixes.correct_connections(fixes.here()))
    return fine("\n".join(words))
