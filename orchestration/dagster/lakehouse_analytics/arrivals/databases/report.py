"""The result of a sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SyncReport:
    """The result of a sync.

    Attributes:
        table: Name of the table at the source, with its schema or database.
        mode: `full` if all rows were read.
        reason: Why all rows were read although the mode is incremental.
        start: The lowest `update_key` that was read; None for all.
        highest: The highest `update_key` of the source, except for times after its clock; None if there is none.
        rows_read: Number of rows that were read.
        rows: Number of rows in the raw table afterwards.
        inserted: Number of rows that were written, including those that replaced an older version.
        deleted: Number of rows that were removed, including those that were replaced.
        bytes: Size of what was read (Arrow, before compression).
        seconds: Duration.
        new_columns: Columns of the source that were not there in the last sync.
        nullified: Number of values, by column, that became NULL because no type of the lakehouse has them.
        warnings: For the user.
    """

    table: str
    mode: Literal["full", "incremental"]
    reason: str | None
    start: str | None
    highest: str | None
    rows_read: int
    rows: int
    inserted: int
    deleted: int
    bytes: int
    seconds: float
    new_columns: Sequence[str]
    nullified: Mapping[str, int]
    warnings: Sequence[str]
