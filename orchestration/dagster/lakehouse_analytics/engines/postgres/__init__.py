"""PostgreSQL. Its dbt adapter is dbt-postgres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.partition_bins import DATE_OFFSET, Bins

if TYPE_CHECKING:
    from lakehouse_analytics.settings import Settings


class Postgres(EngineType):
    """The type of engine for a PostgreSQL server, where dbt replaces a table in one transaction."""

    name = "postgres"
    title = "PostgreSQL"
    drops_views = True
    naming_fields = ("dbname", "database", "schema")
    connection_fields = (
        "host", "port", "user", "password", "pass", "sslmode", "sslcert", "sslkey", "sslrootcert", "connect_timeout",
        "role", "search_path",
    )  # fmt: skip
    local_target = "postgres"

    def database(self, fields: Mapping[str, Any]) -> str:
        """Return the profile's database. dbt-postgres accepts `dbname` as an alias of `database`."""
        return str(fields.get("database") or fields.get("dbname") or "")

    def location(self, settings: Settings) -> str:
        """Return a line with the database. The profile that it names has the server."""
        return f"The database: {settings.profile.database} of {settings.profile.where}"

    def bucketed(self, relation: str, time: str, bins: Bins) -> str:
        """Return a query with `width_bucket`. PostgreSQL computes the epoch of a timestamp without a zone in UTC."""
        dates = f"case when pg_typeof({time})::text = 'date' then {DATE_OFFSET} else 0 end"
        borders = ", ".join(map(str, bins.borders))
        bucket = f"width_bucket(extract(epoch from {time})::float8 + {dates}, array[{borders}]::float8[])"
        return f"select *, {bucket} as lakehouse_bucket from {relation} where {bins.near(time)}"  # noqa: S608
