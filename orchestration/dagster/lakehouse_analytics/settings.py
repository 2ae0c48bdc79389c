"""The environment, typed. Every variable this code location reads is a field here.

`.env.example` documents the same variables; a test holds the two equal.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lakehouse_analytics.common.cron import is_cron
from lakehouse_analytics.common.mail import is_mail_address
from lakehouse_analytics.common.paths import problem_of
from lakehouse_analytics.common.redact import MASK
from lakehouse_analytics.common.text import MAX_TEXT, brief, did_you_mean, shortened
from lakehouse_analytics.contract.models import Duration
from lakehouse_analytics.dbt import profile as dbt_profile
from lakehouse_analytics.dbt.profile import Profile, ProfileError

PREFIX = "LAKEHOUSE_"
ENVIRONMENTS = ("local", "trino", "prod")
#: Without a default that is right in production: each must be set when LAKEHOUSE_ENV=prod.
REQUIRED_IN_PROD = ("trino_host", "trino_user", "trino_catalog", "timezone")

Environment = Literal["local", "trino", "prod"]
AuthMethod = Literal["none", "password", "jwt", "certificate"]
AirbyteAuth = Literal["none", "client_credentials", "bearer", "basic"]


#: Targets that an environment prefers, where the profile has them.
_TARGETS: Mapping[Environment, tuple[str, ...]] = {"local": ("local",), "trino": ("trino",), "prod": ("trino", "prod")}
#: Settings that name the database: dbt's profile must not have another value than they have.
#: With the fields of the profile that hold the same.
_ONE_DATABASE: Mapping[str, tuple[str, ...]] = {
    "duckdb_path": ("path",),
    "trino_host": ("host",),
    "trino_port": ("port",),
    "trino_catalog": ("database", "catalog"),
}
#: Ways to log in to Trino, by the setting that asks for one.
LOG_INS: Mapping[str, AuthMethod] = {
    "trino_password": "password",
    "trino_jwt": "jwt",
    "trino_client_certificate": "certificate",
}


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

    env: Environment = Field(
        "local",
        description="Environment: `local` (embedded DuckDB), `trino` (the local stack's Trino by default) or `prod` "
        "(Trino, nothing by default).",
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

    duckdb_path: Path = Field(
        default_factory=lambda: repository_root() / ".data" / "lakehouse.duckdb",
        description="File of the embedded DuckDB. Default: the file in dbt's profile.",
    )
    duckdb_lock_timeout: float = Field(
        60.0, ge=0, description="Seconds to wait for a DuckDB file that another process has locked."
    )

    connectors_dir: Path = Field(
        default_factory=lambda: repository_root() / ".connectors",
        description="Folder in which `lakehouse ingest` installs Airbyte connectors, each in its own environment.",
    )

    trino_host: str = Field(
        "localhost", description="Host of the Trino coordinator. Default: the host in dbt's profile."
    )
    trino_port: int = Field(8080, ge=1, le=65535, description="Port of the Trino coordinator.")
    trino_http_scheme: Literal["http", "https"] = Field(
        "http", description="Protocol of the Trino coordinator. Every kind of authentication needs `https`."
    )
    trino_user: str = Field("lakehouse", description="User name in Trino.")
    trino_catalog: str = Field("lakehouse", description="Name of the Iceberg catalog in Trino.")
    trino_password: SecretStr | None = Field(None, description="Password of the Trino user (password file or LDAP).")
    trino_jwt: SecretStr | None = Field(None, description="JSON Web Token, instead of a password.")
    trino_client_certificate: Path | None = Field(
        None, description="Client certificate (PEM), instead of a password. Needs LAKEHOUSE_TRINO_CLIENT_KEY."
    )
    trino_client_key: Path | None = Field(None, description="Private key (PEM) of the client certificate.")
    trino_ca_bundle: Path | None = Field(
        None,
        description="Certificates (PEM) of a private certificate authority. Default: the certificates of the system.",
    )
    trino_session_properties: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, description="Session properties for all queries, as a JSON object of strings."
    )
    trino_request_timeout: float = Field(30.0, gt=0, description="Timeout of one HTTP request to Trino, in seconds.")
    trino_start_timeout: float = Field(120.0, ge=0, description="Seconds to wait for a Trino that is down or starting.")
    trino_queue_timeout: float = Field(
        1800.0, ge=0, description="Seconds to retry statements while the queue of the resource group is full."
    )
    trino_ui_url: str | None = Field(
        None, description="Base URL of Trino's UI, for links to queries. Default: the coordinator's URL."
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

    airbyte_url: str | None = Field(
        None,
        description="Base URL of Airbyte's public API, such as https://api.airbyte.com/v1 or "
        "https://airbyte.example.com/api/public/v1. Default: no connection to Airbyte.",
    )
    airbyte_client_id: str | None = Field(
        None, description="Client id of an Airbyte application. Needs LAKEHOUSE_AIRBYTE_CLIENT_SECRET."
    )
    airbyte_client_secret: SecretStr | None = Field(None, description="Client secret of the Airbyte application.")
    airbyte_token: SecretStr | None = Field(
        None, description="Access token that does not expire, instead of an application."
    )
    airbyte_user: str | None = Field(None, description="User name for an Airbyte with basic authentication.")
    airbyte_password: SecretStr | None = Field(None, description="Password for an Airbyte with basic authentication.")
    airbyte_workspaces: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Workspace ids to monitor, comma-separated. Default: all workspaces that the account can see."
    )
    airbyte_include: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Connections to monitor, comma-separated: ids, exact names or tag:<name>. Default: all."
    )
    airbyte_exclude: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Connections to ignore, in the same format. Takes precedence over LAKEHOUSE_AIRBYTE_INCLUDE."
    )
    airbyte_interval: int = Field(30, ge=1, description="Minimum interval between two polls of Airbyte, in seconds.")
    airbyte_lookback: Duration = Field(
        timedelta(0), description="How far back the sensor's first tick looks for syncs that have ended (30m, 26h, 7d)."
    )
    airbyte_overlap: Duration = Field(
        timedelta(minutes=5), description="Polling overlap, for syncs whose end Airbyte reports late (30m, 26h, 7d)."
    )
    airbyte_timeout: float = Field(10.0, gt=0, description="Timeout of one request to Airbyte, in seconds.")
    airbyte_ui_url: str | None = Field(
        None,
        description="Base URL of Airbyte's UI, for links to syncs. Default: https://cloud.airbyte.com, or the host "
        "of the API.",
    )

    notify: Annotated[tuple[Literal["log", "slack", "smtp"], ...], NoDecode] = Field(
        ("log",), description="Notification channels, comma-separated: `log`, `slack`, `smtp`."
    )
    slack_webhook_url: SecretStr | None = Field(
        None, description="URL of a Slack incoming webhook. Required for `slack`."
    )
    smtp_host: str | None = Field(None, description="Host of the mail server. Required for `smtp`.")
    smtp_port: int = Field(587, ge=1, le=65535, description="Port of the mail server.")
    smtp_starttls: bool = Field(True, description="Encrypt the connection to the mail server (STARTTLS).")
    smtp_user: str | None = Field(None, description="User name on the mail server. Default: no authentication.")
    smtp_password: SecretStr | None = Field(None, description="Password on the mail server.")
    smtp_from: str | None = Field(None, description="Address of the sender. Required for `smtp`.")
    smtp_to: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Addresses of the recipients, comma-separated. Required for `smtp`."
    )
    webserver_url: str = Field(
        "http://localhost:3000", description="Base URL of the Dagster UI, for links in notifications."
    )

    @field_validator("notify", "smtp_to", "airbyte_workspaces", "airbyte_include", "airbyte_exclude", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        if not parts:
            raise ValueError("expected at least one name; several are separated by commas")
        return parts

    @field_validator("smtp_from", "smtp_to")
    @classmethod
    def _mail_addresses(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for address in (value,) if isinstance(value, str) else value or ():
            if not is_mail_address(address):
                raise ValueError(f"expected an address such as data@example.com, but found {shortened(address)}")
        return value

    @field_validator("smtp_host")
    @classmethod
    def _host(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"[^:]+:[0-9]+", value):
            raise ValueError("expected the name of a host; set the port in LAKEHOUSE_SMTP_PORT")
        if value is not None and not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*::?[0-9A-Fa-f:.]+", value):
            raise ValueError(f"expected the name of a host, but found {shortened(value)}")
        return value

    @field_validator("slack_webhook_url")
    @classmethod
    def _webhook(cls, value: SecretStr | None) -> SecretStr | None:
        # The whole URL is the secret.
        parts = urlsplit(value.get_secret_value()) if value else None
        if parts and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("expected a URL such as https://hooks.slack.com/services/…")
        return value

    @field_validator("trino_session_properties", mode="before")
    @classmethod
    def _json(cls, value: object) -> object:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError('expected a JSON object such as {"query_max_run_time": "1h"}') from None

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

    @field_validator(
        "dbt_project_dir", "dbt_profiles_dir", "dbt_target_path", "duckdb_path", "connectors_dir",
        "trino_client_certificate", "trino_client_key", "trino_ca_bundle",
    )  # fmt: skip
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # One meaning in every process, whatever folder it was started in.
        if value is None:
            return None
        try:
            path = repository_root() / value.expanduser()
        except RuntimeError:
            raise ValueError(f"expected a path, but found {shortened(str(value))}: no such user's home") from None
        if problem := problem_of(path):
            raise ValueError(f"expected a path, but found {shortened(str(value))}: {problem}")
        return path

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

    @field_validator("airbyte_url")
    @classmethod
    def _base_of_api(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value is None:
            return None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("expected a URL such as https://api.airbyte.com/v1")
        if parts.username or parts.password:
            raise ValueError("a log-in does not belong into the URL: set LAKEHOUSE_AIRBYTE_USER and _PASSWORD")
        return value.rstrip("/")

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
            # With defaults in their place, what is missing can be told in the same breath.
            defaults = {name: cls.model_fields[name].get_default(call_default_factory=True) for name in wrong}
            settings = cls(**defaults)
            for item in error.errors(include_url=False, include_input=False):
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
        if profile.adapter == "duckdb" and self.env != "local":
            return self, [
                f"{PREFIX}ENV: {self.env} runs on Trino, but {profile.where} has type duckdb; name a target of type "
                f"trino in {PREFIX}DBT_TARGET"
            ]
        try:
            theirs = _connection(profile)
            if profile.adapter == "trino" and not any(getattr(self, name) for name in LOG_INS):
                theirs |= _log_in(profile)
        except ProfileError as error:
            return self, [str(error)]
        for name, value in theirs.items():
            if name not in self.model_fields_set:
                found[name] = value
            elif name in _ONE_DATABASE and not _same(getattr(self, name), value):
                variable = f"{PREFIX}{name.upper()}"
                secret = any(map(dbt_profile.is_secret, profile.variables(*_ONE_DATABASE[name])))
                ours, other = brief(getattr(self, name), MAX_TEXT), MASK if secret else brief(value, MAX_TEXT)
                problems.append(
                    f"{variable}: is {ours}, but {profile.where} has {other}; dbt would build in one database, and "
                    "rows would be counted in another. Unset the variable, or let the profile read it: "
                    f"{{{{ env_var('{variable}') }}}}"
                )
        chosen = self.model_copy(update=found) if found else self
        if chosen.trino_http_scheme == "http" and any(name in LOG_INS for name in found):
            problems.append(f"{PREFIX}TRINO_HTTP_SCHEME: must be https, because {profile.where} logs in to Trino")
        chosen.__dict__["profile"] = profile  # of this environment, whatever the next one is
        return chosen, problems

    def named_by_profile(self) -> set[str]:
        """Names of the settings of Trino that dbt's profile has, and not from our own variables."""
        try:
            found = _connection(self.profile) if self.profile.adapter == "trino" else {}
        except ProfileError:
            return set()
        fields = {**_ONE_DATABASE, "trino_user": ("user",)}
        return {
            name
            for name in found.keys() & fields.keys()
            if f"{PREFIX}{name.upper()}" not in self.profile.variables(*fields[name])
        }

    def _missing(self, *, complete: bool = True) -> list[str]:
        if not complete:
            return []
        required = [*REQUIRED_IN_PROD] if self.env == "prod" else []
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
        return missing + self._wrong_log_in() + self._wrong_airbyte()

    def _wrong_airbyte(self) -> list[str]:
        problems = []
        for one, other in (("airbyte_client_id", "airbyte_client_secret"), ("airbyte_user", "airbyte_password")):
            if bool(getattr(self, one)) != bool(getattr(self, other)):
                lacking = other if getattr(self, one) else one
                both = f"{PREFIX}{one.upper()} and {PREFIX}{other.upper()}"
                problems.append(f"{PREFIX}{lacking.upper()}: not set; {both} belong together")
        ways = [name for name in ("airbyte_client_id", "airbyte_token", "airbyte_user") if getattr(self, name)]
        if len(ways) > 1:
            named = ", ".join(f"{PREFIX}{name.upper()}" for name in ways)
            problems.append(f"{named}: one way to log in to Airbyte is enough; unset the others")
        if ways and not self.airbyte_url:
            problems.append(f"{PREFIX}AIRBYTE_URL: not set, although {PREFIX}{ways[0].upper()} is")
        return problems

    def _wrong_log_in(self) -> list[str]:
        problems = []
        log_ins = [name for name in LOG_INS if getattr(self, name)]
        if len(log_ins) > 1:
            named = ", ".join(f"{PREFIX}{name.upper()}" for name in log_ins)
            problems.append(f"{named}: one way to log in to Trino is enough; unset the others")
        if log_ins and self.trino_http_scheme == "http":
            problems.append(f"LAKEHOUSE_TRINO_HTTP_SCHEME: must be https, because {PREFIX}{log_ins[0].upper()} is set")
        if bool(self.trino_client_certificate) != bool(self.trino_client_key):
            lacking = "trino_client_key" if self.trino_client_certificate else "trino_client_certificate"
            problems.append(f"{PREFIX}{lacking.upper()}: not set; a certificate and its key belong together")
        for name in ("trino_ca_bundle", "trino_client_certificate", "trino_client_key"):
            path = getattr(self, name)
            if path and not os.access(path, os.R_OK):
                problems.append(f"{PREFIX}{name.upper()}: {brief(path, MAX_TEXT)} does not exist or cannot be read")
        return problems

    @cached_property
    def trino_auth(self) -> AuthMethod:
        """How Trino is told who we are."""
        return next((method for name, method in LOG_INS.items() if getattr(self, name)), "none")

    @cached_property
    def airbyte_auth(self) -> AirbyteAuth:
        """How Airbyte is told who we are."""
        if self.airbyte_client_id:
            return "client_credentials"
        return "bearer" if self.airbyte_token else "basic" if self.airbyte_user else "none"

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
    def on_trino(self) -> bool:
        """Whether the engine is Trino: as the type of dbt's target says, else as LAKEHOUSE_ENV does."""
        try:
            return self.profile.adapter == "trino"
        except ProfileError:
            return self.env != "local"

    @cached_property
    def target(self) -> str:
        """The dbt target in force."""
        try:
            return self.profile.target
        except ProfileError:
            return self.dbt_target or ("trino" if self.env != "local" else "local")

    @cached_property
    def profiles_dir(self) -> Path:
        """The folder of `profiles.yml` in force."""
        return dbt_profile.find(self.dbt_project_dir, self.dbt_profiles_dir, os.environ).folder

    @cached_property
    def target_path(self) -> Path:
        """The folder of this target's manifest. One a target: a manifest bakes in the database."""
        return self.dbt_target_path or self.dbt_project_dir / "target" / self.target


