"""The report of a sync, as data and as a small table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

#: `first`: the table is new. `incremental`: continued from the stored state. `refresh`: read from the start, which
#: replaced the old rows.
Mode = Literal["first", "incremental", "refresh"]


@dataclass(frozen=True)
class StreamReport:
    """The report of one stream.

    `bytes_read` is the size of the connector's output; `seconds` includes reading and loading.
    """

    stream: str
    table: str
    mode: Mode
    rows_read: int
    bytes_read: int
    rows_total: int
    seconds: float
    generation_id: int


@dataclass(frozen=True)
class IngestReport:
    """The report of a sync.

    Attributes:
        connector: The connector's package.
        version: Version of the package.
        source: Name of the dbt source.
        schema: Schema of its tables.
        streams: The reports of the streams.
        started: Time, with a time zone, before anything was read: the tables have everything that the source had then.
    """

    connector: str
    version: str
    source: str
    schema: str
    streams: tuple[StreamReport, ...]
    started: datetime | None = None

    def table(self) -> str:
        """Return a table with one line per stream, and a heading."""
        rows = [("stream", "mode", "rows read", "rows now", "seconds")]
        rows += [(s.stream, s.mode, f"{s.rows_read:,}", f"{s.rows_total:,}", f"{s.seconds:.1f}") for s in self.streams]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )
