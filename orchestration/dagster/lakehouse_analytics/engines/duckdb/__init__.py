"""DuckDB, the embedded engine. Its dbt adapter is dbt-duckdb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.partition_bins import DATE_OFFSET, Bins

if TYPE_CHECKING:
    from lakehouse_analytics.dbt.profile import Profile
    from lakehouse_analytics.settings import Settings

#: The pool that dbt and checks share: DuckDB allows only one writer at a time.
DUCKDB_POOL = "duckdb"


class DuckDB(EngineType):
    """The type of engine for a DuckDB file, which only one process at a time can write."""

    name = "duckdb"
    title = "DuckDB"
    naming_fields = ("path", "database", "schema", "attach")
    connection_fields = ("extensions",)
    same_as_profile = {"duckdb_path": ("path",)}  # noqa: RUF012
    dbt_settings = ("duckdb_path",)
    local_target = "local"
    pool = DUCKDB_POOL
    raw_tables = "duckdb_file"
    queries_outlive_client = False

    def database(self, fields: Mapping[str, Any]) -> str:
        """Return the profile's database, or the first part of the file's name.

        dbt-duckdb derives the name in the same way: https://github.com/duckdb/dbt-duckdb
        (`DuckDBCredentials.path_derived_database_name`).
        """
        return str(fields.get("database") or database_of(str(fields.get("path") or ":memory:")))

    def local_file(self, fields: Mapping[str, Any]) -> str | None:
        """Return the path of the file; None if the database is in memory or on a server, such as MotherDuck's."""
        path = str(fields.get("path") or ":memory:")
        return None if path == ":memory:" or len(urlsplit(path).scheme) > 1 else path

    def attached(self, fields: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Return the databases of the profile's `attach`, by alias."""
        found = {}
        for item in fields.get("attach") or ():
            if isinstance(item, Mapping) and item.get("path"):
                found[str(item.get("alias") or database_of(str(item["path"])))] = item
        return found

    def settings_of(self, profile: Profile) -> dict[str, Any]:
        """Return the profile's file, by setting."""
        return {"duckdb_path": profile.database_file}

    def location(self, settings: Settings) -> str:
        """Return a line with the path of the file."""
        return f"The database: {settings.duckdb_path}"

    def bucketed(self, relation: str, time: str, bins: Bins) -> str:
        """Return a query with a hash join over `Bins.step`, because an `asof join` would sort the table."""
        first, step = bins.borders[0], bins.step
        since = (
            f"epoch_us({time}) + case when typeof({time}) = 'DATE' then {DATE_OFFSET}000000 else 0 end - {first}000000"
        )
        places = [(border - first) // step for border in bins.borders]
        gap = len(bins.keys)  # between times and dates
        lows, highs, numbers = (
            [value for place, value in enumerate(values) if place != gap]
            for values in (places[:-1], places[1:], [*range(1, len(places))])
        )
        return (
            "select stored.*, windows.lakehouse_bucket from "  # noqa: S608
            f"(select *, {since} as lakehouse_since from {relation} where {bins.near(time)}) as stored join ("
            "select lakehouse_bucket, unnest(range(low, high)) as place from (select "
            f"unnest({lows}) as low, unnest({highs}) as high, unnest({numbers}) as lakehouse_bucket)) as windows "
            f"on stored.lakehouse_since // {step}000000 = windows.place where stored.lakehouse_since >= 0"
        )


def database_of(path: str) -> str:
    """Return the name of a file's database in DuckDB and dbt-duckdb: the file's name up to its first dot."""
    return "memory" if path == ":memory:" else Path(path).name.lstrip(".").split(".")[0]
