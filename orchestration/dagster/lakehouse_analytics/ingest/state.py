"""The stored state of a source: the connector's state, generations, and its existing tables.

It is stored in `<schema>._airbyte_state`, with the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from lakehouse_analytics.common.text import shortened
from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.protocol import StreamKey, state_key

if TYPE_CHECKING:
    from lakehouse_analytics.ingest.plan import Plan
    from lakehouse_analytics.ingest.staging import Staging

TABLE = "_airbyte_state"
_MAX_NUMBER = 2**62  # well below the largest 64-bit integer


@dataclass(frozen=True)
class StreamState:
    """The stored state of a stream.

    `settings` are those of its last sync; `state` is the connector's last STATE message.
    """

    generation_id: int
    settings: dict[str, Any]
    state: dict[str, Any] | None
    sync_id: int = 0


@dataclass(frozen=True)
class Table:
    """An existing table.

    Args:
        columns: DuckDB types by name, in the table's order.
        source: The source that wrote it last, if the table records this; otherwise only the stored state does.
        sync_id, generation_id: Those of that load. If they are higher than those of the stored state, the sync that
            wrote them did not finish.
        view: Whether it is a view, which a sync cannot write.
    """

    columns: dict[str, str]
    source: str | None = None
    sync_id: int = 0
    generation_id: int = 0
    view: bool = False


@dataclass
class StoredState:
    """Everything stored about a source.

    Attributes:
        sync_id: The last sync of any source.
        streams: The state of each stream.
        shared: The state of the whole source (GLOBAL or LEGACY).
        tables: Existing tables by name in lower case.
    """

    sync_id: int = 0
    streams: dict[StreamKey, StreamState] = field(default_factory=dict)
    shared: dict[str, Any] | None = None
    tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of the state table. Without `stream`, it has the state of the whole source."""

    namespace: str | None
    stream: str | None
    generation_id: int | None
    sync_id: int
    settings: str | None
    state: str | None


def check_columns(where: str, columns: Iterable[str]) -> None:
    """Check that the state table `where` has the columns that a sync reads, in the order in which it writes them.

    Raises:
        IngestError: It does not.
    """
    have, wanted = [*columns], ["source", *(field.name for field in fields(Row))]
    advice = "`lakehouse ingest` did not create it like this. Rename it, and sync again"
    missing = [name for name in wanted if name not in have]
    if missing:
        raise IngestError(f"{where} has no column {', '.join(missing)}: {advice}")
    if [name for name in have if name in wanted] != wanted:
        raise IngestError(f"{where} has its columns in another order than {', '.join(wanted)}: {advice}")


def add_rows(known: StoredState, rows: list[Row], where: str) -> None:
    """Add the stored rows of a source to `known`.

    Args:
        known: The state to update.
        rows: The rows of the source.
        where: The state table, for messages.

    Raises:
        IngestError: A row is invalid.
    """
    if not _is_number(known.sync_id):
        raise IngestError(
            f"{where}: column sync_id is {shortened(known.sync_id)}; expected a whole number, 0 to {_MAX_NUMBER - 1}"
        )
    by_key: dict[StreamKey | None, Row] = {}
    for row in rows:
        _check_types(row, where)
        key = (row.namespace, row.stream) if row.stream is not None else None
        if by_key.setdefault(key, row) != row:
            raise IngestError(
                f"{where} has {_named(row)} twice, with different contents. Delete the row that is not from its last "
                "sync"
            )
        content = _object(row, "state", where)
        if row.stream is None:
            known.shared = content
        else:
            settings = _object(row, "settings", where) or {}
            known.streams[(row.namespace, row.stream)] = StreamState(
                row.generation_id or 0, settings, content, row.sync_id
            )


def _check_types(row: Row, where: str) -> None:
    """Reject values that a sync does not write. The types of the table's columns may have been changed.

    Raises:
        IngestError: A value has another type.
    """
    number = f"a whole number, 0 to {_MAX_NUMBER - 1}"
    for name, value in asdict(row).items():
        if name in ("generation_id", "sync_id"):
            right, expected = _is_number(value), number
        else:
            right, expected = isinstance(value, str), "a string"
        if not right and (value is not None or name == "sync_id"):
            of = f" of {_named(row)}" if name != "stream" else ""
            raise IngestError(
                f"{where}: column {name}{of} is {shortened(value)}; expected {expected}. Restore the column's type and "
                "value, or rename the table, and sync again"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_NUMBER


def _named(row: Row) -> str:
    return f"stream {shortened(row.stream)}" if row.stream is not None else "the whole source"


def _object(row: Row, column: Literal["settings", "state"], where: str) -> dict[str, Any] | None:
    text = getattr(row, column)
    try:
        content = json.loads(text) if text else None
        wrong = content is not None and not _has_shape(row, column, content)
    except (ValueError, KeyError, TypeError, ValidationError, RecursionError):
        wrong = True
    if wrong:
        raise IngestError(
            f"{where}: column {column} of {_named(row)} was not written by a sync. Set it to NULL: the next sync "
            "then reads the stream from the start"
        )
    return content


def _has_shape(row: Row, column: str, content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    if column == "settings":
        return isinstance(content.get("config", {}), dict)
    return state_key(content) == ((row.namespace, row.stream) if row.stream is not None else None)


def new_rows(plan: Plan, staging: Staging, known: StoredState) -> list[Row]:
    """Return the rows that a sync stores at its end: one per stream, and one for the shared state if there is one."""
    rows = []
    for key, stream in plan.streams.items():
        state = staging.streams[key].state
        if stream.sync_mode == "full_refresh_overwrite":
            state = None
        elif state is None and not stream.replaces:
            # The connector sent no new state, so the previous one is still valid.
            state = known.streams[key].state
        settings, text = json.dumps(stream.settings), json.dumps(state) if state else None
        rows.append(Row(key[0], key[1], stream.generation_id, plan.sync_id, settings, text))
    if shared := staging.shared_state or known.shared:
        rows.append(Row(None, None, None, plan.sync_id, None, json.dumps(shared)))
    return rows
