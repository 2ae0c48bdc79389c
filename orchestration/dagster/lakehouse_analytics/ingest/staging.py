"""Stages a connector's output on disk until it is complete: NDJSON per stream, then Parquet.

So the destination is only used, and a DuckDB file only locked, while loading. A sync of any size needs little memory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import ValidationError

from lakehouse_analytics.common.names import counted
from lakehouse_analytics.common.sql import literal
from lakehouse_analytics.ingest import columns as sql
from lakehouse_analytics.ingest.errors import BrokenRecordError, IngestError
from lakehouse_analytics.ingest.process import Message, Messages
from lakehouse_analytics.ingest.protocol import StreamKey, StreamStatus, state_key

if TYPE_CHECKING:
    import duckdb

_PROGRESS_INTERVAL = 2.0  # seconds
_MEMORY = "1GB"


@contextmanager
def private_folder(parent: Path, source: str, *, where: str, into: str) -> Iterator[Path]:
    """Provide a private folder in `parent`, which is removed afterwards. Only one sync of a source runs at a time.

    Files left by a sync that was killed are removed by the next one.

    Args:
        parent: An existing folder.
        source: Name of the source, used for the folder and the lock.
        where: The variable that determines the folder, with its value.
        into: The destination, for messages.

    Raises:
        IngestError: The folder cannot be written, or another process is syncing this source.
    """
    base = parent / f".ingest-{source}"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        lock = (base / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise unwritable(where, parent, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise IngestError(f"another sync of {source} into {into} is running (PID {holder})") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        work = base / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def unwritable(where: str, parent: Path, error: OSError) -> IngestError:
    """Return the error for a folder that cannot be written."""
    return IngestError(f"{where}: cannot write in {parent}: {error.strerror}")


@dataclass
class Staged:
    """The staged messages of a stream.

    Attributes:
        index: Position of the stream, used in file names.
        rows: Number of records.
        size: Their size in bytes.
        longest: Length of the longest line in bytes.
        status: The last status of the stream; None if the connector sends none.
        state: The last STATE message.
        started, ended: Time of the first and the last message, by the monotonic clock.
        parquet: The typed records.
        file: The open NDJSON file.
    """

    index: int
    rows: int = 0
    size: int = 0
    longest: int = 0
    status: str | None = None
    state: Message | None = None
    started: float | None = None
    ended: float = 0.0
    parquet: Path | None = None
    file: IO[bytes] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """Time from the first to the last message, in seconds."""
        return self.ended - self.started if self.started is not None else 0.0

    def seen(self) -> None:
        """Record the time of a message."""
        self.ended = time.monotonic()
        self.started = self.ended if self.started is None else self.started


class Staging:
    """Stages a connector's messages: records in files in `directory`, states and statuses in memory."""

    def __init__(self, directory: Path, keys: list[StreamKey], progress: Callable[[str], None]) -> None:
        self.streams = {key: Staged(index) for index, key in enumerate(keys)}
        self.shared_state: Message | None = None
        self.directory = directory
        self._progress = progress
        self._last_progress: float | None = None
        self._unknown_streams: set[str] = set()
        self._files = ExitStack()

    def consume(self, messages: Messages) -> None:
        """Process all messages. Afterwards, all streams are known to be complete.

        Raises:
            IngestError: The connector failed, ended without completing a stream or sent a record that cannot be stored,
                or the disk is full.
        """
        try:
            # Closing writes the buffers, which may fail because the disk is full.
            with ExitStack() as self._files:
                for message, line in messages:
                    self._process(message, line)
        except BrokenRecordError as error:
            rows = sum(staged.rows for key, staged in self.streams.items() if key[1] == error.stream)
            raise IngestError(
                f"stream {error.stream!r}, record {rows + 1}: {error}. Nothing was changed. Correct it in the source, "
                "or exclude the field there"
            ) from None
        except (ValidationError, KeyError, TypeError, AttributeError):
            raise IngestError("the connector sent a message that does not conform to the Airbyte protocol") from None
        except OSError as error:
            raise IngestError(f"cannot store the connector's records in {self.directory}: {error.strerror}") from None
        # Old connectors do not send statuses. For them, the exit code is sufficient.
        statuses = {key: staged.status for key, staged in self.streams.items()}
        if any(statuses.values()) and (missing := [key[1] for key, status in statuses.items() if status != "COMPLETE"]):
            raise IngestError(f"the connector ended without completing: {', '.join(sorted(missing))}")

    def _process(self, message: Message, line: bytes) -> None:
        match message["type"]:
            case "RECORD":
                record = message["record"]
                key = (record.get("namespace") or None, record["stream"])
                if (staged := self.streams.get(key)) is None:
                    self._report_unknown(key[1])
                    return
                if not isinstance(record["data"], dict):
                    raise TypeError
                self._write_record(staged, line)
            case "STATE":
                state = message["state"]
                if (state_of := state_key(state)) is None:
                    self.shared_state = state
                elif state_of in self.streams:
                    self.streams[state_of].state = state
                    self.streams[state_of].seen()
            case "TRACE" if message["trace"].get("type") == "STREAM_STATUS":
                status = StreamStatus.model_validate(message["trace"]["stream_status"])
                if status.stream_descriptor.key in self.streams:
                    staged = self.streams[status.stream_descriptor.key]
                    staged.status = status.status
                    staged.seen()
                    if status.status == "COMPLETE":
                        self._progress(f"{status.stream_descriptor.name}: {staged.rows:,} rows read")

    def _write_record(self, staged: Staged, line: bytes) -> None:
        if staged.file is None:
            path = self.directory / f"{staged.index}.ndjson"
            staged.file = self._files.enter_context(path.open("wb", buffering=1 << 20))
        staged.file.write(line if line.endswith(b"\n") else line + b"\n")
        staged.rows += 1
        staged.size += len(line)
        staged.longest = max(staged.longest, len(line))
        staged.seen()
        if self._last_progress is None:
            self._last_progress = staged.ended
        elif staged.ended - self._last_progress >= _PROGRESS_INTERVAL:
            self._last_progress = staged.ended
            self._progress("Reading: " + ", ".join(f"{key[1]} {s.rows:,}" for key, s in self.streams.items() if s.rows))

    def _report_unknown(self, name: str) -> None:
        if name not in self._unknown_streams:
            self._unknown_streams.add(name)
            self._progress(f"Ignoring stream {name}, which is not in the catalog of this sync")


