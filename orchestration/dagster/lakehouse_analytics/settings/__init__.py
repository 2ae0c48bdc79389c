"""The settings of the code location. Every environment variable is a field of `Settings` or of one of its base classes.

`.env.example` documents the same variables. A test compares the two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lakehouse_analytics.common.environment import (
    CONNECTION_PREFIX,
    PREFIX,
    SettingsError,
    absolute,
    repository_root,
    variable,
)
from lakehouse_analytics.common.text import did_you_mean
from lakehouse_analytics.common.validation import reason
from lakehouse_analytics.dbt import profile as dbt_profile
from lakehouse_analytics.dbt.profile import Profile, ProfileError
from lakehouse_analytics.engines.duckdb.settings import DuckDBSettings
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.postgres.settings import PostgresSettings
from lakehouse_analytics.engines.registry import ENGINES
from lakehouse_analytics.engines.trino.settings import LOG_INS, AuthMethod, TrinoSettings
from lakehouse_analytics.settings.against_profile import named_by_profile, with_profile
from lakehouse_analytics.settings.airbyte import AirbyteAuth, AirbyteSettings
from lakehouse_analytics.settings.arrivals import ArrivalSettings
from lakehouse_analytics.settings.dbt import DbtSettings
from lakehouse_analytics.settings.iceberg import IcebergSettings
from lakehouse_analytics.settings.notifications import NotificationSettings
from lakehouse_analytics.settings.schedules import ScheduleSettings
from lakehouse_analytics.settings.webhook import WebhookSettings

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
#: The preferred targets of each environment, if the profile has them and LAKEHOUSE_ENGINE is not set.
_TARGETS: Mapping[Environment, tuple[str, ...]] = {"local": ("local",), "trino": ("trino",), "prod": ("trino", "prod")}


class Settings(
    ScheduleSettings,
    DbtSettings,
    IcebergSettings,
    DuckDBSettings,
    TrinoSettings,
    PostgresSettings,
    AirbyteSettings,
    ArrivalSettings,
    WebhookSettings,
    NotificationSettings,
    BaseSettings,
):
    """The settings, with defaults for one machine. `load()` reads and validates them."""

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
    connectors_dir: Path = Field(
        default_factory=lambda: repository_root() / ".connectors",
        description="Folder in which `lakehouse ingest` installs Airbyte connectors, each in its own environment.",
    )

    max_runtime: int = Field(
        21_600, ge=60, description="Maximum duration of a run in seconds. Tokens must be valid for longer."
    )
    _paths = field_validator("connectors_dir")(absolute)

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str | None) -> str | None:
        if value is not None and value not in ENGINES:
            raise ValueError(f"expected one of: {', '.join(ENGINES)}")
        return value

    @classmethod
    def load(cls, *, complete: bool = True) -> Settings:
        """Read the settings from the environment.

        Args:
            complete: Whether everything that a run needs must be set. The build of an image only reads the dbt project,
                and has neither Trino's address nor passwords or certificates.

        Raises:
            SettingsError: Variables are missing, wrong or unknown. The message names all of them.
        """
        problems = [problem for name in sorted(os.environ) if (problem := _misspelt(name))]
        wrong: set[str] = set()
        try:
            settings = cls()
        except ValidationError as error:
            wrong = {str(item["loc"][0]) for item in error.errors()}
            # Replacing wrong values with defaults makes it possible to report missing variables at the same time.
            defaults = {name: cls.model_fields[name].get_default(call_default_factory=True) for name in wrong}
            settings = cls(**defaults)
            for item in sorted(error.errors(include_url=False, include_input=False), key=lambda item: str(item["loc"])):
                # LAKEHOUSE_ENV determines which other variables are required, so its message lists the values.
                expected = f"expected one of: {', '.join(ENVIRONMENTS)}" if item["loc"][0] == "env" else ""
                problems.append(f"{PREFIX}{str(item['loc'][0]).upper()}: {expected or reason(item)}")
        # The message has a line for each wrong variable already.
        missing = settings._missing(complete=complete)
        problems += [p for p in missing if p.split(":")[0].removeprefix(PREFIX).lower() not in wrong]
        if not problems:
            settings, problems = with_profile(settings)
        if problems:
            raise SettingsError("The environment is not usable:\n" + "\n".join(f"  {p}" for p in problems))
        return settings

    def _missing(self, *, complete: bool = True) -> list[str]:
        if not complete:
            return []
        required = [*self.engine_type.required_in_prod, "timezone"] if self.env == "prod" else []
        if required:
            named = named_by_profile(self)
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
        return missing + self.trino_problems() + self.airbyte_problems() + self._publish_problems()

    def _publish_problems(self) -> list[str]:
        if self.publish != "run":
            return []
        if not self.engine_type.iceberg:
            title = self.engine_type.title
            return [f"{PREFIX}PUBLISH=run: needs Iceberg tables, which the engine {title} does not have; unset it"]
        if not self.iceberg_catalog:
            return [f"{PREFIX}ICEBERG_CATALOG: not set, needed because {PREFIX}PUBLISH=run"]
        return []

    @cached_property
    def profile(self) -> Profile:
        """The rendered dbt profile.

        Raises:
            ProfileError: The profile cannot be used.
        """
        place = dbt_profile.find(self.dbt_project_dir, self.dbt_profiles_dir, os.environ)
        ours = self.dbt_environment()
        explicit = {f"{PREFIX}{name.upper()}" for name in self.model_fields_set}
        # Empty values of our own variables count as unset, and their paths are absolute.
        environment = {name: value for name, value in os.environ.items() if value or not name.startswith(PREFIX)}
        environment |= {name: value for name, value in ours.items() if name in explicit}
        return dbt_profile.read(self.dbt_project_dir, place, self._request(), environment, ours)

    def _request(self) -> dbt_profile.Request:
        preferred = _TARGETS[self.env] if "env" in self.model_fields_set else ()
        if self.engine:
            preferred = (self.engine, ENGINES[self.engine].local_target, *(["prod"] if self.env == "prod" else []))
        return dbt_profile.Request(self.dbt_target, preferred, os.getenv("DBT_TARGET"), self.dbt_vars)

    def dbt_environment(self) -> dict[str, str]:
        """Return variables for `profiles.yml` that dbt gets in addition to the process's own, including defaults.

        Secrets are not among them, because Dagster's UI shows the configuration of resources. dbt inherits secrets.
        """
        names = ["timezone", "dbt_threads", *(name for engine in ENGINES.values() for name in engine.dbt_settings)]
        values = {name: getattr(self, name) for name in names}
        return {
            variable(name): json.dumps(value) if isinstance(value, dict) else str(value)
            for name, value in values.items()
            if value is not None
        }

    @cached_property
    def engine_type(self) -> EngineType:
        """The engine of dbt's target; if the profile cannot be used, that of LAKEHOUSE_ENGINE or LAKEHOUSE_ENV."""
        try:
            return self.profile.engine
        except ProfileError:
            return ENGINES[self.engine or ("duckdb" if self.env == "local" else "trino")]

    @cached_property
    def target(self) -> str:
        """The name of the dbt target."""
        try:
            return self.profile.target
        except ProfileError:
            return self.dbt_target or self.engine_type.local_target

    @cached_property
    def profiles_dir(self) -> Path:
        """The folder of the `profiles.yml` that dbt reads."""
        return dbt_profile.find(self.dbt_project_dir, self.dbt_profiles_dir, os.environ).folder

    @cached_property
    def target_path(self) -> Path:
        """The folder of the manifest. Each target has its own, because a manifest contains the names of databases."""
        return self.dbt_target_path or self.dbt_project_dir / "target" / self.target


def _misspelt(variable: str) -> str | None:
    # Other LAKEHOUSE_* variables may belong to the dbt project, so only similar names are reported.
    names = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    if not variable.startswith(PREFIX) or variable.startswith(CONNECTION_PREFIX) or variable in names:
        return None
    near = did_you_mean(variable, names, cutoff=0.88)
    return f"{variable}: no such setting{near}" if near else None
