"""The table `lakehouse_table_locks`, which records the owner of each lock."""

from __future__ import annotations

from lakehouse_analytics.locks import LockStorageError, Owner
from lakehouse_analytics.locks.postgres.session import LockSession

TABLE = "lakehouse_table_locks"
CREATE = f"""create table if not exists {TABLE} (
  table_name text primary key,
  run_id text not null,
  step_key text not null,
  locked_at timestamptz not null default now(),
  unlocked_since timestamptz
)"""


class LockRegistry:
    """The rows of locked tables. The row of an owner that died remains, so that the next owner finds out about it."""

    def __init__(self, session: LockSession) -> None:
        self._ask = session.ask

    def create(self) -> None:
        """Create the table if it does not exist.

        Raises:
            LockStorageError: The role may not create it. The message has the statements for the database's owner.
        """
        from sqlalchemy.exc import IntegrityError, ProgrammingError

        if self._exists():
            return
        try:
            self._ask(CREATE)
        except (IntegrityError, ProgrammingError) as error:
            # `if not exists` does not prevent an error when two runs create it at once: PostgreSQL reports a violated
            # index of its catalog, or a table that exists.
            if self._exists():
                return
            user = self._ask("select current_user")[0][0]
            raise LockStorageError(
                f'The role "{user}" may not create the table {TABLE} in Dagster\'s database, which records which run '
                f"writes which table. The owner of the database must run:\n{CREATE};\n"
                f'grant select, insert, update, delete on {TABLE} to "{user}";'
            ) from error

    def _exists(self) -> bool:
        return self._ask("select to_regclass(:table)", table=TABLE)[0][0] is not None

    def owner_of(self, table: str) -> Owner | None:
        """Return the recorded owner of a table; None if it has no row."""
        rows = self._ask("select run_id, step_key from lakehouse_table_locks where table_name = :table", table=table)
        return Owner(*rows[0]) if rows else None

    def record(self, table: str, owner: Owner) -> None:
        """Record the owner of a table, replacing the last one."""
        self._ask(
            "insert into lakehouse_table_locks (table_name, run_id, step_key) values (:table, :run_id, :step_key)"
            " on conflict (table_name) do update set run_id = excluded.run_id, step_key = excluded.step_key,"
            " locked_at = now(), unlocked_since = null",
            table=table,
            run_id=owner.run_id,
            step_key=owner.step_key,
        )

    def remove(self, table: str, owner: Owner) -> None:
        """Remove the row of a table if it still has this owner."""
        self._ask(
            "delete from lakehouse_table_locks where table_name = :table and run_id = :run_id and step_key = :step_key",
            table=table,
            run_id=owner.run_id,
            step_key=owner.step_key,
        )

    def seconds_unlocked(self, table: str) -> float | None:
        """Return the seconds since a recorded table was first found unlocked; None if it has no row."""
        rows = self._ask(
            "update lakehouse_table_locks set unlocked_since = coalesce(unlocked_since, clock_timestamp())"
            " where table_name = :table returning extract(epoch from clock_timestamp() - unlocked_since)",
            table=table,
        )
        return float(rows[0][0]) if rows else None

    def mark_others_unlocked(self, table: str) -> None:
        """Record that the other tables of the owner of a table have been unlocked for as long as this one.

        An owner that has reconnected has locked all its tables again. So the next owner waits once for all of them.
        """
        # A row that is locked belongs to another waiting owner, which does the same.
        self._ask(
            "with dead as (select * from lakehouse_table_locks where table_name = :table), others as ("
            "select table_name from lakehouse_table_locks where unlocked_since is null"
            " and (run_id, step_key) = (select run_id, step_key from dead) for update skip locked"
            ") update lakehouse_table_locks set unlocked_since = (select unlocked_since from dead)"
            " where table_name in (select table_name from others)",
            table=table,
        )

    def mark_locked(self, table: str) -> None:
        """Record that the owner of a table has locked it again."""
        self._ask("update lakehouse_table_locks set unlocked_since = null where table_name = :table", table=table)
