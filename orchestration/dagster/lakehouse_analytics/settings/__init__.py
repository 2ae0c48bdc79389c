"""The environment, typed. Every variable of this code location is a field of `Settings` or of a class it extends.

`.env.example` documents the same variables; a test holds the two equal.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lakehouse_analytics.common.cron import is_cron
from lakehouse_analytics.common.environment import PREFIX, SettingsError, absolute, repository_root, variable
from lakehouse_analytics.common.names import joined
from lakehouse_analytics.common.redact import MASK
from lakehouse_analytics.common.text import MAX_TEXT, brief, did_you_mean, shortened
from lakehouse_analytics.contract.models import Duration
from lakehouse_analytics.dbt import profile as dbt_profile
from lakehouse_analytics.dbt.profile import Profile, ProfileError
from lakehouse_analytics.engines.duckdb.settings import DuckDBSettings
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.postgres.settings import PostgresSettings
from lakehouse_analytics.engines.registry import ENGINES
from lakehouse_analytics.engines.trino.settings import LOG_INS, AuthMethod, TrinoSettings
from lakehouse_analytics.settings.airbyte import AirbyteAuth, AirbyteSettings
from lakehouse_analytics.settings.notifications import NotificationSettings

__all__ = [
    "ENVIRONMENTS",
    "LOG_INS",
    "PREFIX",
    "AirbyteAuth",
    "AuthMethod",
    "Settings",
    "SettingsError",
    "repository_root",
]

ENVIRONMENTS = ("local", "trino", "prod")

Environment = Literal["local", "trino", "prod"]
#: Targets that an environment prefers, where the profile has them and LAKEHOUSE_ENGINE is not set.
_TARGETS: Mapping[Environment, tuple[str, ...]] = {"local": ("local",), "trino": ("trino",), "prod": ("trino", "prod")}


class Settings(DuckDBSettings, TrinoSettings, PostgresSettings, AirbyteSettings, NotificationSettings, BaseSettings):
    """Typed environment with defaults for one machine.

    Raises:
        SettingsError: from `load()`, naming every variable that is missing or wrong.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    env: Environment = Field(
        "local",
        description="Environment: `local` (one machine) or `prod` (nothing by default). `trino` means `local` with "
        "LAKEHOUSE_ENGINE=trino.",
    )
    engine: str | None = Field(
        None,
        description="Engine: `duckdb`, `trino` or `postgres`. Default: the type of dbt's target; of the targets in the "
        "profile, `local` and `prod` prefer those for DuckDB and Trino.",
    )
    timezone: str = Field(
        "UTC", description="Time zone of schedules and partitions (an IANA name such as Europe/Berlin)."
    )
    hourly_refresh_cron: str = Field("10 * * * *", description="Cron schedule of `hourly_refresh`.")
    daily_refresh_cron: str = Field("0 2 * * *", description="Cron schedule of `daily_refresh`.")
    weekly_refresh_cron: str = Field("0 4 * * 1", description="Cron schedule of `weekly_refresh`.")
    monthly_refresh_cron: str = Field("0 5 1 * *", description="Cron schedule of `monthly_refresh`.")
    partition_end_offset: int = Field(
        0, ge=0, le=1, description="Set `1` to allow the current hour, day, week or month to be built before it ends."
    )
    catch_up: int = Field(
        7, ge=1, le=1000, description="Maximum number of missed partitions to build after downtime of the daemon."
    )
    after_deadline: Duration = Field(
        timedelta(hours=4), description="How long a schedule waits for its sources before it sends an alert (90m, 4h)."
    )
    max_partitions_per_run: int | None = Field(
        None,
        ge=1,
        description="Maximum number of partitions per run of a backfill. Default: all consecutive partitions in one "
        "run.",
    )

    dbt_project_dir: Path = Field(
        default_factory=lambda: repository_root() / "dbt", description="Folder of the dbt project."
    )
    dbt_profiles_dir: Path | None = Field(
        None,
        description="Folder of `profiles.yml`. Default: dbt's own (DBT_PROFILES_DIR, the project's folder, ~/.dbt).",
    )
    dbt_target: str | None = Field(
        None,
        description="Target in `profiles.yml`. Default: the one that LAKEHOUSE_ENV names (`local`, `trino`), then "
        "DBT_TARGET, then `target:`.",
    )
    dbt_vars: Annotated[dict[str, Any], NoDecode] = Field(
        default_factory=dict, description="Variables for dbt, as in `--vars`: a YAML or JSON mapping."
    )
    dbt_target_path: Path | None = Field(
        None, description="Folder of the manifest. Default: `target/<target>` in the dbt project."
    )
    strict: bool = Field(
        False,
        description="Set `true` to refuse models that readers could see half-written, and the like, instead of "
        "warning of them.",
    )

    dbt_threads: int | None = Field(
        None, ge=1, description="Number of dbt's threads. Default: 4 on Trino, 2 on DuckDB."
    )

    connectors_dir: Path = Field(
        default_factory=lambda: repository_root() / ".connectors",
        description="Folder in which `lakehouse ingest` installs Airbyte connectors, each in its own environment.",
    )

    iceberg_catalog: str | None = Field(
        None,
        description="Name of the same catalog in pyiceberg's configuration (PYICEBERG_CATALOG__<NAME>__*). Makes row "
        "counts faster.",
    )
    iceberg_row_counts: Literal["metadata", "query"] = Field(
        "metadata",
        description="Source of row counts: `metadata` (Iceberg's, where it is exact) or `query`. Set `query` if "
        "Trino filters rows for its user.",
    )
    max_runtime: int = Field(
        21_600, ge=60, description="Maximum duration of a run in seconds. Tokens must be valid for longer."
    )
    maintenance_cron: str = Field(
        "30 4 * * *", description="Cron schedule of `iceberg_maintenance`, which maintains the Iceberg tables."
    )
    maintenance_floor: Duration = Field(
        timedelta(days=1),
        description="Minimum retention of snapshots (30m, 26h, 7d). A table's contract cannot go below it.",
    )

    @field_validator("dbt_vars", mode="before")
    @classmethod
    def _mapping(cls, value: object) -> object:
        try:
            loaded = yaml.safe_load(value) if isinstance(value, str) else value
        except yaml.YAMLError:
            loaded = None
        if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
            raise ValueError('expected a YAML or JSON mapping with names as keys, such as {"start_date": "2026-01-01"}')
        return dict(loaded)

    _paths = field_validator("dbt_project_dir", "dbt_profiles_dir", "dbt_target_path", "connectors_dir")(absolute)

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str | None) -> str | None:
        if value is not None and value not in ENGINES:
            raise ValueError(f"expected one of: {', '.join(ENGINES)}")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            hint = did_you_mean(value, available_timezones())
            raise ValueError(f"{shortened(value)} is not an IANA time zone (for example Europe/Berlin){hint}")
        return value

    @field_validator(
        "hourly_refresh_cron", "daily_refresh_cron", "weekly_refresh_cron", "monthly_refresh_cron", "maintenance_cron"
    )
    @classmethod
    def _valid_cron(cls, value: str) -> str:
        if not is_cron(value):
            raise ValueError(f"{shortened(value)} is not a cron expression (for example '0 2 * * *')")
        return value

    @classmethod
    def load(cls, *, complete: bool = True) -> Settings:
        """Read the environment.

        Args:
            complete: Whether everything that a run needs must be set. The build of an image only reads the dbt project,
                and knows neither Trino's address nor any password or certificate.

        Raises:
            SettingsError: naming every variable that is missing, wrong or unknown, at once.
        """
        problems = [problem for name in sorted(os.environ) if (problem := _misspelt(name))]
        wrong: set[str] = set()
        try:
            settings = cls()
        except ValidationError as error:
            wrong = {str(item["loc"][0]) for item in error.errors()}
            # With defaults in their place, what is missing can be reported at the same time.
            defaults = {name: cls.model_fields[name].get_default(call_default_factory=True) for name in wrong}
            settings = cls(**defaults)
            for item in sorted(error.errors(include_url=False, include_input=False), key=lambda item: str(item["loc"])):
                # By hand for the one variable that decides what the rest must be.
                expected = f"expected one of: {', '.join(ENVIRONMENTS)}" if item["loc"][0] == "env" else ""
                message = expected or item["msg"].removeprefix("Value error, ")
                problems.append(f"{PREFIX}{str(item['loc'][0]).upper()}: {message}")
        # A variable that is wrong has its line already.
        missing = settings._missing(complete=complete)
        problems += [p for p in missing if p.split(":")[0].removeprefix(PREFIX).lower() not in wrong]
        if not problems:
            settings, problems = settings._with_profile()
        if problems:
            raise SettingsError("The environment is not usable:\n" + "\n".join(f"  {p}" for p in problems))
        return settings

    def _with_profile(self) -> tuple[Settings, list[str]]:
        """These settings with what dbt's profile says in place of our defaults, and where the two contradict.

        A profile that cannot be read is no problem here, because not every command needs one: `DbtProject` reports it.
        """
        try:
            profile = self.profile
        except ProfileError:
            return self, []
        problems, found = [], {}
        if problem := self._other_engine(profile):
            return self, [problem]
        engine = profile.engine
        try:
            theirs = engine.settings_of(profile)
            if not any(getattr(self, name) for name in LOG_INS):
                theirs |= engine.log_in_of(profile)
        except ProfileError as error:
            return self, [str(error)]
        for name, value in theirs.items():
            if name not in self.model_fields_set:
                found[name] = value
            elif name in engine.same_as_profile and not _same(getattr(self, name), value):
                secret = any(map(dbt_profile.is_secret, profile.variables(*engine.same_as_profile[name])))
                ours, other = brief(getattr(self, name), MAX_TEXT), MASK if secret else brief(value, MAX_TEXT)
                problems.append(
                    f"{variable(name)}: is {ours}, but {profile.where} has {other}; dbt would build in one database, "
                    "and rows would be counted in another. Unset the variable, or let the profile read it: "
                    f"{{{{ env_var('{variable(name)}') }}}}"
                )
        chosen = self.model_copy(update=found) if found else self
        if chosen.trino_http_scheme == "http" and any(name in LOG_INS for name in found):
            problems.append(f"{PREFIX}TRINO_HTTP_SCHEME: must be https, because {profile.where} logs in to Trino")
        chosen.__dict__["profile"] = profile  # of this environment, whatever the next one is
        return chosen, problems

    def _other_engine(self, profile: Profile) -> str | None:
        """What is wrong where the target in force is of another engine than the environment says."""
        way_out = f"name a target of type {{}} in {PREFIX}DBT_TARGET"
        if self.env == "trino" and self.engine not in (None, "trino"):
            return f"{PREFIX}ENGINE: is {self.engine}, but {PREFIX}ENV=trino means trino; set {PREFIX}ENV=local or prod"
        wanted = self.engine or ("trino" if self.env == "trino" else None)
        if wanted and profile.adapter != wanted:
            said = f"{PREFIX}ENGINE: is {wanted}" if self.engine else f"{PREFIX}ENV: {self.env} runs on Trino"
            return f"{said}, but {profile.where} has type {profile.adapter}; {way_out.format(wanted)}"
        if not wanted and self.env == "prod" and not profile.engine.concurrent_writers:
            servers = joined([name for name, engine in ENGINES.items() if engine.concurrent_writers], "or")
            return (
                f"{PREFIX}ENV: prod runs on a server, but {profile.where} has type {profile.adapter}; "
                f"{way_out.format(servers)}, or set {PREFIX}ENGINE={profile.adapter} if one machine is meant"
            )
        return None

    def named_by_profile(self) -> set[str]:
        """Names of the engine's settings that dbt's profile has, and not from our own variables."""
        try:
            engine = self.profile.engine
            found = engine.settings_of(self.profile)
        except ProfileError:
            return set()
        fields = {**engine.same_as_profile, "trino_user": ("user",)}
        return {
            name
            for name in found.keys() & fields.keys()
            if f"{PREFIX}{name.upper()}" not in self.profile.variables(*fields[name])
        }

    def _missing(self, *, complete: bool = True) -> list[str]:
        if not complete:
            return []
        required = [*self.engine_type.required_in_prod, "timezone"] if self.env == "prod" else []
        if required:
            named = self.named_by_profile()
            required = [name for name in required if name not in named]
        wanted = dict.fromkeys(required, f"LAKEHOUSE_ENV={self.env}")
        if "slack" in self.notify:
            wanted["slack_webhook_url"] = "LAKEHOUSE_NOTIFY has slack"
        if "smtp" in self.notify:
            wanted |= dict.fromkeys(("smtp_host", "smtp_from", "smtp_to"), "LAKEHOUSE_NOTIFY has smtp")
        missing = [
            f"{PREFIX}{name.upper()}: not set, needed because {why} ({type(self).model_fields[name].description})"
            for name, why in wanted.items()
            if name not in self.model_fields_set or not getattr(self, name)
        ]
        return missing + self.trino_problems() + self.airbyte_problems()

    @cached_property
    def profile(self) -> Profile:
        """dbt's profile in force.

        Raises:
            ProfileError: it cannot be used.
        """
        place = dbt_profile.find(self.dbt_project_dir, self.dbt_profiles_dir, os.environ)
        ours = self.dbt_environment()
        explicit = {f"{PREFIX}{name.upper()}" for name in self.model_fields_set}
        # Empty means unset for our own variables, and paths are absolute.
        environment = {name: value for name, value in os.environ.items() if value or not name.startswith(PREFIX)}
        environment |= {name: value for name, value in ours.items() if name in explicit}
        return dbt_profile.read(self.dbt_project_dir, place, self._request(), environment, ours)

    def _request(self) -> dbt_profile.Request:
        preferred = _TARGETS[self.env] if "env" in self.model_fields_set else ()
        if self.engine:
            preferred = (self.engine, ENGINES[self.engine].local_target, *(["prod"] if self.env == "prod" else []))
        return dbt_profile.Request(self.dbt_target, preferred, os.getenv("DBT_TARGET"), self.dbt_vars)

    def dbt_environment(self) -> dict[str, str]:
        """Variables that dbt gets beside the process's own, defaults included, for `profiles.yml` to read.

        Without secrets, which dbt inherits: what a resource is made of is shown in Dagster's UI.
        """
        values = {
            "DUCKDB_PATH": self.duckdb_path,
            "TIMEZONE": self.timezone,
            "DBT_THREADS": self.dbt_threads,
            "TRINO_HOST": self.trino_host,
            "TRINO_PORT": self.trino_port,
            "TRINO_HTTP_SCHEME": self.trino_http_scheme,
            "TRINO_USER": self.trino_user,
            "TRINO_CATALOG": self.trino_catalog,
            "TRINO_CLIENT_CERTIFICATE": self.trino_client_certificate,
            "TRINO_CLIENT_KEY": self.trino_client_key,
            "TRINO_CA_BUNDLE": self.trino_ca_bundle,
            "TRINO_SESSION_PROPERTIES": json.dumps(self.trino_session_properties),
        }
        return {f"{PREFIX}{name}": str(value) for name, value in values.items() if value is not None}

    @cached_property
    def engine_type(self) -> EngineType:
        """The engine: as the type of dbt's target says, else as LAKEHOUSE_ENGINE and LAKEHOUSE_ENV do."""
        try:
            return self.profile.engine
        except ProfileError:
            return ENGINES[self.engine or ("duckdb" if self.env == "local" else "trino")]

    @cached_property
    def target(self) -> str:
        """The dbt target in force."""
        try:
            return self.profile.target
        except ProfileError:
            return self.dbt_target or self.engine_type.local_target

    @cached_property
    def profiles_dir(self) -> Path:
        """The folder of `profiles.yml` in force."""
        return dbt_profile.find(self.dbt_project_dir, self.dbt_profiles_dir, os.environ).folder

    @cached_property
    def target_path(self) -> Path:
        """The folder of this target's manifest. One a target: a manifest bakes in the database."""
        return self.dbt_target_path or self.dbt_project_dir / "target" / self.target


def _same(ours: object, theirs: object) -> bool:
    if isinstance(ours, Path):
        return ours.resolve() == Path(str(theirs)).resolve()
    return str(ours).lower() == str(theirs).lower()


def _misspelt(variable: str) -> str | None:
    # Only near misses: other LAKEHOUSE_* variables may be a dbt project's own.
    names = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    if not variable.startswith(PREFIX) or variable in names:
        return None
    near = difflib.get_close_matches(variable, names, n=1, cutoff=0.88)
    return f"{variable}: no such setting; did you mean {near[0]}?" if near else None
