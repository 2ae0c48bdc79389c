"""Row counts of what a stage built: asked in one statement, judged by each table's contract."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Protocol

import dagster as dg

from lakehouse_analytics.checks import History, row_count_results, uncounted_results
from lakehouse_analytics.database import DatabaseError
from lakehouse_analytics.graph import Table
from lakehouse_analytics.row_counts import Counted, Counts, count_sql, read_counts

#: What was counted, or why it could not be.
Answer = Counts | str


class Engine(Protocol):
    """Where the tables are: asked for row counts, and whether dbt may write."""

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Every row of one statement."""

    def wait_until_free(self) -> None:
        """Return when dbt may start, or raise with the reason why it cannot."""


class Counter:
    """Counts and judges the tables of one run.

    Attributes:
        accepted: Names of models whose count is the new normal.
        zone: Decides what a weekday is.
    """

    def __init__(self, engine: Engine, history: History, *, accepted: Collection[str], zone: tzinfo) -> None:
        self._engine, self._history = engine, history
        self._accepted, self._zone = accepted, zone

    def count(self, tables: Sequence[Table]) -> dict[str, Answer]:
        """Count every table in one statement, by unique id."""
        if not tables:
            return {}
        asked = [_asked(table) for table in tables]
        try:
            answers = read_counts(asked, self._engine.fetch_all(count_sql(asked)))
            return dict(zip((table.unique_id for table in tables), answers, strict=True))
        except DatabaseError as error:
            return dict.fromkeys((table.unique_id for table in tables), str(error))
        except Exception as error:
            if len(tables) == 1:
                return {tables[0].unique_id: str(error).strip()}
        # One statement for all; only where it fails, one a table to find out which it was.
        return {unique_id: answer for table in tables for unique_id, answer in self.count([table]).items()}

    def judge(self, table: Table, answer: Answer) -> list[dg.AssetCheckResult]:
        """The row-count checks of one table."""
        if isinstance(answer, str):
            return uncounted_results(table, answer)
        return row_count_results(
            table,
            answer,
            self._history,
            now=datetime.now(UTC),
            zone=self._zone,
            accepted=table.node["name"] in self._accepted,
        )


def _asked(table: Table) -> Counted:
    freshness = table.contract.freshness
    event_time = (freshness and freshness.column) or table.node["config"].get("event_time")
    return Counted(table.node["relation_name"], table.contract.distinct, event_time)
