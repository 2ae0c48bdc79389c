"""The errors of a sync."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class IngestError(Exception):
    """The sync failed, and its stored state is as it was before. One line, without secrets."""


class BrokenRecordError(IngestError):
    """A record that no destination can hold. The message has the field and the reason.

    Attributes:
        stream: The record's stream.
    """

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(reason)
        self.stream = stream


@contextmanager
def boundary(source: str) -> Iterator[None]:
    """Turn what the operating system and DuckDB raise during a sync of `source` into an `IngestError`.

    Raises:
        IngestError: a disk is full, a file cannot be written or closed, or DuckDB failed.
    """
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise IngestError(f"the sync of {source} failed: {error.strerror or error}{where}") from error
    except Exception as error:
        # Not imported for its errors alone: the module is heavy.
        duckdb = sys.modules.get("duckdb")
        if duckdb is None or not isinstance(error, duckdb.Error):
            raise
        raise IngestError(f"the sync of {source} failed: {str(error).strip().splitlines()[0]}") from error
