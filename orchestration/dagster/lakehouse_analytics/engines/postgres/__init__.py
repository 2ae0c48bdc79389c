"""PostgreSQL: dbt-postgres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.partition_bins import DATES, Bins

if TYPE_CHECKING:
    from lakehouse_analytics.settings import Settings


class Postgres(EngineType):
    """A server, whose tables are replaced in one transaction."""

    name = "postgres"
    title = "PostgreSQL"
    naming_fields = ("dbname", "database", "schema")
    connection_fields = (
        "host", "port", "user", "password", "pass", "sslmode", "sslcert", "sslkey", "sslrootcert", "connect_timeout",
        "role", "search_path",
    )  # fmt: skip
    local_target = "postgres"

    def database(self, fields: Mapping[str, Any]) -> str:
        """dbt-postgres takes `dbname` for an alias of `database`."""
        return str(fields.get("database") or fields.get("dbname") or "")

    def location(self, settings: Settings) -> str:
        """The database; the server is in the profile."""
        return f"The database: {settings.profile.database} of {settings.profile.where}"

    def bucketed(self, relation: str, time: str, bins: Bins) -> str:
        """By `width_bucket`; the epoch of a moment without a zone is that of UTC."""
        dates = f"case when pg_typeof({time})::text = 'date' then {DATES} else 0 end"
        borders = ", ".join(map(str, bins.borders))
        bucket = f"width_bucket(extract(epoch from {time})::float8 + {dates}, array[{borders}]::float8[])"
        return f"select *, {bucket} as lakehouse_bucket from {relation} where {bins.near(time)}"  # noqa: S608
