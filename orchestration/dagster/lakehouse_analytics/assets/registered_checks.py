"""Evaluates the registered checks in a build, in addition to dbt's tests and row counts. See `checks.registry`."""

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
    """The checks of the tables in a run, evaluated as the tables are built."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._kinds: list[TableCheckKind] = [kind.load() for kind in kinds(EvaluationPoint.WITH_TABLES)]
        self._results: Mapping[str, list[dg.AssetCheckResult]] = {}

    def gates(self, tables: Iterable[Table]) -> frozenset[str]:
        """Return the unique ids of the tables with a check that blocks downstream tables."""
        if not self._kinds:
            return frozenset()
        return frozenset(table.unique_id for table in tables if self._blocking(table))

    def evaluate(self, tables: Sequence[Table], fetch_all: FetchAll) -> None:
        """Evaluate the checks of some tables. Called in a thread; does not raise."""
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
        """Return the results for a table."""
        return self._results.get(table.unique_id, [])

    def blocks(self, table: Table, check: str | None) -> bool:
        """Return whether a check of a table blocks downstream tables."""
        return check in self._blocking(table)

    def _blocking(self, table: Table) -> set[str]:
        specs = (spec for kind in self._kinds for spec in kind.specs(table, self._scope))
        return {spec.name for spec in specs if spec.blocking}


class SourceChecks:
    """The selected checks of sources in a run, evaluated before it builds tables."""

    def __init__(self, scope: Scope, selected: AbstractSet[dg.AssetCheckKey]) -> None:
        self._planned: list[tuple[SourceCheckKind, dict[Source, list[dg.AssetCheckKey]]]] = []
        for kind in kinds(EvaluationPoint.BEFORE_TABLES):
            wanted = {key for key in selected if key.name in kind.names}
            if not wanted:
                continue
            loaded: SourceCheckKind = kind.load()
            planned: dict[Source, list[dg.AssetCheckKey]] = {}
            for source in scope.graph.sources.values():
                # If several sources share an asset key, the check belongs to the first.
                if keys := [spec.key for spec in loaded.specs(source, scope) if spec.key in wanted]:
                    planned[source] = keys
                    wanted.difference_update(keys)
            if planned:
                self._planned.append((loaded, planned))

    def __len__(self) -> int:
        """Return the number of checks."""
        return sum(len(keys) for _, planned in self._planned for keys in planned.values())

    def results(self, dbt: Dbt) -> Iterator[dg.AssetCheckResult]:
        """Evaluate the checks and yield their results; does not raise."""
        for kind, planned in self._planned:
            results = _by_key(planned.values(), partial(kind.evaluate, [*planned], dbt))
            yield from (results[key] for keys in planned.values() for key in keys)


def _by_key(
    planned: Collection[Collection[dg.AssetCheckKey]], evaluate: Callable[[], Results]
) -> dict[dg.AssetCheckKey, dg.AssetCheckResult]:
    """Return a result for each planned check. If `evaluate` does not return one, the result is an error."""
    found: dict[dg.AssetCheckKey, dg.AssetCheckResult] = {}
    reason = "no result was returned"
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
