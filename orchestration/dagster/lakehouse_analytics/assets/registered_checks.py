"""Checks that a build evaluates beside dbt's tests and the row counts. See `checks.registry`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import dagster as dg

from lakehouse_analytics.checks.registry import Dbt, EvaluationPoint, Scope, SourceCheckKind, TableCheckKind, kinds
from lakehouse_analytics.dbt.graph import Source, Table
from lakehouse_analytics.engines.base import FetchAll

Results = Iterable[dg.AssetCheckResult]


class TableChecks:
    """Checks of the tables of one run, evaluated as the tables are built."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._kinds: list[TableCheckKind] = [kind.load() for kind in kinds(EvaluationPoint.WITH_TABLES)]
        self._results: Mapping[str, list[dg.AssetCheckResult]] = {}

    def gates(self, tables: Iterable[Table]) -> frozenset[str]:
        """Unique ids of the tables that have a check which stops what lies below them."""
        if not self._kinds:
            return frozenset()
        return frozenset(table.unique_id for table in tables if self._blocking(table))

    def evaluate(self, tables: Sequence[Table], fetch_all: FetchAll) -> None:
        """Evaluate the checks of some tables. Called in a thread; raises nothing."""
        found: dict[str, list[dg.AssetCheckResult]] = {table.unique_id: [] for table in tables}
        for kind in self._kinds:
            planned = {table: keys for table in tables if (keys := [s.key for s in kind.specs(table, self._scope)])}
            if not planned:
                continue
            results = _by_key(planned.values(), partial(kind.evaluate, [*planned], fetch_all))
            for table, keys in planned.items():
                found[table.unique_id] += [results[key] for key in keys]
        self._results = {**self._results, **found}

    def results(self, table: Table) -> list[dg.AssetCheckResult]:
        """What was found of a table."""
        return self._results.get(table.unique_id, [])

    def blocks(self, table: Table, check: str | None) -> bool:
        """Whether a check of a table stops what lies below it."""
        return check in self._blocking(table)

    def _blocking(self, table: Table) -> set[str]:
        specs = (spec for kind in self._kinds for spec in kind.specs(table, self._scope))
        return {spec.name for spec in specs if spec.blocking}


class SourceChecks:
    """The selected checks of sources of one run, evaluated before it builds."""

    def __init__(self, scope: Scope, selected: AbstractSet[dg.AssetCheckKey]) -> None:
        self._asked: list[tuple[SourceCheckKind, dict[Source, list[dg.AssetCheckKey]]]] = []
        for kind in kinds(EvaluationPoint.BEFORE_TABLES):
            wanted = {key for key in selected if key.name in kind.names}
            if not wanted:
                continue
            loaded: SourceCheckKind = kind.load()
            planned: dict[Source, list[dg.AssetCheckKey]] = {}
            for source in scope.graph.sources.values():
                # Of sources that share an asset key, the first: the check is its.
                if keys := [spec.key for spec in loaded.specs(source, scope) if spec.key in wanted]:
                    planned[source] = keys
                    wanted.difference_update(keys)
            if planned:
                self._asked.append((loaded, planned))

    def __len__(self) -> int:
        """How many checks there are."""
        return sum(len(keys) for _, planned in self._asked for keys in planned.values())

    def results(self, dbt: Dbt) -> Iterator[dg.AssetCheckResult]:
        """Evaluate them; raises nothing."""
        for kind, planned in self._asked:
            results = _by_key(planned.values(), partial(kind.evaluate, [*planned], dbt))
            yield from (results[key] for keys in planned.values() for key in keys)


def _by_key(
    planned: Collection[Collection[dg.AssetCheckKey]], evaluate: Callable[[], Results]
) -> dict[dg.AssetCheckKey, dg.AssetCheckResult]:
    """A result for each planned check: one that its kind did not give is an error."""
    found: dict[dg.AssetCheckKey, dg.AssetCheckResult] = {}
    reason = "its kind gave no result"
    try:
        for result in evaluate():
            found[dg.AssetCheckKey(dg.AssetKey.from_coercible(result.asset_key or ""), result.check_name or "")] = (
                result
            )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    return {
        key: found.get(key)
        or dg.AssetCheckResult(
            asset_key=key.asset_key, check_name=key.name, passed=False, description=f"not evaluated: {reason}"
        )
        for keys in planned
        for key in keys
    }
