"""What the lakehouse is fed by and read by: sources and exposures, as external assets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from lakehouse_analytics.graph import Graph, Key
from lakehouse_analytics.translator import exposure_spec, source_spec


def external_assets(graph: Graph, manifest: Mapping[str, Any]) -> list[dg.AssetSpec]:
    """One external asset for each dbt source table and each exposure; one for all sources of the same asset key."""
    sources: dict[Key, dg.AssetSpec] = {}
    for source in graph.sources.values():
        sources.setdefault(source.key, source_spec(graph, source))
    exposures = [exposure_spec(graph, exposure, manifest["nodes"]) for exposure in graph.exposures.values()]
    return [*sources.values(), *exposures]
