"""The batches of a microbatch model: which were replaced, which failed, and why. Pure: no Dagster, no dbt.

dbt's results name the batches of each kind and no reasons
(https://docs.getdbt.com/docs/build/incremental-microbatch); its events have these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

from lakehouse_analytics.common.names import FEW, some

#: Reasons that a message gives in full.
NAMED = 3
#: Events of dbt with the error of a node (https://docs.getdbt.com/reference/events-logging), and with a batch's result.
_ERRORS = frozenset({"CatchableExceptionOnRun", "GenericExceptionOnRun", "InternalErrorOnRun"})
_RESULT = "LogBatchResult"
Batch = tuple[datetime, datetime]


class Window(Protocol):
    """A period `[start, end)`, both aware."""

    @property
    def start(self) -> datetime:
        """Its first moment."""

    @property
    def end(self) -> datetime:
        """The first moment after it."""


W = TypeVar("W", bound=Window)


@dataclass(frozen=True)
class Batches:
    """The batches of one model in one dbt command.

    `reasons` is dbt's message for each failed batch that has one, by the batch's start.
    """

    replaced: Sequence[Batch]
    failed: Sequence[Batch]
    reasons: Mapping[datetime, str] = field(default_factory=dict)

    @classmethod
    def read(cls, item: Mapping[str, Any], reasons: Mapping[int, str]) -> Batches:
        """`batch_results` of one entry of `run_results.json`; reasons by dbt's number of the batch, from 1."""
        replaced, failed = (_read(item.get(name)) for name in ("successful", "failed"))
        every = sorted([*replaced, *failed])
        starts = {number: every[number - 1][0] for number in reasons if number <= len(every)}
        return cls(replaced, failed, {start: reasons[number] for number, start in starts.items()})

    def of(self, windows: Iterable[W]) -> dict[W, str | None]:
        """For each window None where all of it was replaced, or else the reason why not."""
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
        """Which batches failed and why, for a person; empty where none did."""
        if not self.failed:
            return ""
        starts_of: dict[str, list[str]] = {}
        for start, _ in sorted(self.failed):
            starts_of.setdefault(self.reasons.get(start, ""), []).append(_label(start))
        # Batches that dbt did not start after an earlier one have no reason of their own.
        named = sorted(starts_of.items(), key=lambda item: (not item[0], item[1]))
        lines = [f"{some(starts, FEW)}: {reason.strip() or 'dbt gave no reason'}" for reason, starts in named[:NAMED]]
        if len(named) > NAMED:
            lines.append(f"and {len(named) - NAMED} further reasons; see dbt's log in the run's stdout")
        whole = len(self.replaced) + len(self.failed)
        rest = ", the others were replaced" if self.replaced else ""
        return "\n".join([f"{len(self.failed)} of {whole} batches failed{rest}:", *lines])


class Reasons:
    """Why batches failed, from dbt's events. A batch's error comes before its result, in the same thread."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], str] = {}
        self._found: dict[str, dict[int, str]] = {}

    def note(self, name: str, thread: str, data: Any) -> None:
        """Take an event.

        Args:
            name: Of the event.
            thread: That it happened in.
            data: dbt's message, an object with the fields of this kind of event.
        """
        if name != _RESULT and name not in _ERRORS:
            return
        unique_id = str(data.node_info.unique_id)
        if name in _ERRORS:
            self._last[thread, unique_id] = str(data.exc)
        elif (reason := self._last.pop((thread, unique_id), "")) and data.status == "error":
            self._found.setdefault(unique_id, {})[int(data.batch_index)] = reason

    def of(self, unique_id: str) -> Mapping[int, str]:
        """Reasons by dbt's number of the batch, from 1."""
        return self._found.get(unique_id, {})


def _read(batches: Any) -> list[Batch]:
    return [(datetime.fromisoformat(start), datetime.fromisoformat(end)) for start, end in batches or ()]


def _label(start: datetime) -> str:
    return f"{start:%Y-%m-%d}" if start.hour == start.minute == 0 else f"{start:%Y-%m-%d %H:%M}"
