"""The destinations by the scheme of a connection's address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.connections import Connection, connection, connection_variable
from lakehouse_analytics.common.environment import SettingsError
from lakehouse_analytics.exports.base import Destination, ExportError, Target

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["SCHEMES", "connection_of", "connection_variable", "destination", "kind_of"]


@dataclass(frozen=True)
class _Type:
    kind: str
    implementation: str


_CLICKHOUSE = _Type("clickhouse", "lakehouse_analytics.exports.clickhouse:ClickHouse")
_POSTGRES = _Type("postgresql", "lakehouse_analytics.exports.postgres:Postgres")
SCHEMES: Mapping[str, _Type] = {
    "clickhouse": _CLICKHOUSE,
    "clickhouses": _CLICKHOUSE,
    "chdb": _CLICKHOUSE,
    "postgresql": _POSTGRES,
}


def connection_of(name: str, schemes: Collection[str] = tuple(SCHEMES)) -> Connection:
    """Return the connection of a name.

    Raises:
        ExportError: Its variable is not set, or its address is wrong.
    """
    try:
        return connection(name, schemes)
    except SettingsError as error:
        raise ExportError(f"{error}.") from None


def kind_of(name: str) -> str | None:
    """Return Dagster's kind of a connection's database; None if its variable is not set or wrong."""
    try:
        return SCHEMES[connection_of(name).scheme].kind
    except ExportError:
        return None


def destination(found: Connection, target: Target) -> Destination:
    """Return the destination of a table."""
    made: Destination = resolve_name(SCHEMES[found.scheme].implementation)(found, target)
    return made
