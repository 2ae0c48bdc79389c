"""Trino with Iceberg tables. Its dbt adapter is dbt-trino."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.environment import PREFIX
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.partition_bins import DATE_OFFSET, Bins
from lakehouse_analytics.engines.trino.settings import LOG_INS

if TYPE_CHECKING:
    from lakehouse_analytics.dbt.lint.findings import Finding
    from lakehouse_analytics.dbt.nodes import Manifest
    from lakehouse_analytics.dbt.profile import Profile
    from lakehouse_analytics.settings import Settings


class Trino(EngineType):
    """The type of engine for a Trino cluster with Iceberg tables."""

    name = "trino"
    title = "Trino"
    naming_fields = ("database", "catalog", "schema")
    connection_fields = (
        "host", "port", "http_scheme", "user", "method", "password", "jwt_token", "client_certificate",
        "client_private_key", "cert",
    )  # fmt: skip
    same_as_profile = {  # noqa: RUF012
        "trino_host": ("host",),
        "trino_port": ("port",),
        "trino_catalog": ("database", "catalog"),
    }
    also_in_profile = {"trino_user": ("user",)}  # noqa: RUF012
    dbt_settings = (
        "trino_host", "trino_port", "trino_http_scheme", "trino_user", "trino_catalog", "trino_client_certificate",
        "trino_client_key", "trino_ca_bundle", "trino_session_properties",
    )  # fmt: skip
    own_expressions = {  # noqa: RUF012
        "port": {f"{PREFIX}TRINO_PORT"},
        "method": {f"{PREFIX}{name.upper()}" for name in LOG_INS},
        "cert": {f"{PREFIX}TRINO_CA_BUNDLE"},
    }
    log_in_settings = tuple(LOG_INS)
    required_in_prod = ("trino_host", "trino_user", "trino_catalog")
    local_target = "trino"
    iceberg = True
    raw_tables = "iceberg"

    def database(self, fields: Mapping[str, Any]) -> str:
        """Return the profile's catalog."""
        return str(fields.get("database") or fields.get("catalog") or "")

    def settings_of(self, profile: Profile) -> dict[str, Any]:
        """Return the profile's address, user and catalog, by setting."""
        from lakehouse_analytics.engines.trino.profile import connection_of

        return connection_of(profile)

    def log_in_of(self, profile: Profile) -> dict[str, Any]:
        """Return the profile's password, token or certificate, by setting.

        Raises:
            ProfileError: Rows cannot be counted with the profile's authentication method.
        """
        from lakehouse_analytics.engines.trino.profile import log_in_of

        return log_in_of(profile)

    def problems_of(self, settings: Settings, found: Mapping[str, Any], where: str) -> list[str]:
        """Return a message if the profile logs in over HTTP: logging in requires HTTPS."""
        if settings.trino_http_scheme == "http" and not LOG_INS.keys().isdisjoint(found):
            return [f"{PREFIX}TRINO_HTTP_SCHEME: must be https, because {where} logs in to Trino"]
        return []

    def process_environment(self, settings: Settings) -> dict[str, str]:
        """Return REQUESTS_CA_BUNDLE, because a value that the machine sets would override the profile's `cert`."""
        return {"REQUESTS_CA_BUNDLE": str(settings.trino_ca_bundle)} if settings.trino_ca_bundle else {}

    def location(self, settings: Settings) -> str:
        """Return a line with the catalog, the coordinator and the URL of the UI."""
        server = f"{settings.trino_http_scheme}://{settings.trino_host}:{settings.trino_port}"
        queries = f"  (queries: {settings.trino_ui_url}/ui/)" if settings.trino_ui_url else ""
        return f"The catalog: {settings.trino_catalog} on {server}{queries}"

    def bucketed(self, relation: str, time: str, bins: Bins) -> str:
        """Return a query with `width_bucket`."""
        seconds = (
            f"case when typeof({time}) = 'date' then {DATE_OFFSET} + 86400e0 * date_diff('day', date '1970-01-01', "
            f"cast({time} as date)) when typeof({time}) like '%with time zone' "
            f"then to_unixtime(cast({time} as timestamp(6) with time zone)) "
            f"else to_unixtime(with_timezone(cast({time} as timestamp(6)), 'UTC')) end"
        )
        borders = ", ".join(f"{border}e0" for border in bins.borders)
        bucket = f"width_bucket({seconds}, array[{borders}])"
        return f"select *, {bucket} as lakehouse_bucket from {relation} where {bins.near(time)}"  # noqa: S608

    def lint(self, manifest: Manifest) -> list[Finding]:
        """Return findings about settings with which a build is more than one commit, because each statement is one."""
        from lakehouse_analytics.engines.trino.atomic_write_lint import lint

        return lint(manifest)
