"""What a sync did, as data and as a small table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

#: `first`: the table is new. `incremental`: from the stored state on. `refresh`: from the start, replacing old rows.
Mode = Literal["first", "incremental", "refresh"]


@dataclass(frozen=True)
class StreamReport:
    """One stream of a sync. `bytes_read` is what the connector printed; `seconds` is reading plus loading."""

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
    """One sync. `connector` is the package, `source` the dbt source, `schema` that of its tables.

    `started`, aware, is before anything was read: what the source had by then is in the tables.
    """

    connector: str
    version: str
    source: str
    schema: str
    streams: tuple[StreamReport, ...]
    started: datetime | None = None

    def table(self) -> str:
        """One line a stream, with a heading."""
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
