"""What the lakehouse knows of a source: the connector's state, generations, and the tables as they stand.

Kept in `<schema>._airbyte_state`, beside the data.
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
_MAX_NUMBER = 2**62  # far below the largest 64-bit integer


@dataclass(frozen=True)
class StreamState:
    """A stream's row. `settings` is what it was read with; `state` the connector's last STATE message."""

    generation_id: int
    settings: dict[str, Any]
    state: dict[str, Any] | None
    sync_id: int = 0


@dataclass(frozen=True)
class Table:
    """A table as it stands.

    Args:
        columns: name to type, as DuckDB names types, in the table's order.
        source: who wrote it last, where the table itself says so; else only the stored state tells.
        sync_id, generation_id: of that load. Beyond those of the stored state, the sync that wrote them never ended.
        view: It is a view, which no sync can write.
    """

    columns: dict[str, str]
    source: str | None = None
    sync_id: int = 0
    generation_id: int = 0
    view: bool = False


@dataclass
class StoredState:
    """All that is stored of a source. `sync_id` is the last of any source; `tables` go by name in lower case."""

    sync_id: int = 0
    streams: dict[StreamKey, StreamState] = field(default_factory=dict)
    shared: dict[str, Any] | None = None
    tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of the state table. Without `stream` it holds the state of the whole source."""

    namespace: str | None
    stream: str | None
    generation_id: int | None
    sync_id: int
    settings: str | None
    state: str | None


def check_columns(where: str, columns: Iterable[str]) -> None:
    """Raise `IngestError` unless the state table `where` has the columns that a sync reads, in the order it writes."""
    have, wanted = [*columns], ["source", *(field.name for field in fields(Row))]
    way_out = "`lakehouse ingest` did not make it so. Rename it, and sync again"
    missing = [name for name in wanted if name not in have]
    if missing:
        raise IngestError(f"{where} has no column {', '.join(missing)}: {way_out}")
    if [name for name in have if name in wanted] != wanted:
        raise IngestError(f"{where} has its columns in another order than {', '.join(wanted)}: {way_out}")


def take(known: StoredState, rows: list[Row], where: str) -> None:
    """Note a source's stored rows in `known`.

    Args:
        where: Names the state table in messages.

    Raises:
        IngestError: a row cannot be read.
    """
    if not _is_number(known.sync_id):
        raise IngestError(
            f"{where}: column sync_id holds {shortened(known.sync_id)}; expected a whole number, 0 to {_MAX_NUMBER - 1}"
        )
    taken: dict[StreamKey | None, Row] = {}
    for row in rows:
        _check_types(row, where)
        key = (row.namespace, row.stream) if row.stream is not None else None
        if taken.setdefault(key, row) != row:
            raise IngestError(
                f"{where} holds {_named(row)} twice, with different contents. Delete the row that is not of its last "
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
    """Refuse values that a sync does not write: the columns of the table may have got other types."""
    number = f"a whole number, 0 to {_MAX_NUMBER - 1}"
    for name, value in asdict(row).items():
        if name in ("generation_id", "sync_id"):
            right, expected = _is_number(value), number
        else:
            right, expected = isinstance(value, str), "a text"
        if not right and (value is not None or name == "sync_id"):
            of = f" of {_named(row)}" if name != "stream" else ""
            raise IngestError(
                f"{where}: column {name}{of} is {shortened(value)}; expected {expected}. Give the column its type and "
                "value back, or rename the table, and sync again"
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
            f"{where}: column {column} of {_named(row)} is not what a sync stored there. Set it to NULL: the next sync "
            "then reads the stream from its beginning"
        )
    return content


def _has_shape(row: Row, column: str, content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    if column == "settings":
        return isinstance(content.get("config", {}), dict)
    return state_key(content) == ((row.namespace, row.stream) if row.stream is not None else None)


def following(plan: Plan, staging: Staging, known: StoredState) -> list[Row]:
    """The rows that a finished sync leaves: one for each of its streams, and the shared state where there is one."""
    rows = []
    for key, stream in plan.streams.items():
        state = staging.streams[key].state
        if stream.sync_mode == "full_refresh_overwrite":
            state = None
        elif state is None and not stream.replaces:
            # Nothing new was said: the connector's word still holds.
            state = known.streams[key].state
        settings, text = json.dumps(stream.settings), json.dumps(state) if state else None
        rows.append(Row(key[0], key[1], stream.generation_id, plan.sync_id, settings, text))
    if shared := staging.shared_state or known.shared:
        rows.append(Row(None, None, None, plan.sync_id, None, json.dumps(shared)))
    return rows
