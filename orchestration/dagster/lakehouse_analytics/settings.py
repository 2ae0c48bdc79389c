"""The environment, typed. Every variable this code location reads is a field here.

`.env.example` documents the same variables; a test holds the two equal.
"""

from __future__ import annotations

import difflib
import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lakehouse_analytics.cron import is_cron

PREFIX = "LAKEHOUSE_"
ENVIRONMENTS = ("local", "prod")
#: Without a default that is right in production: each must be set when LAKEHOUSE_ENV=prod.
REQUIRED_IN_PROD = ("trino_host", "trino_user", "trino_catalog", "timezone")

Environment = Literal["local", "prod"]
Target = Literal["local", "trino"]


class SettingsError(ValueError):
    """The environment is wrong. The message lists every variable at fault, never its value."""


def repository_root() -> Path:
    """The checkout (or image folder) that holds `dbt/`: the nearest parent that has one."""
    here = Path(__file__).resolve()
    for parent in here.parents:
        if (parent / "dbt" / "dbt_project.yml").is_file():
            return parent
    return Path.cwd()


class Settings(BaseSettings):
    """Typed environment with defaults for one machine.

    Raises:
        SettingsError: from `load()`, naming every variable that is missing or wrong.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    env: Environment = Field("local", description="`local` (embedded DuckDB) or `prod` (Trino).")
    timezone: str = Field("UTC", description="IANA zone of schedules and partitions.")
    daily_refresh_cron: str = Field("0 2 * * *", description="Cron of the `daily_refresh` schedule.")

    dbt_project_dir: Path = Field(
        default_factory=lambda: repository_root() / "dbt", description="The dbt project to load."
    )
    dbt_profiles_dir: Path | None = Field(None, description="Folder of `profiles.yml`; default: the dbt project.")
    dbt_target: str | None = Field(
        None, description="Target in `profiles.yml`; default: `local`, or `trino` when LAKEHOUSE_ENV=prod."
    )
    dbt_target_path: Path | None = Field(
        None, description="Folder of the manifest; default: `target/<target>` in the dbt project."
    )

    duckdb_path: Path = Field(
        default_factory=lambda: repository_root() / ".data" / "lakehouse.duckdb",
        description="The embedded lakehouse: one DuckDB file.",
    )
    duckdb_lock_timeout: float = Field(
        60.0, ge=0, description="Seconds to wait for a DuckDB file that another process holds."
    )

    connectors_dir: Path = Field(
        default_factory=lambda: repository_root() / ".connectors",
        description="Where `lakehouse ingest` keeps the isolated environments of Airbyte connectors.",
    )

    trino_host: str | None = Field(None, description="Trino coordinator.")
    trino_port: int = Field(8080, ge=1, le=65535, description="Trino port.")
    trino_user: str | None = Field(None, description="Trino user.")
    trino_password: SecretStr | None = Field(None, description="Trino password; HTTPS only.")
    trino_catalog: str | None = Field(None, description="Iceberg catalog in Trino.")
    trino_http_scheme: Literal["http", "https"] = Field("http", description="`https` as soon as a password is set.")

    notify: Annotated[tuple[Literal["log", "slack", "smtp"], ...], NoDecode] = Field(
        ("log",), description="Who hears of a failed run: comma-separated `log`, `slack`, `smtp`."
    )
    slack_webhook_url: SecretStr | None = Field(None, description="Slack incoming webhook; needed by `slack`.")
    smtp_host: str | None = Field(None, description="Mail server; needed by `smtp`.")
    smtp_port: int = Field(587, ge=1, le=65535, description="Mail server's port.")
    smtp_starttls: bool = Field(True, description="Encrypt the mail connection.")
    smtp_user: str | None = Field(None, description="Mail user; no log-in when unset.")
    smtp_password: SecretStr | None = Field(None, description="Mail password.")
    smtp_from: str | None = Field(None, description="Sender; needed by `smtp`.")
    smtp_to: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Receivers, comma-separated; needed by `smtp`."
    )
    webserver_url: str = Field("http://localhost:3000", description="Base of the links in notifications.")

    @field_validator("notify", "smtp_to", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("dbt_project_dir", "dbt_profiles_dir", "dbt_target_path", "duckdb_path", "connectors_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # One meaning in every process, whatever folder it was started in.
        return value and repository_root() / value.expanduser()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            near = difflib.get_close_matches(value, available_timezones(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{value!r} is not an IANA time zone (for example Europe/Berlin){hint}")
        return value

    @field_validator("daily_refresh_cron")
    @classmethod
    def _valid_cron(cls, value: str) -> str:
        if not is_cron(value):
            raise ValueError(f"{value!r} is not a cron expression (for example '0 2 * * *')")
        return value

    @classmethod
    def load(cls) -> Settings:
        """Read the environment.

        Raises:
            SettingsError: naming every variable that is missing, wrong or unknown, at once.
        """
        problems = [problem for name in sorted(os.environ) if (problem := _misspelt(name))]
        try:
            settings = cls()
        except ValidationError as error:
            wrong = {str(item["loc"][0]) for item in error.errors()}
            # With defaults in their place, what is missing can be told in the same breath.
            defaults = {name: cls.model_fields[name].get_default(call_default_factory=True) for name in wrong}
            settings = cls(**defaults)
            for item in error.errors(include_url=False, include_input=False):
                # By hand for the one variable that decides what the rest must be.
                expected = f"expected one of: {', '.join(ENVIRONMENTS)}" if item["loc"][0] == "env" else ""
                message = expected or item["msg"].removeprefix("Value error, ")
                problems.append(f"{PREFIX}{str(item['loc'][0]).upper()}: {message}")
        problems += settings._missing()
        if problems:
            raise SettingsError("The environment is not usable:\n" + "\n".join(f"  {p}" for p in problems))
        return settings

    def _missing(self) -> list[str]:
        wanted = {name: f"LAKEHOUSE_ENV={self.env}" for name in REQUIRED_IN_PROD if self.env == "prod"}
        if "slack" in self.notify:
            wanted["slack_webhook_url"] = "LAKEHOUSE_NOTIFY has slack"
        if "smtp" in self.notify:
            wanted |= dict.fromkeys(("smtp_host", "smtp_from", "smtp_to"), "LAKEHOUSE_NOTIFY has smtp")
        missing = [
            f"{PREFIX}{name.upper()}: not set, needed because {why} ({type(self).model_fields[name].description})"
            for name, why in wanted.items()
            if name not in self.model_fields_set or not getattr(self, name)
        ]
        if self.trino_password and self.trino_http_scheme == "http":
            missing.append("LAKEHOUSE_TRINO_HTTP_SCHEME: must be https, because LAKEHOUSE_TRINO_PASSWORD is set")
        return missing

    @cached_property
    def target(self) -> str:
        """The dbt target in force."""
        return self.dbt_target or ("trino" if self.env == "prod" else "local")

    @cached_property
    def profiles_dir(self) -> Path:
        """The folder of `profiles.yml` in force."""
        return self.dbt_profiles_dir or self.dbt_project_dir

    @cached_property
    def target_path(self) -> Path:
        """The folder of this target's manifest. One a target: a manifest bakes in the database."""
        return self.dbt_target_path or self.dbt_project_dir / "target" / self.target


def _misspelt(variable: str) -> str | None:
    # Only near misses: other LAKEHOUSE_* variables may be a dbt project's own, or Kubernetes' service links.
    names = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    if not variable.startswith(PREFIX) or variable in names:
        return None
    near = difflib.get_close_matches(variable, names, n=1, cutoff=0.88)
    return f"{variable}: no such setting; did you mean {near[0]}?" if near else None
