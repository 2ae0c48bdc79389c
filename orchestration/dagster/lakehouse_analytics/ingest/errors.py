"""Errors of a sync."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class IngestError(Exception):
    """The sync failed, and its stored state is unchanged. The message is one line without secrets."""


class BrokenRecordError(IngestError):
    """A record that cannot be stored in any destination. The message has the field and the reason.

    Attributes:
        stream: The record's stream.
    """

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(reason)
        self.stream = stream


@contextmanager
def boundary(source: str) -> Iterator[None]:
    """Convert errors of the operating system and of DuckDB during a sync of `source` to `IngestError`.

    Raises:
        IngestError: A disk is full, a file cannot be written or closed, or DuckDB failed.
    """
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise IngestError(f"the sync of {source} failed: {error.strerror or error}{where}") from error
    except Exception as error:
        # DuckDB is expensive to import, so it is not imported only for its errors.
        duckdb = sys.modules.get("duckdb")
        if duckdb is None or not isinstance(error, duckdb.Error):
            raise
        raise IngestError(f"the sync of {source} failed: {str(error).strip().splitlines()[0]}") from error
