"""Results of the batches of a microbatch model: which were replaced, which failed, and why.

Pure: no Dagster, no dbt. dbt's results list the successful and the failed batches without a reason
(https://docs.getdbt.com/docs/build/incremental-microbatch); the reasons are in its events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

from lakehouse_analytics.common.names import FEW, some

#: Maximum number of reasons in a message.
MAX_REASONS = 3
#: dbt's events with the error of a node (https://docs.getdbt.com/reference/events-logging), and with a batch's result.
_ERRORS = frozenset({"CatchableExceptionOnRun", "GenericExceptionOnRun", "InternalErrorOnRun"})
_RESULT = "LogBatchResult"
Batch = tuple[datetime, datetime]


class Window(Protocol):
    """A time range `[start, end)`."""

    @property
    def start(self) -> datetime:
        """The inclusive start, timezone-aware."""

    @property
    def end(self) -> datetime:
        """The exclusive end, timezone-aware."""


W = TypeVar("W", bound=Window)


@dataclass(frozen=True)
class Batches:
    """The batches of one model in one dbt command.

    Attributes:
        replaced: The batches that succeeded.
        failed: The batches that failed.
        reasons: dbt's error messages of failed batches, by the start of the batch. Not every failed batch has one.
    """

    replaced: Sequence[Batch]
    failed: Sequence[Batch]
    reasons: Mapping[datetime, str] = field(default_factory=dict)

    @classmethod
    def read(cls, item: Mapping[str, Any], reasons: Mapping[int, str]) -> Batches:
        """Read the batches of a node.

        Args:
            item: `batch_results` of an entry of `run_results.json`.
            reasons: Error messages by dbt's number of the batch, from 1.
        """
        replaced, failed = (_read(item.get(name)) for name in ("successful", "failed"))
        every = sorted([*replaced, *failed])
        starts = {number: every[number - 1][0] for number in reasons if number <= len(every)}
        return cls(replaced, failed, {start: reasons[number] for number, start in starts.items()})

    def errors_by_window(self, windows: Iterable[W]) -> dict[W, str | None]:
        """Return the error of each window, or None if all of it was replaced."""
        found: dict[W, str | None] = {}
        for window in windows:
            failed = [batch for batch in self.failed if batch[0] < window.end and window.start < batch[1]]
            replaced = any(batch[0] < window.end and window.start < batch[1] for batch in self.replaced)
            if failed:
                found[window] = next((r for b in failed if (r := self.reasons.get(b[0]))), "dbt gave no reason")
            else:
                found[window] = None if replaced else "dbt had no batch for it"
        return found

    @property
    def message(self) -> str:
        """The failed batches and the reasons as text, empty if no batch failed."""
        if not self.failed:
            return ""
        starts_of: dict[str, list[str]] = {}
        for start, _ in sorted(self.failed):
            starts_of.setdefault(self.reasons.get(start, ""), []).append(_label(start))
        # Batches that dbt did not start because an earlier one failed have no reason.
        named = sorted(starts_of.items(), key=lambda item: (not item[0], item[1]))
        lines = [
            f"{some(starts, FEW)}: {reason.strip() or 'dbt gave no reason'}" for reason, starts in named[:MAX_REASONS]
        ]
        if len(named) > MAX_REASONS:
            lines.append(f"and {len(named) - MAX_REASONS} further reasons; see dbt's log in the run's stdout")
        whole = len(self.replaced) + len(self.failed)
        rest = ", the others were replaced" if self.replaced else ""
        return "\n".join([f"{len(self.failed)} of {whole} batches failed{rest}:", *lines])


class BatchErrors:
    """Collects the errors of batches from dbt's events.

    dbt emits the error of a batch before the batch's result, and in the same thread.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], str] = {}
        self._found: dict[str, dict[int, str]] = {}

    def record(self, name: str, thread: str, data: Any) -> None:
        """Process an event.

        Args:
            name: The name of the event.
            thread: The name of the thread that emitted it.
            data: The event's data, an object with the fields of its type.
        """
        if name != _RESULT and name not in _ERRORS:
            return
        unique_id = str(data.node_info.unique_id)
        if name in _ERRORS:
            self._last[thread, unique_id] = str(data.exc)
        elif (reason := self._last.pop((thread, unique_id), "")) and data.status == "error":
            self._found.setdefault(unique_id, {})[int(data.batch_index)] = reason

    def for_model(self, unique_id: str) -> Mapping[int, str]:
        """Return the error messages of a model by dbt's number of the batch, from 1."""
        return self._found.get(unique_id, {})


def _read(batches: Any) -> list[Batch]:
    return [(datetime.fromisoformat(start), datetime.fromisoformat(end)) for start, end in batches or ()]


def _label(start: datetime) -> str:
    return f"{start:%Y-%m-%d}" if start.hour == start.minute == 0 else f"{start:%Y-%m-%d %H:%M}"
