"""External assets for what the project reads, and for what reads it. No run of this project builds them."""

from __future__ import annotations

from collections.abc import Collection

import dagster as dg

from lakehouse_analytics.assets.arrivals import is_loaded
from lakehouse_analytics.assets.specs import exposure_spec, source_spec
from lakehouse_analytics.dbt.graph import External, Graph, Key
from lakehouse_analytics.keys import asset_key

_ABOUT = {
    "model": "Model {name}, built by dbt project {package}.",
    "ephemeral": "Ephemeral model {name}: constants that dbt inlines into the models that read it.",
    "project": "Tests of dbt project {name} that do not read a table.",
}


def external_assets(
    graph: Graph, *, own: Collection[dg.AssetKey] = (), timezone: str = "UTC", loads: bool = True
) -> list[dg.AssetSpec]:
    """Return an external asset for each dbt source table, each exposure, and each `External` of the graph.

    Args:
        graph: The manifest's graph.
        own: Keys of the user's Python assets. A source with such a key is that asset, unless Airbyte fills it.
        timezone: The IANA time zone of freshness deadlines.
        loads: Whether the code location has the assets of sources that it loads itself, and the copies of tables.
    """
    loaded = {source.key for source in graph.sources.values() if is_loaded(source)}
    sources: dict[Key, dg.AssetSpec] = {}
    for source in graph.sources.values():
        if asset_key(source) in own and not source.contract.airbyte:
            continue
        if loads and source.key in loaded:
            continue
        # Sources with the same key in `meta.dagster.asset_key` are one table.
        sources.setdefault(source.key, source_spec(graph, source, timezone))
    externals = [_external_spec(graph, external) for external in graph.externals.values()]
    exposures = [exposure_spec(graph, unique_id, copies=loads) for unique_id in graph.exposures]
    return [*sources.values(), *externals, *exposures]


def _external_spec(graph: Graph, external: External) -> dg.AssetSpec:
    node = external.node
    about = _ABOUT[external.kind].format(name=node.name, package=node.package_name)
    in_database = external.kind == "model"
    return dg.AssetSpec(
        key=asset_key(external),
        description=node.description or about,
        group_name=external.group,
        kinds={"dbt", graph.adapter} if in_database else {"dbt"},
        metadata={"dagster_dbt/unique_id": external.unique_id},
    )
