"""Maintenance policies: which tables are maintained, and how, according to their contracts. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from lakehouse_analytics.arrivals.files.places import FILES_TABLE, QUARANTINE_TABLE
from lakehouse_analytics.common import durations
from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.contract.models import ContractError, Maintenance
from lakehouse_analytics.dbt.graph import Graph, Key
from lakehouse_analytics.dbt.nodes import Node
from lakehouse_analytics.dbt.relation import Relation, relation_of

#: Materializations of dbt that create a table in the catalog.
MATERIALIZED = frozenset({"table", "incremental", "seed", "snapshot"})
#: Materializations that dbt rewrites completely in each build. Trino collects statistics of a new table while writing
#: it, so those of other tables become outdated.
REWRITTEN = frozenset({"table", "seed"})
DEFAULT_RETENTION = timedelta(days=7)
_LEAST_ORPHANS = "the longer of LAKEHOUSE_MAINTENANCE_FLOOR and LAKEHOUSE_MAX_RUNTIME: a running write would lose files"
_UNITS = {"kB": 2**10, "MB": 2**20, "GB": 2**30}


@dataclass(frozen=True)
class Policy:
    """The maintenance policy of a table. Sizes are in bytes."""

    optimize: bool = True
    small_file: str = "64MB"
    small_files: int = 20
    deleted: float = 0.1
    optimize_manifests: bool = True
    small_manifests: int = 20
    expire_snapshots: bool = True
    retain: timedelta = DEFAULT_RETENTION
    remove_orphan_files: bool = True
    orphans: timedelta = DEFAULT_RETENTION
    analyze: bool = False
    changed: float = 0.1

    @property
    def small_file_bytes(self) -> int:
        """`small_file` in bytes. As in Trino, kB, MB and GB are powers of 1024."""
        return int(self.small_file[:-2]) * _UNITS[self.small_file[-2:]]


@dataclass(frozen=True)
class MaintainedTable:
    """A table that is maintained. `connection` is the Airbyte connection that fills it."""

    unique_id: str
    key: Key
    relation: Relation
    policy: Policy
    connection: str | None = None


def maintained_tables(graph: Graph, *, floor: timedelta, longest_write: timedelta) -> list[MaintainedTable]:
    """Return the maintained tables: models, seeds, snapshots, and sources filled by Airbyte or with a contract for it.

    Args:
        graph: The manifest's graph.
        floor: Minimum retention of snapshots. No contract can go below it, because queries may read them.
        longest_write: Maximum duration of a write. Its files do not belong to a snapshot until it commits.

    Raises:
        ContractError: With one line for each retention that is too short.
    """
    problems: list[str] = []
    found: list[MaintainedTable] = []
    for unique_id, node, key, maintenance in _wanted(graph):
        rules = maintenance or Maintenance()
        retentions = {"retain": rules.retain, "orphans": rules.orphans}
        minimum = {"retain": floor, "orphans": max(floor, longest_write)}
        where = f"{node.original_file_path} or dbt_project.yml: {node.resource_type} {node.name}"
        problems += [
            f"{where}: meta.lakehouse.maintenance.{name} is {durations.exact(value)}: "
            f"expected at least {durations.exact(minimum[name])}, "
            + ("the floor (LAKEHOUSE_MAINTENANCE_FLOOR)" if name == "retain" else _LEAST_ORPHANS)
            for name, value in retentions.items()
            if value is not None and value < minimum[name]
        ]
        materialized = node.config.materialized
        policy = Policy(
            retain=rules.retain or max(DEFAULT_RETENTION, minimum["retain"]),
            orphans=rules.orphans or max(DEFAULT_RETENTION, minimum["orphans"]),
            analyze=materialized not in REWRITTEN if rules.analyze is None else rules.analyze,
            **rules.model_dump(exclude={"enabled", "retain", "orphans", "analyze"}),
        )
        if rules.enabled:
            source = graph.sources.get(unique_id)
            airbyte = source.contract.airbyte if source else None
            found.append(
                MaintainedTable(unique_id, key, relation_of(node), policy, airbyte.connection if airbyte else None)
            )
    if problems:
        raise ContractError("\n".join(problems))
    return sorted(found, key=lambda table: str(table.relation))


def _wanted(graph: Graph) -> Iterator[tuple[str, Node, Key, Maintenance | None]]:
    for table in graph.tables.values():
        if (table.node.config.materialized or table.node.resource_type) in MATERIALIZED:
            yield table.unique_id, table.node, table.key, table.contract.maintenance
    for source in graph.sources.values():
        contract = source.contract
        if contract.copied_to:
            continue
        if contract.airbyte or contract.arrives or contract.maintenance:
            yield source.unique_id, source.node, source.key, source.contract.maintenance
        if isinstance(contract.arrives, FileArrival):
            # Each load also changes the list of files, and perhaps the quarantine.
            for suffix in (FILES_TABLE, QUARANTINE_TABLE):
                node = replace(source.node, identifier=source.node.table_name + suffix)
                key = (*source.key[:-1], source.key[-1] + suffix)
                yield source.unique_id + suffix, node, key, source.contract.maintenance