def _connection(profile: Profile) -> dict[str, Any]:
    """What the profile says of the connection, by the setting that means the same; unusable values are left out."""
    if profile.adapter == "duckdb":
        return {"duckdb_path": profile.database_file}
    fields = profile.fields
    text = {
        "trino_host": fields.get("host"),
        "trino_user": fields.get("user"),
        "trino_catalog": profile.database,
        "trino_http_scheme": fields.get("http_scheme"),
    }
    found: dict[str, Any] = {name: str(value) for name, value in text.items() if value}
    if found.get("trino_http_scheme", "http") not in ("http", "https"):
        del found["trino_http_scheme"]
    if re.fullmatch("[0-9]{1,5}", str(fields.get("port", ""))):
        found["trino_port"] = int(fields["port"])
    return found


def _log_in(profile: Profile) -> dict[str, Any]:
    """How the profile logs in to Trino, by setting; nothing where it does so by our own variables."""
    fields, method = profile.fields, str(profile.fields.get("method") or "none")
    found: dict[str, Any] = {}
    if isinstance(fields.get("cert"), str) and fields["cert"]:
        found["trino_ca_bundle"] = profile.project_dir / fields["cert"]
    if method == "none":
        return found
    if method == "ldap" and fields.get("password"):
        found["trino_password"] = SecretStr(str(fields["password"]))
    elif method == "jwt" and fields.get("jwt_token"):
        found["trino_jwt"] = SecretStr(str(fields["jwt_token"]))
    elif method == "certificate" and fields.get("client_certificate") and fields.get("client_private_key"):
        found["trino_client_certificate"] = profile.project_dir / str(fields["client_certificate"])
        found["trino_client_key"] = profile.project_dir / str(fields["client_private_key"])
    elif method not in ("ldap", "jwt", "certificate"):
        raise ProfileError(
            f"{profile.where} logs in to Trino by `method: {brief(method)}`, and rows can only be counted with ldap, "
            f"jwt, certificate or none: use one of them, or set {PREFIX}TRINO_PASSWORD or {PREFIX}TRINO_JWT beside it."
        )
    return found | {"trino_http_scheme": "https"}


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
