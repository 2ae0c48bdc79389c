"""The summary of a run as a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass
class Line:
    """The summary of one asset, of which a run may only evaluate checks."""

    layer: str
    name: str
    built: bool = False
    rows: int | None = None
    partitions: int = 0
    seconds: float | None = None
    passed: int = 0
    failed: int = 0
    warned: int = 0
    only_checks: bool = False


def lines_of(
    instance: dg.DagsterInstance,
    run_ids: Sequence[str],
    layers: Mapping[dg.AssetKey, str],
    only_checks: Collection[dg.AssetKey] = (),
) -> list[Line]:
    """Return one line per asset, in the order of `layers`, from the events of the runs.

    Rows of partitions are added up.

    Args:
        instance: The instance that has the runs.
        run_ids: The runs.
        layers: The assets, with their layers.
        only_checks: The assets that the runs do not build.
    """
    lines = {key: Line(layer=layer, name=key.path[-1], only_checks=key in only_checks) for key, layer in layers.items()}
    for record in (record for run_id in run_ids for record in instance.all_logs(run_id)):
        event = record.dagster_event
        if event and event.is_step_materialization and (key := event.asset_key) in lines:
            metadata = event.step_materialization_data.materialization.metadata
            line = lines[key]
            line.built = True
            line.seconds = _value(metadata, "runtime_seconds")
            _add_rows(line, metadata)
        elif event and event.is_asset_observation and (key := event.asset_key) in lines:
            # Tables whose rows take long to count report them later, as an observation.
            _add_rows(lines[key], event.asset_observation_data.asset_observation.metadata)
        evaluation = record.asset_check_evaluation
        if evaluation and evaluation.asset_key in lines:
            line = lines[evaluation.asset_key]
            if evaluation.passed:
                line.passed += 1
            elif evaluation.severity == dg.AssetCheckSeverity.WARN:
                line.warned += 1
            else:
                line.failed += 1
    return list(lines.values())


def _add_rows(line: Line, metadata: Mapping[str, Any]) -> None:
    in_partition = _value(metadata, "dagster/partition_row_count")
    rows = _value(metadata, "dagster/row_count")
    if in_partition is not None:
        line.rows, line.partitions = (line.rows or 0) + in_partition, line.partitions + 1
    elif rows is not None:
        line.rows = rows


def _value(metadata: Any, key: str) -> Any:
    return metadata[key].value if key in metadata else None


def render(lines: Sequence[Line]) -> RichTable:
    """Return the table that `make demo` prints at the end."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    table.add_column("asset")
    for heading in ("rows", "seconds", "checks passed", "warned", "failed"):
        table.add_column(heading, justify="right")
    for line in lines:
        rows = f"{line.rows:,}" if line.rows is not None else "–"
        seconds = f"{line.seconds:.2f}" if line.seconds is not None else "–"
        name = f"{line.name} ({line.partitions} partitions)" if line.partitions else line.name
        name = name if line.built else f"{line.name} ({'only checks' if line.only_checks else 'not built'})"
        failed = f"[red]{line.failed}[/red]" if line.failed else "0"
        table.add_row(line.layer, name, rows, seconds, str(line.passed), str(line.warned), failed)
    return table


def total(lines: Sequence[Line]) -> dict[str, int]:
    """Return the sums over all lines."""
    found: dict[str, int] = defaultdict(int)
    for line in lines:
        found["built"] += line.built
        found["assets"] += not line.only_checks
        found["passed"] += line.passed
        found["warned"] += line.warned
        found["failed"] += line.failed
    return found