def to_parquet(
    directory: Path, stream: str, staged: Staged, query_of: Callable[[str], str], key_columns: Sequence[str] = ()
) -> None:
    """Convert a stream's records to typed rows, without using the destination.

    Args:
        directory: The private folder.
        stream: Name of the stream, for messages.
        staged: The staged records.
        query_of: Returns the query that types a source of records.
        key_columns: Columns of the primary key.

    Raises:
        IngestError: DuckDB cannot read the records or ran out of memory or disk, or records have a key that does not
            have its column's type.
    """
    import duckdb

    if not staged.rows:
        return
    ndjson, parquet = directory / f"{staged.index}.ndjson", directory / f"{staged.index}.parquet"
    shape = {"record": "STRUCT(data JSON, emitted_at DOUBLE, meta STRUCT(changes " + sql.CHANGES + "))"}
    with scratch(directory) as connection:
        source = (
            f"read_json({literal(str(ndjson))}, format = 'newline_delimited', columns = {shape}, "
            f"maximum_object_size = {max(staged.longest + 1, 1 << 24)})"
        )
        try:
            connection.execute(f"COPY ({query_of(source)}) TO {literal(str(parquet))} (FORMAT parquet)")
            nulled = _nulled_keys(connection, parquet, key_columns)
        except duckdb.Error as error:
            message = str(error).strip().splitlines()[0]
            raise IngestError(
                f"stream {stream!r}: its records cannot be typed, nothing was changed: {message}"
            ) from error
    if nulled:
        which = ", ".join(f"{name!r} of {counted(number, 'record')}" for name, number in nulled.items())
        raise IngestError(
            f"stream {stream!r}: the primary key does not fit the type that the connector declares: {which}, of "
            f"{staged.rows:,}. With null as their key, they would replace each other, so nothing was changed. Set "
            "another 'primary_key', or 'sync_mode: incremental_append'"
        )
    ndjson.unlink()
    staged.parquet = parquet


def _nulled_keys(connection: duckdb.DuckDBPyConnection, parquet: Path, columns: Sequence[str]) -> dict[str, int]:
    """Return the number of records per column whose value became null, because it does not have the column's type."""
    if not columns:
        return {}
    counts = ", ".join(
        f"count(*) FILTER (len(list_filter(_airbyte_meta.changes, lambda c: c.field = {literal(name)} AND "
        f"c.reason = '{sql.TYPECAST}')) > 0)"
        for name in columns
    )
    row = connection.execute(f"SELECT {counts} FROM read_parquet({literal(str(parquet))})").fetchone()  # noqa: S608
    return {name: number for name, number in zip(columns, row or (), strict=True) if number}


def scratch(directory: Path) -> duckdb.DuckDBPyConnection:
    """Open DuckDB in memory, as a tool: in UTC, with limited memory, and with its spill files in the private folder."""
    import duckdb

    options: dict[str, Any] = {"memory_limit": _MEMORY, "temp_directory": str(directory / "spill")}
    connection = duckdb.connect(config=options)
    connection.execute("SET TimeZone = 'UTC'")
    return connection
