"""Decides what a sync reads. `sync.py` describes why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from lakehouse_analytics.arrivals.databases.base import SourceColumn, SourceTable
from lakehouse_analytics.arrivals.databases.positions import Position, start_of
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, TableState
from lakehouse_analytics.common.text import did_you_mean
from lakehouse_analytics.contract.arrivals import TableArrival

#: The metadata column with the time of the sync that wrote a row.
SYNCED_AT = "_lakehouse_synced_at"
#: The value of `kind` in the state of a raw table that these syncs fill.
_KIND = "database"


@dataclass(frozen=True)
class Plan:
    """What a sync reads.

    Attributes:
        mode: `full` reads all rows.
        replaces: The rows that are read replace all others. Otherwise they are merged by their key.
        reason: Why all rows are read although the mode is incremental.
        start: The lowest `update_key` that is read; None if all rows are read.
        columns: The columns that are read.
        new_columns: Those of the source that were not there in the last sync.
        warnings: For the user.
        continues: The positions of earlier syncs are still valid.
    """

    mode: Literal["full", "incremental"]
    replaces: bool
    columns: Sequence[SourceColumn]
    reason: str | None = None
    start: str | None = None
    new_columns: Sequence[str] = ()
    warnings: Sequence[str] = ()
    continues: bool = True

    def full(self, reason: str, *, keeps: bool, continues: bool = True) -> Plan:
        """Return this plan, but for all rows.

        Args:
            reason: Why.
            keeps: Rows that are not read stay.
            continues: The positions of earlier syncs are still valid.
        """
        return replace(self, mode="full", replaces=not keeps, reason=reason, start=None, continues=continues)


@dataclass(frozen=True)
class Stored:
    """The state that the last sync stored with the table.

    Attributes:
        settings: The settings whose change requires another full sync.
        columns: Types by name of the columns that it read.
        positions: Times of syncs (of the database's clock) and the highest `update_key` of each, in order.
        digest: Of the rows that an incremental sync read.
    """

    settings: Mapping[str, Any]
    columns: Mapping[str, str]
    positions: Sequence[Position] = ()
    digest: str | None = None

    @classmethod
    def parse(cls, state: Mapping[str, Any]) -> Stored | None:
        """Return the state; None if no sync of a database has stored it."""
        if state.get("kind") != _KIND:
            return None
        positions = [(datetime.fromisoformat(at), str(key)) for at, key in state["positions"]]
        return cls(state["settings"], state["columns"], positions, state["digest"])

    def is_same(self, other: Stored) -> bool:
        """Return whether both syncs read the same rows, so that the second has nothing to write."""
        return self.digest is not None and replace(self, positions=()) == replace(other, positions=())

    def json(self) -> dict[str, Any]:
        """Return what `parse` reads."""
        positions = [[at.isoformat(), key] for at, key in self.positions]
        return {
            "kind": _KIND,
            "settings": self.settings,
            "columns": self.columns,
            "positions": positions,
            "digest": self.digest,
        }


@dataclass(frozen=True)
class Planner:
    """Decides what a sync of one table reads."""

    arrival: TableArrival
    table: SourceTable
    connection: str
    full_refresh: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def update_key(self) -> SourceColumn | None:
        """The column of `update_key`, if the mode is incremental."""
        if self.arrival.mode == "full" or self.arrival.update_key is None:
            return None
        return self.table.columns[self.arrival.update_key]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings whose change requires another full sync."""
        incremental = self.arrival.mode == "incremental"
        return {
            "connection": self.connection,
            "table": self.table.name,
            "primary_key": list(self.arrival.primary_key) if incremental else [],
            "update_key": self.arrival.update_key if incremental else None,
            "soft_deletes": self.arrival.deleted_column,
        }

    def check(self) -> None:
        """Check that the columns of the contract exist.

        Raises:
            ArrivalError: One does not, or cannot be an `update_key`.
        """
        named = [("primary_key", name) for name in self.arrival.primary_key]
        named += [("update_key", self.arrival.update_key)] if self.arrival.update_key else []
        named += [("deletes", self.arrival.deleted_column)] if self.arrival.deleted_column else []
        for key, name in named:
            if name not in self.table.columns:
                near = did_you_mean(name, self.table.columns)
                raise ArrivalError(f"{key}: table {self.table.name} has no column {name}{near}")
        if self.update_key and self.update_key.order == "none":
            raise ArrivalError(
                f"update_key: column {self.update_key.name} of {self.table.name} has the type "
                f"{self.update_key.declared}; expected a timestamp, a date, an integer or decimal number, or text"
            )

    def plan(self, before: TableState) -> Plan:
        """Return what the sync reads.

        Args:
            before: The state of the raw table.

        Raises:
            ArrivalError: The contract does not fit the table or the columns of the source, or the raw table is not one
                that these syncs have filled.
        """
        self.check()
        stored = Stored.parse(before.state)
        if before.exists and not stored and not self.full_refresh:
            raise ArrivalError(
                "the raw table exists, but was not filled by a sync of a database. Rename or drop it, or "
                "launch its job with `reload: true` in the run's config, which replaces it"
            )
        known = stored.columns if stored and not self.full_refresh else None
        columns, new, changed = self._columns(known)
        plan = Plan("full", replaces=True, columns=columns, new_columns=new)
        if self.arrival.mode == "incremental":
            plan = self._incremental(plan, stored, changed)
        return replace(plan, warnings=tuple(self.warnings))

    def _columns(self, known: Mapping[str, str] | None) -> tuple[list[SourceColumn], list[str], list[str]]:
        """Return the columns to read, new ones, and descriptions of those whose type has changed."""
        columns = [each for each in self.table.columns.values() if each.name.lower() != SYNCED_AT]
        if len(columns) < len(self.table.columns):
            self.warnings.append(f"the column {SYNCED_AT} of {self.table.name} is omitted: this sync writes its own")
        if known is None:
            return columns, [], []
        new = [each.name for each in columns if each.name not in known]
        gone = [name for name in known if name not in self.table.columns]
        changed = [
            f"{each.name} from {known[each.name]} to {each.kind}"
            for each in columns
            if each.name in known and known[each.name] != each.kind
        ]
        if self.arrival.schema_changes == "fail" and (new or gone or changed):
            found = [f"new columns: {', '.join(new)}"] if new else []
            found += [f"columns that no longer exist: {', '.join(gone)}"] if gone else []
            found += [f"changed types: {', '.join(changed)}"] if changed else []
            raise ArrivalError(
                f"the columns of {self.table.name} have changed ({'; '.join(found)}), and schema_changes is fail. Set "
                "it to add or warn, or launch the job with `reload: true` in the run's config"
            )
        if gone:
            fate = "NULL in rows read from now on" if self.arrival.mode == "incremental" else "removed"
            self.warnings.append(f"{self.table.name} no longer has {_columns(gone)}, which in the raw table is {fate}")
        if changed:
            self.warnings.append(f"types of {self.table.name} have changed: {', '.join(changed)}")
        if new and self.arrival.schema_changes == "warn":
            self.warnings.append(f"{self.table.name} has new columns, which are omitted: {', '.join(new)}")
            columns = [each for each in columns if each.name in known]
        return columns, new, changed

    def _incremental(self, plan: Plan, stored: Stored | None, changed: Sequence[str]) -> Plan:
        ignores = self.arrival.deletes == "ignore"
        if self.full_refresh:
            return plan.full("reload: true", keeps=False, continues=False)
        if not stored:
            return plan.full("the raw table does not exist yet", keeps=False)
        different = [
            f"{name} was {_shown(stored.settings.get(name))} and is {_shown(value)}"
            for name, value in self.settings.items()
            if stored.settings.get(name) != value
        ]
        if different:
            only = [name for name, value in self.settings.items() if stored.settings.get(name) != value]
            keeps = ignores and only == ["update_key"]
            return plan.full(f"settings have changed: {'; '.join(different)}", keeps=keeps, continues=False)
        if changed and ignores:
            raise ArrivalError(
                f"types of {self.table.name} have changed: {', '.join(changed)}. The table is not replaced, because "
                "deletes: ignore keeps rows that the source may have deleted. Launch the job with `reload: true` "
                "in the run's config to replace it"
            )
        if changed:
            return plan.full(f"types have changed: {', '.join(changed)}", keeps=False, continues=False)
        if plan.new_columns and self.arrival.schema_changes == "add":
            reason = f"existing rows need the values of new columns: {', '.join(plan.new_columns)}"
            return plan.full(reason, keeps=ignores)
        return self._from(plan, stored.positions, keeps=ignores)

    def _from(self, plan: Plan, positions: Sequence[Position], *, keeps: bool) -> Plan:
        column = self.update_key
        assert column is not None  # noqa: S101  # the mode is incremental
        start = start_of(positions, self.arrival.lag, is_time=column.order == "time", is_date=column.kind == "DATE")
        if start is None:
            why = "no update_key is known yet from which a sync could start"
            return plan.full(why, keeps=keeps)
        if not self.table.exists(self.table.at_least(column, start)):
            why = f"no row has an update_key of {start} or higher any more: the source may have been restored"
            return plan.full(why, keeps=keeps, continues=False)
        return replace(plan, mode="incremental", replaces=False, start=start)


def _columns(names: Sequence[str]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _shown(value: object) -> str:
    return ", ".join(value) or "not set" if isinstance(value, list) else str(value or "not set")
