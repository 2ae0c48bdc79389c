"""One measured process: loads one side's definitions, and may run a job. Prints what each step cost so far.

Not imported by the driver: a parent's memory would count as the child's (`ru_maxrss` outlives `exec`).
"""

import json
import logging
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster

# ruff: noqa: PLC0415  # what is imported, and when, is what is measured

MARKS: dict[str, dict[str, float]] = {}


def mark(name: str) -> None:
    """Note the CPU seconds of this process and its ended children, and its peak memory."""
    mine, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    MARKS[name] = {
        "cpu": mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime,
        "wall": time.monotonic(),
        "rss": mine.ru_maxrss / 1024,
    }


def stock(*, row_counts: bool = False) -> "dagster.Definitions":
    """The definitions that dagster-dbt's documentation shows, without and with its row counts."""
    import dagster as dg
    from dagster_dbt import DbtCliResource, dbt_assets

    mark("import")
    project = os.environ["LAKEHOUSE_DBT_PROJECT_DIR"]

    @dbt_assets(manifest=Path(os.environ["LAKEHOUSE_DBT_TARGET_PATH"], "manifest.json"))
    def models(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Any:
        events = dbt.cli(["build"], context=context).stream()
        yield from events.fetch_row_counts() if row_counts else events

    return dg.Definitions(
        assets=[models],
        resources={"dbt": DbtCliResource(project_dir=project, profiles_dir=project, target="local")},
        executor=dg.in_process_executor,
    )


def ours() -> "dagster.Definitions":
    """This code location."""
    from lakehouse_analytics.definitions import defs

    mark("import")
    return defs()


def main(side: str, selection: str) -> None:
    """Measure one side; `selection` is empty, `*`, or the key of an asset to build."""
    warnings.simplefilter("ignore")
    mark("start")
    sides: dict[str, Callable[[], dagster.Definitions]] = {
        "stock": stock,
        "stock+rows": lambda: stock(row_counts=True),
        "ours": ours,
    }
    definitions = sides[side]()
    repository = definitions.get_repository_def()
    mark("load")
    if selection:
        import dagster as dg

        logging.getLogger("dagster").setLevel(logging.CRITICAL)
        job = repository.get_implicit_global_asset_job_def()
        # Those of dbt; maintenance has assets, too.
        keys = [key for key in job.asset_layer.executable_asset_keys if "dbt" in repository.asset_graph.get(key).kinds]
        wanted = [key for key in keys if selection in ("*", key.path[-1])]
        with dg.DagsterInstance.ephemeral() as instance:
            result = job.execute_in_process(
                instance=instance,
                asset_selection=wanted,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        built = {event.asset_key for event in result.get_asset_materialization_events()}
        if built != set(wanted):
            raise SystemExit(f"{side} built {len(built)} of {len(wanted)} assets")
        mark("run")
    else:
        from dagster._core.remote_representation.external_data import RepositorySnap

        # What a code server hands to the webserver and the daemon.
        RepositorySnap.from_def(repository)
        mark("serve")
        graph = repository.asset_graph
        MARKS["size"] = {
            "assets": len(graph.materializable_asset_keys),
            "checks": len(graph.asset_check_keys),
        }
    print(f"\n{json.dumps(MARKS)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
