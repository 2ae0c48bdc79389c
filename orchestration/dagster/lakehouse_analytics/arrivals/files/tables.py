"""The raw tables of a source that is loaded from files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.files.load import FileTables
from lakehouse_analytics.arrivals.files.places import FILES_TABLE, QUARANTINE_TABLE
from lakehouse_analytics.arrivals.raw_tables.registry import raw_table
from lakehouse_analytics.dbt.relation import Relation

if TYPE_CHECKING:
    from lakehouse_analytics.settings import Settings


def tables_of(settings: Settings, relation: Relation) -> FileTables:
    """Return the tables of a source.

    Args:
        settings: The settings, which select the engine.
        relation: The table of the source.

    Raises:
        ArrivalError: The engine does not support it, or is not configured.
    """
    names = (relation.name, relation.name + FILES_TABLE, relation.name + QUARANTINE_TABLE)
    return FileTables(*(raw_table(settings, replace(relation, name=name)) for name in names))
