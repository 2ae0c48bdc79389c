"""What the code location has to know of a kind of database before it connects to one.

Imports no Dagster, no dbt and no database client: the dbt profile and the manifest are read with it.
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
    """One kind of database. Each folder of `engines/` has a subclass, and `registry.py` an instance of it.

    The defaults are those of a database server that speaks standard SQL and replaces a table in one transaction.
    """

    #: dbt's name of the adapter, as in `type:` of profiles.yml.
    name: ClassVar[str]
    #: The name that messages use.
    title: ClassVar[str]

    #: Fields of a target that name databases and schemas; an error in one of them is an error of the profile.
    naming_fields: ClassVar[Sequence[str]] = ("database", "schema")
    #: Fields of a target that say how to connect. They may be unknown where the manifest is made: in an image's build.
    connection_fields: ClassVar[Sequence[str]] = ()
    #: Settings that name the database, with the fields of the profile that hold the same: the two must agree.
    same_as_profile: ClassVar[Mapping[str, Sequence[str]]] = {}
    #: As `same_as_profile`, of settings that may differ: those of the environment count.
    also_in_profile: ClassVar[Mapping[str, Sequence[str]]] = {}
    #: Settings that dbt gets as variables, for `profiles.yml` to read. Never a secret: dbt inherits those.
    dbt_settings: ClassVar[Sequence[str]] = ()
    #: Fields of this repository's own profile whose Jinja reads nothing but these variables: they say what settings
    #: say, and need not be rendered.
    own_expressions: ClassVar[Mapping[str, Set[str]]] = {}
    #: Settings of which one says how to log in. Where none is set, the profile does.
    log_in_settings: ClassVar[Sequence[str]] = ()
    #: Settings without a default that is right in production: required where LAKEHOUSE_ENV is `prod`.
    required_in_prod: ClassVar[Sequence[str]] = ()
    #: Name of a target that this engine is developed with.
    local_target: ClassVar[str]

    #: Concurrency pool of all that writes, with one slot; None where several runs can write at once. Then each table is
    #: locked on its own (`locks.py`).
    pool: ClassVar[str | None] = None
    #: Whether the tables are Iceberg tables, which `maintenance/` maintains.
    iceberg: ClassVar[bool] = False
    #: Where `lakehouse ingest` writes raw tables; None where it cannot.
    raw_tables: ClassVar[Literal["duckdb_file", "iceberg"] | None] = None
    #: Whether queries outlive the process that sent them, and are found by the run's id in their comment.
    queries_outlive_client: ClassVar[bool] = True

    @property
    def concurrent_writers(self) -> bool:
        """Whether several runs can write at once."""
        return self.pool is None

    def resource(self, settings: Settings) -> Engine:
        """The resource `engine`: the function `of` in the folder's `resource.py`, which may import clients.

        Args:
            settings: The environment, complete.
        """
        made: Engine = resolve_name(f"{type(self).__module__}.resource:of")(settings)
        return made

    def database(self, fields: Mapping[str, Any]) -> str:
        """The database of a model that names none, as the dbt adapter derives it.

        Args:
            fields: Of the rendered target.
        """
        return str(fields.get("database") or "")

    def local_file(self, fields: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Path of the local file that holds the tables, as the profile has it; None where there is none."""
        return None

    def attached(self, fields: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:  # noqa: ARG002
        """Databases that the adapter attaches beside its own, by alias."""
        return {}

    def settings_of(self, profile: Profile) -> dict[str, Any]:  # noqa: ARG002
        """What the profile says of the connection, by the setting that means the same."""
        return {}

    def log_in_of(self, profile: Profile) -> dict[str, Any]:  # noqa: ARG002
        """How the profile logs in, by setting.

        Raises:
            ProfileError: in a way that rows cannot be counted with.
        """
        return {}

    def problems_of(self, settings: Settings, found: Mapping[str, Any], where: str) -> list[str]:  # noqa: ARG002
        """What is wrong with settings that the profile has completed, each by variable.

        Args:
            settings: The settings.
            found: Those of them that are the profile's.
            where: The profile, for messages.
        """
        return []

    def process_environment(self, settings: Settings) -> dict[str, str]:  # noqa: ARG002
        """Variables of the dbt process that are not for `profiles.yml`."""
        return {}

    def location(self, settings: Settings) -> str:
        """Where the tables are, for people: one line, or several."""
        raise NotImplementedError

    def bucketed(self, relation: str, time: str, bins: Bins) -> str:
        """A query of all columns of a table and `lakehouse_bucket`, the number of the interval between two borders.

        Args:
            relation: The table, quoted.
            time: The column with the rows' own time, quoted: a date or a timestamp. A moment without a zone is UTC.
            bins: The borders. Intervals are counted from 1 (`Bins.key`); rows outside may be left out.
        """
        raise NotImplementedError

    def lint(self, manifest: Manifest) -> list[Finding]:  # noqa: ARG002
        """Settings of a dbt project that let readers see a half-written table."""
        return []
