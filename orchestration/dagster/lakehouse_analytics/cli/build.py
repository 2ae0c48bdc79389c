"""Runs jobs in this process, one after the other, and prints a summary."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

import click
import dagster as dg
from rich.console import Console

from lakehouse_analytics._dagster_internals import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from lakehouse_analytics.assets.specs import LAYER_TAG
from lakehouse_analytics.cli import run_report
from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.contract.models import LAYERS
from lakehouse_analytics.settings import Settings


@dataclass(frozen=True)
class Build:
    """A run of a job.

    Attributes:
        job: The job.
        first, last: The range of partitions; empty without.
    """

    job: dg.JobDefinition
    first: str = ""
    last: str = ""

    @property
    def label(self) -> str:
        """The job with its partitions, for a heading."""
        keys = sorted(key.to_user_string() for key in self.job.asset_layer.executable_asset_keys)
        checks = sorted(str(key.name) for key in self.job.asset_check_selection or ())
        is_part = self.job.asset_selection is not None or self.job.name.startswith("__")
        what = some(keys or checks, FEW) if is_part else f"Dagster job {self.job.name}"
        return what + (
            f", {self.first} to {self.last}" if self.first != self.last else f", {self.first}" * bool(self.first)
        )


def build_and_summarize(
    settings: Settings,
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    builds: Iterable[Build],
    started: float,
) -> bool:
    """Run the jobs up to the first that fails, and print a table of what they built.

    Args:
        settings: The settings, for the location of the tables.
        instance: The Dagster instance.
        definitions: The code location.
        builds: The runs. Each is taken after the one before it, so it may depend on what that has built.
        started: When the command started, by the monotonic clock.

    Returns:
        Whether all runs succeeded.
    """
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    runs: list[dg.ExecuteInProcessResult] = []
    keys: set[dg.AssetKey] = set()
    checked: set[dg.AssetKey] = set()
    for build in builds:
        title(f"Build: {build.label}")
        keys.update(build.job.asset_layer.executable_asset_keys)
        checked |= {check.asset_key for check in build.job.asset_check_selection or ()}
        tags = {ASSET_PARTITION_RANGE_START_TAG: build.first, ASSET_PARTITION_RANGE_END_TAG: build.last}
        with contextlib.redirect_stdout(_Progress(sys.stdout)):
            runs.append(
                build.job.execute_in_process(
                    instance=instance, run_config=quiet, tags=tags if build.first else {}, raise_on_error=False
                )
            )
        if not runs[-1].success:
            break

    layers = {spec.key: spec.tags.get(LAYER_TAG, "") for spec in definitions.resolve_all_asset_specs()}
    ordered = {
        key: layers[key]
        for key in sorted(keys | checked, key=lambda key: (_layer_order(layers[key]), key.to_user_string()))
    }
    lines = run_report.lines_of(instance, [run.run_id for run in runs], ordered, checked - keys)
    title("Summary")
    Console().print(run_report.render(lines))
    total = run_report.total(lines)
    click.echo(
        f"\n{total['built']} of {total['assets']} assets built, {total['passed']} checks passed, "
        f"{total['warned']} warned, {total['failed']} failed, {time.monotonic() - started:.0f} s in all.\n"
        f"{_describe_location(settings)}   (then open http://localhost:3000)"
    )
    failed = [run for run in runs if not run.success]
    for run in failed:
        click.secho(f"\n{_failure_reason(instance, run.run_id)}", fg="red")
    return not failed


def title(text: str) -> None:
    """Print a heading."""
    click.secho(f"\n{text}", bold=True)


def _describe_location(settings: Settings) -> str:
    chosen = [
        f"LAKEHOUSE_{name.upper()}={getattr(settings, name)}"
        for name in ("env", "engine", "branch")
        if getattr(settings, name) != type(settings).model_fields[name].default
    ]
    return f"{settings.engine_type.location(settings)}\nSee it in the UI:  {' '.join([*chosen, 'make dev'])}"


def _layer_order(layer: str) -> int:
    return LAYERS.index(layer) if layer in LAYERS else -1  # sources first


def _failure_reason(instance: dg.DagsterInstance, run_id: str) -> str:
    for record in instance.all_logs(run_id):
        event = record.dagster_event
        if event and event.is_step_failure:
            failure = event.step_failure_data.user_failure_data
            error = event.step_failure_data.error
            while error and error.cause:
                error = error.cause
            return (failure.description if failure else None) or (error.message if error else "") or "no reason given"
    return f"Run {run_id} failed outside its op; see it in the UI."


class _Progress(io.TextIOBase):
    """Filters dbt's output: keeps finished tables and errors."""

    def __init__(self, out: io.TextIOBase | object) -> None:
        self._out = out

    def write(self, text: str) -> int:
        for line in text.splitlines():
            finished = " of " in line and " START " not in line and " PASS " not in line
            if finished or line.startswith("== ") or "rror" in line:
                print(f"  {line.strip()}", file=self._out, flush=True)  # type: ignore[arg-type]
        return len(text)
