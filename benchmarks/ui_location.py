"""A code location for `ui.py`: daily models in chains of four, as this project turns a manifest into assets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestration" / "dagster"))
sys.path.insert(0, str(Path(__file__).parents[1] / "orchestration" / "dagster" / "tests" / "unit"))

from lakehouse_analytics.assets.build_ops import BuildOps
from lakehouse_analytics.assets.own import OwnAssets
from lakehouse_analytics.contract.models import LAYERS
from lakehouse_analytics.partitions.definitions import grain_partitions
from lakehouse_analytics.settings import Settings
from manifests import Manifest
from windowed import WINDOWED

BEGIN = "2023-01-01"


def definitions(count: int) -> dg.Definitions:
    """So many daily tables, each with its checks."""
    manifest, above = Manifest(), ""
    for number in range(count):
        layer = LAYERS[number % len(LAYERS)]
        parents = [above] if layer != LAYERS[0] else []
        contract = {"partition": "daily", "rows": {"max_drop": 0.5}}
        config = {**WINDOWED, "begin": BEGIN}
        above = manifest.model(f"m{number:03}", *parents, folder=layer, lakehouse=contract, **config)
        for node in manifest.nodes.values():
            node.setdefault("columns", {})
    graph = manifest.graph()
    settings = Settings.load()
    project = cast("Any", SimpleNamespace(project_dir=Path()))
    assets = BuildOps(
        graph, project, grain_partitions(graph, "UTC"), settings, OwnAssets(graph), pool=None
    ).definitions()
    return dg.Definitions(assets=assets, resources={"dbt_runner": object(), "engine": object()})


defs = definitions(int(os.environ.get("BENCH_ASSETS", "500")))
