"""Which models can be built by windows of time, from the manifest alone.

Pure: no Dagster, no dbt. dbt gives a run's window to every model of the command; whether building a window leaves the
rest of the table alone, and the window right, depends on the model's materialization.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any

from lakehouse_analytics.common.text import brief, did_you_mean, shortened
from lakehouse_analytics.contract.models import Grain, ModelContract
from lakehouse_analytics.dbt.nodes import Node

#: dbt's strategies that cannot build a window, and why.
_CANNOT_BUILD = {
    "append": "adds the window's rows a second time when it is built twice",
    "default": "adds the window's rows a second time when it is built twice",
    "insert_overwrite": "is not known to these engines",
}
#: dbt's strategies that replace rows by their key: right where a window never loses a row.
_KEEPS_ROWS = frozenset({"merge", "delete+insert"})
STALE_ROWS = "stale_rows"
#: dbt's batch sizes, from small to large; batches must not be longer than the windows they fill.
_BATCHES = ("hour", "day", "month", "year")
_LONGEST: Mapping[Grain, str] = {"hourly": "hour", "daily": "day", "weekly": "day", "monthly": "month"}

#: Years in which history may begin. Earlier, Dagster would keep millions of partitions; later is a slip of the pen.
FIRST_YEAR, LAST_YEAR = 1900, 2100


def begin_of(node: Node) -> datetime:
    """The model's `begin`, as it is written: in the zone of the lakehouse, without saying so.

    Raises:
        ValueError: it is not there, or not a time.
    """
    said = node.config.begin
    if not said:
        raise ValueError("is not set")
    try:
        begin = datetime.fromisoformat(str(said))
    except ValueError:
        raise ValueError(f"is {shortened(said)}: expected a date such as 2026-01-01") from None
    if not FIRST_YEAR <= begin.year <= LAST_YEAR:
        raise ValueError(f"is {shortened(said)}: expected a date of the years {FIRST_YEAR} to {LAST_YEAR}")
    if begin.tzinfo:
        raise ValueError(f"is {shortened(said)}: leave the offset out, it is a time of LAKEHOUSE_TIMEZONE")
    return begin


def problems(node: Node, contract: ModelContract, sources: Collection[str]) -> Iterator[str]:
    """Why this node cannot be built by windows, where its contract asks for that; each as a sentence.

    Args:
        node: Of dbt's manifest.
        contract: Its `meta.lakehouse`.
        sources: Names of the sources' tables that `after` may name, as `source.table`.
    """
    if contract.after and not contract.partition:
        yield "meta.lakehouse.after is for models with a `partition`: a schedule waits with a window, not with a table"
    for name in contract.after:
        if name not in sources:
            hint = did_you_mean(name, sources, quoted="`{}`".format)
            yield f"meta.lakehouse.after names the source {shortened(name)}, which does not exist{hint}"
    strategy = node.config.incremental_strategy or "default"
    piece = node.meta.get("window_piece")
    # Of a model with another strategy the key is the project's own.
    if strategy == "replace_window" and piece is not None and not _is_piece(piece):
        yield (
            f"meta.window_piece is {shortened(piece)}: expected how much of a window one commit replaces, a number of "
            "days (of hours, for a table partitioned by hour) such as 90, or a duration such as 6h"
        )
    if not contract.partition:
        return
    asked = f"meta.lakehouse.partition: {contract.partition}"
    config = node.config
    if node.resource_type != "model" or not config.is_incremental:
        yield (
            f"{asked} needs `materialized: incremental`, not {brief(config.materialized)}: a run builds one "
            "window, and of any other table that window alone would be left"
        )
        return
    if config.full_refresh:
        yield (
            f"{asked} with `full_refresh: true`, which rebuilds the table in every run, and a run builds one window: "
            "that window alone would be left. Remove it; a run of every partition may set `full_refresh: true` in its "
            "config (docs/time.md)"
        )
    if not config.event_time:
        yield f"{asked} needs `event_time`: the column of the rows' own time"
    try:
        begin_of(node)
    except ValueError as error:
        yield f"{asked} needs `begin`, the first day of its history, and it {error}"
    if strategy in _CANNOT_BUILD:
        yield (
            f"{asked} with `incremental_strategy: {strategy}`, which {_CANNOT_BUILD[strategy]}; use replace_window "
            "(docs/time.md)"
        )
    if strategy == "microbatch":
        batch, longest = str(config.batch_size or "day"), _LONGEST[contract.partition]
        if batch in _BATCHES and _BATCHES.index(batch) > _BATCHES.index(longest):
            yield f"{asked} with `batch_size: {batch}`: a batch is longer than a window; set batch_size: {longest}"


def _is_piece(value: object) -> bool:
    """Whether the macro `window_piece` takes the value."""
    if isinstance(value, int):
        return not isinstance(value, bool) and value >= 1
    return isinstance(value, str) and re.fullmatch("[1-9][0-9]* *[mhdw]", value) is not None


def policies(node: Node, contract: ModelContract) -> Iterator[tuple[str, str]]:
    """What of a node with windows is right for some data only: its name for `accept`, and the problem."""
    strategy = node.config.incremental_strategy
    if contract.partition and node.config.is_incremental and strategy in _KEEPS_ROWS:
        yield (
            STALE_ROWS,
            f"meta.lakehouse.partition with `incremental_strategy: {strategy}` keeps rows that a window no longer has "
            "when it is built again; use replace_window (docs/time.md)",
        )


def warnings(node: Node, contract: ModelContract, *, cut: bool) -> Iterator[str]:
    """What authors of a node without windows should know.

    Args:
        node: Of dbt's manifest.
        contract: Its `meta.lakehouse`.
        cut: Whether the project has models with windows.
    """
    strategy = node.config.incremental_strategy
    if contract.partition or not node.config.is_incremental:
        return
    if strategy == "replace_window":
        yield "replace_window without meta.lakehouse.partition: Dagster's runs give it no window, and it fails"
    elif strategy == "microbatch" and cut:
        yield (
            "microbatch without meta.lakehouse.partition: built since its last batch, but in runs of windows for the "
            "run's window alone"
        )


def beside_windows(node: Node, contract: ModelContract) -> Iterator[str]:
    """Why a node without windows must not be built in a run that has some; each as a sentence."""
    config = node.config
    if contract.partition or not config.is_incremental:
        return
    if is_microbatch(node) and config.full_refresh:
        yield (
            "microbatch with `full_refresh: true` and without meta.lakehouse.partition: dbt rebuilds the table in "
            "every run, and a run of a window would leave that window alone. Remove `full_refresh: true`"
        )


def is_microbatch(node: Node) -> bool:
    """Whether dbt itself cuts the model's windows, at UTC's borders."""
    return node.config.incremental_strategy == "microbatch"
