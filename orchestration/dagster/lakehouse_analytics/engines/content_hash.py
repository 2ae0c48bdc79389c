"""A hash of the contents of a table, which the engine computes in one scan.

The order of rows and columns has no effect. Two tables of one engine with equal hashes have equal rows, with a
probability of error of 1 in 10^18. Hashes of different engines cannot be compared, because the texts of their values
differ; those of `exports/checksum.py` can, for the types of a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.engines.comparison import Comparison, Family, family


@dataclass(frozen=True)
class ContentHash:
    """The contents of a table.

    Attributes:
        rows: Number of rows.
        total: Sum of the hashes of the rows. Unlike an exclusive or, it counts a row that is there twice.
        columns: Hash of the names and types of the columns.
    """

    rows: int
    total: int
    columns: str

    def __str__(self) -> str:
        """Return the hash as text, such as for metadata of an asset."""
        return f"{self.rows}-{self.total:x}-{self.columns}"


def content_hash(session: Comparison, source: str, *, exclude: Collection[str] = ()) -> ContentHash:
    """Return the hash of the contents of a table.

    Args:
        session: The engine.
        source: The table, as it follows `from`: `Comparison.now` and `Comparison.at_snapshot` return it.
        exclude: Columns that do not count, such as the time of a load.

    Raises:
        DatabaseError: The table cannot be read.
    """
    columns = sorted((name, kind) for name, kind in session.columns(source).items() if name not in exclude)
    digest = hashlib.sha256(repr(columns).encode()).hexdigest()[:8]
    texts = " || ".join(_part(session, name, kind) for name, kind in columns) or "''"
    [(rows, total)] = session.fetch_all(
        f"select count(*), coalesce(sum(cast({session.row_hash(texts)} as decimal(38, 0))), 0) from {source}"  # noqa: S608
    )
    return ContentHash(int(rows), int(total), digest)


def _part(session: Comparison, name: str, kind: str) -> str:
    """Return an expression of a value's length and text, so that a row's text has only one meaning."""
    quoted = identifier(name)
    text = session.text(quoted, kind)
    if family(kind) is Family.FLOAT:  # -0.0 equals 0.0
        text = f"case when {quoted} = 0 then '0' else {text} end"
    return f"coalesce(cast(length({text}) as varchar) || ':' || {text}, 'N;')"
