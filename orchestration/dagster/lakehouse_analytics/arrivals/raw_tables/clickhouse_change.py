"""One change of a table in ClickHouse: a staged table with its rows, columns and state afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.arrivals.raw_tables.base import Outcome
from lakehouse_analytics.arrivals.raw_tables.clickhouse_kinds import column
from lakehouse_analytics.arrivals.raw_tables.new_rows import NewRows
from lakehouse_analytics.exports.base import ExportError, Target
from lakehouse_analytics.exports.clickhouse_client import ClickHouseClient, literal, quoted
from lakehouse_analytics.exports.clickhouse_types import refuse_old_dates, table_of, type_of
from lakehouse_analytics.exports.columns import Column

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: Rows of DuckDB's batches, and bytes and rows of one INSERT, each of which makes a part of the table.
_BATCH = 8192
_PART_BYTES, _PART_ROWS = 16 << 20, 100_000
#: The keys are a constant table, so that replicas delete the same rows.
_DELETE = {"lightweight_deletes_sync": 2, "mutations_sync": 2, "allow_nondeterministic_mutations": 1}
#: SYNTAX_ERROR of servers before 24.10, NOT_IMPLEMENTED, and SUPPORT_IS_DISABLED for other engines.
_NO_CLONE = ("Code: 62.", "Code: 48.", "Code: 344.")


@dataclass
class ClickHouseChange:
    """A pending change. Call `write`, exchange `table` with the target, and `discard`.

    Args:
        session: The database.
        target: The table.
        comment: The comment on it afterwards.
        rows: The checked rows of the change.
        db: DuckDB, as a tool that reads the rows.
        key: Columns by which a new table is sorted.
        old: Number of rows before; None if the table does not exist.

    Attributes:
        is_in_doubt: Whether the names may have been exchanged, so that the staged one may be the old table's.
    """

    session: ClickHouseClient
    target: Target
    comment: str
    rows: NewRows
    db: duckdb.DuckDBPyConnection
    key: Sequence[str]
    old: int | None
    is_in_doubt: bool = field(default=False, init=False)
    _keys_id: str = field(default_factory=lambda: uuid.uuid4().hex, init=False)

    @property
    def table(self) -> str:
        """The name of the staged table."""
        return self.target.staged

    @property
    def _keys(self) -> str:
        """The name of a table with the keys of rows that are removed."""
        return replace(self.target, run_id=self._keys_id).staged

    def write(self) -> Outcome:
        """Create the staged table, and load it."""
        old = self.old or 0
        if self.old is None or self.rows.change.replaces:
            self._create()
            deleted = old
        else:
            self._clone()
            self._add_columns()
            deleted = self._delete(old)
        inserted = self._insert() if self.rows.select else 0
        rows = self._count()
        if rows != old - deleted + inserted:
            raise ExportError(
                f"{inserted} rows were sent, but the table has {rows} instead of {old - deleted + inserted}"
            )
        return Outcome(rows, inserted, deleted)

    def discard(self) -> None:
        """Drop what was staged. After the commit, that is the old table."""
        self.session.drop(self._keys)
        self.session.drop(self.table)

    def _column(self, name: str) -> Column:
        in_key = name.lower() in {key.lower() for key in self.key}
        return column(name, self.rows.columns[name], in_key=in_key)

    def _create(self) -> None:
        columns = {name.lower(): name for name in self.rows.columns}
        if missing := [name for name in self.key if name.lower() not in columns]:
            raise ExportError(f"the table has no column {missing[0]}, which is part of the primary key")
        described = ", ".join(f"{quoted(name)} {type_of(self._column(name))}" for name in self.rows.columns)
        order = ", ".join(quoted(columns[name.lower()]) for name in self.key)
        self.session.run(
            f"create table {self.session.name(self.table)} ({described}) engine = MergeTree order by ({order}) "
            f"comment {literal(self.comment)}"
        )

    def _clone(self) -> None:
        staged, table = self.session.name(self.table), self.session.name(self.target.table)
        comment = literal(self.comment)
        try:
            self.session.run(f"create table {staged} clone as {table} comment {comment}")
        except ExportError as error:
            if not any(code in str(error) for code in _NO_CLONE):
                raise
            self.session.drop(self.table)
            self.session.run(f"create table {staged} as {table} comment {comment}")
            self.session.run(f"insert into {staged} select * from {table}")  # noqa: S608

    def _add_columns(self) -> None:
        for name in self.rows.added:
            kind = type_of(column(name, self.rows.columns[name]))
            self.session.run(f"alter table {self.session.name(self.table)} add column {quoted(name)} {kind}")

    def _delete(self, old: int) -> int:
        if not self.rows.keys:
            return 0
        columns = [column(name, self.rows.columns[name]) for name in self.rows.key]
        keys = self.session.name(self._keys)
        described = ", ".join(f"{quoted(each.name)} {type_of(each)}" for each in columns)
        self.session.run(
            f"create table {keys} ({described}) engine = MergeTree order by tuple() comment {literal(self.comment)}"
        )
        self._send(self._keys, columns, self.rows.keys)
        # Null equals null, whatever the settings of the server are.
        same = ", ".join(
            quoted(each.name)
            if self._column(each.name).in_key
            else f"isNull({quoted(each.name)}), ifNull({quoted(each.name)}, defaultValueOfTypeName({_plain(each)}))"
            for each in columns
        )
        self.session.run(
            f"delete from {self.session.name(self.table)} where ({same}) in (select {same} from {keys})",  # noqa: S608
            _DELETE,
        )
        return old - self._count()

    def _insert(self) -> int:
        columns = [self._column(name) for name in self.rows.stored]
        assert self.rows.select is not None  # noqa: S101  # checked by the caller
        return self._send(self.table, columns, self.rows.select)

    def _send(self, table: str, columns: Sequence[Column], query: str) -> int:
        names = [each.name for each in columns]
        sent = 0
        for batch in _grouped(self.db.sql(query).to_arrow_reader(_BATCH)):
            for each, values in zip(columns, batch.columns, strict=True):
                if each.in_key and values.null_count:
                    raise ExportError(
                        f"column {each.name} of the primary key has a null, which a key cannot have in ClickHouse. "
                        "Choose columns that are never null"
                    )
            refuse_old_dates(columns, batch)
            self.session.insert(table, table_of(batch, columns, names))
            sent += batch.num_rows
        return sent

    def _count(self) -> int:
        return int(self.session.rows(f"select count() from {self.session.name(self.table)}")[0][0])  # noqa: S608


def _plain(each: Column) -> str:
    return literal(type_of(replace(each, in_key=True)))


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield larger batches."""
    import pyarrow as pa

    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        rows, size = sum(each.num_rows for each in group), sum(each.nbytes for each in group)
        if rows >= _PART_ROWS or size >= _PART_BYTES:
            yield pa.concat_batches(group)
            group = []
    if group:
        yield pa.concat_batches(group)
