"""The sources whose loads other systems report: `arrives: {webhook: true}` in their contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from lakehouse_analytics.common.text import brief, did_you_mean
from lakehouse_analytics.contract.arrivals import ReportedArrival
from lakehouse_analytics.dbt.graph import Key, Source


class UnknownSourceError(LookupError):
    """The loads of a source cannot be reported. The message is for the caller of the webhook."""


@dataclass(frozen=True)
class ReportedSources:
    """The source tables of the dbt project, by `<source>/<table>`.

    Attributes:
        keys: The asset keys of those whose loads are reported.
        others: Names of the other source tables.
    """

    keys: Mapping[str, Key]
    others: frozenset[str] = frozenset()

    @staticmethod
    def of(sources: Iterable[Source]) -> ReportedSources:
        """Return those of the sources of a graph."""
        keys, others = {}, set()
        for source in sources:
            name = f"{source.node.source_name}/{source.node.name}"
            if isinstance(source.contract.arrives, ReportedArrival):
                keys[name] = source.key
            else:
                others.add(name)
        return ReportedSources(keys, frozenset(others))

    @cached_property
    def names(self) -> str:
        """The names of the sources whose loads are reported, for a message."""
        return ", ".join(sorted(self.keys))

    def key(self, name: str) -> Key:
        """Return the asset key of a source table.

        Args:
            name: `<source>/<table>`, as dbt names them.

        Raises:
            UnknownSourceError: The project has no such table, or its contract does not say that loads are reported.
        """
        if name in self.keys:
            return self.keys[name]
        if name in self.others:
            raise UnknownSourceError(
                f"Loads of {brief(name)} cannot be reported: add `arrives: {{webhook: true}}` to its meta.lakehouse in "
                "the dbt project."
            )
        hint = did_you_mean(name, self.keys, otherwise=".")
        raise UnknownSourceError(f"The dbt project has no source table {brief(name)}{hint}")
