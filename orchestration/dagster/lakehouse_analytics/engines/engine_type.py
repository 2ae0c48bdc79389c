"""The facts about a kind of database that the code location needs before it connects.

This module imports neither Dagster nor dbt nor a database client, because reading the dbt profile and the manifest
needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from lakehouse_analytics.dbt.lint.findings import Finding
    from lakehouse_analytics.dbt.nodes import Manifest
    from lakehouse_analytics.dbt.profile import Profile
    from lakehouse_analytics.engines.base import Engine
    from lakehouse_analytics.engines.partition_bins import Bins
    from lakehouse_analytics.settings import Settings


class EngineType:
    """A kind of database. Each folder of `engines/` has a subclass, and `registry.py` an instance of it.

    The defaults are right for a database server that speaks standard SQL and replaces a table in one transaction.
    """

    #: dbt's name of the adapter, as in `type:` of profiles.yml.
    name: ClassVar[str]
    #: The name in messages.
    title: ClassVar[str]

    #: Fields of a target that name databases and schemas. An error in one of them is an error of the profile.
    naming_fields: ClassVar[Sequence[str]] = ("database", "schema")
    #: Fields of a target that say how to connect. They may be unknown when the manifest is created in an image's build.
    connection_fields: ClassVar[Sequence[str]] = ()
    #: Settings that name the database, each with the fields of the profile that have the same meaning. The two must
    #: agree.
    same_as_profile: ClassVar[Mapping[str, Sequence[str]]] = {}
    #: Like `same_as_profile`, for settings that may differ from the profile. The settings take precedence.
    also_in_profile: ClassVar[Mapping[str, Sequence[str]]] = {}
    #: Settings that dbt gets as variables, for `profiles.yml` to read. Secrets are not among them: dbt inherits those.
    dbt_settings: ClassVar[Sequence[str]] = ()
    #: Fields of this repository's own profile whose Jinja reads only these variables. They have the values of the
    #: settings and need not be rendered.
    own_expressions: ClassVar[Mapping[str, Set[str]]] = {}
    #: Settings that select how to log in. If none is set, the profile does.
    log_in_settings: ClassVar[Sequence[str]] = ()
    #: Settings whose defaults are not suitable for production: required if LAKEHOUSE_ENV is `prod`.
    required_in_prod: ClassVar[Sequence[str]] = ()
    #: Name of the target for local development.
    local_target: ClassVar[str]

    #: Concurrency pool of everything that writes, with one slot. None if several runs can write at once; then each
    #: table has its own lock (`locks/`).
    pool: ClassVar[str | None] = None
    #: Whether the tables are Iceberg tables, which `maintenance/` maintains.
    iceberg: ClassVar[bool] = False
    #: Whether dbt drops the views that read a table when it replaces the table.
    drops_views: ClassVar[bool] = False
    #: Where `lakehouse ingest` writes raw tables; None if it cannot.
    raw_tables: ClassVar[Literal["duckdb_file", "iceberg"] | None] = None
    #: Whether queries can outlive the process that sent them. The run id in their comment identifies them.
    queries_outlive_client: ClassVar[bool] = True

    @property
    def concurrent_writers(self) -> bool:
        """Whether several runs can write at once."""
        return self.pool is None

    @property
    def sql_dialect(self) -> str:
        """sqlglot's name of the dialect of SQL, which analyzes compiled models."""
        return self.name

    def resource(self, settings: Settings) -> Engine:
        """Return the resource `engine`.

        The function `of` in the `resource.py` of the engine's folder creates it, and may import database clients.

        Args:
            settings: The complete settings.
        """
        resource: Engine = resolve_name(f"{type(self).__module__}.resource:of")(settings)
        return resource

    def database(self, fields: Mapping[str, Any]) -> str:
        """Return the database of models that do not name one, as the dbt adapter derives it.

        Args:
            fields: The fields of the rendered target.
        """
        return str(fields.get("database") or "")

    def local_file(self, fields: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Return the profile's path of the local file with the tables; None if there is no such file."""
        return None

    def attached(self, fields: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:  # noqa: ARG002
        """Return the databases that the adapter attaches in addition to its own, by alias."""
        return {}

    def settings_of(self, profile: Profile) -> dict[str, Any]:  # noqa: ARG002
        """Return the profile's values for the connection, by the setting with the same meaning."""
        return {}

    def log_in_of(self, profile: Profile) -> dict[str, Any]:  # noqa: ARG002
        """Return the profile's credentials, by setting.

        Raises:
            ProfileError: Rows cannot be counted with the profile's authentication method.
        """
        return {}

    def problems_of(self, settings: Settings, found: Mapping[str, Any], where: str) -> list[str]:  # noqa: ARG002
        """Return one message per variable that does not fit the values from the profile.

        Args:
            settings: The settings, completed with the profile's values.
            found: The values that come from the profile, by setting.
            where: The profile, for messages.
        """
        return []

    def process_environment(self, settings: Settings) -> dict[str, str]:  # noqa: ARG002
        """Return environment variables of the dbt process that `profiles.yml` does not read."""
        return {}

    def location(self, settings: Settings) -> str:
        """Return a description of where the tables are, in one or more lines."""
        raise NotImplementedError

    def bucketed(self, relation: str, time: str, bins: Bins) -> str:
        """Return a query of all columns of a table and `lakehouse_bucket`, the number of the row's bin.

        Args:
            relation: The quoted table.
            time: The quoted column with the event time: a date or a timestamp. A timestamp without a time zone is UTC.
            bins: The bins. They are numbered from 1 (`Bins.key`). Rows outside all bins may be missing.
        """
        raise NotImplementedError

    def lint(self, manifest: Manifest) -> list[Finding]:  # noqa: ARG002
        """Return findings about settings of a dbt project that let readers see a half-written table."""
        return []
