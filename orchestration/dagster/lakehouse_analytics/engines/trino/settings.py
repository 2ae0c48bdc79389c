"""Settings of Trino."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from lakehouse_analytics.common.environment import PREFIX, absolute
from lakehouse_analytics.common.text import MAX_TEXT, brief
from lakehouse_analytics.engines.trino.connection import TrinoConnection

AuthMethod = Literal["none", "password", "jwt", "certificate"]

#: Authentication methods, by the setting that selects them.
LOG_INS: Mapping[str, AuthMethod] = {
    "trino_password": "password",
    "trino_jwt": "jwt",
    "trino_client_certificate": "certificate",
}


class TrinoSettings(BaseModel):
    """The part of `Settings` about Trino."""

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

    _trino_paths = field_validator("trino_client_certificate", "trino_client_key", "trino_ca_bundle")(absolute)

    @field_validator("trino_session_properties", mode="before")
    @classmethod
    def _json(cls, value: object) -> object:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError('expected a JSON object such as {"query_max_run_time": "1h"}') from None

    @cached_property
    def trino_auth(self) -> AuthMethod:
        """The authentication method that the settings select."""
        return next((method for name, method in LOG_INS.items() if getattr(self, name)), "none")

    @property
    def trino_connection(self) -> TrinoConnection:
        """The connection to Trino without the secrets."""
        values = {name: getattr(self, f"trino_{name}") for name in TrinoConnection.model_fields}
        return TrinoConnection(**{name: str(one) if isinstance(one, Path) else one for name, one in values.items()})

    def trino_problems(self) -> list[str]:
        """Return one message per variable whose value does not fit the other settings for logging in to Trino."""
        problems = []
        log_ins = [name for name in LOG_INS if getattr(self, name)]
        if len(log_ins) > 1:
            named = ", ".join(f"{PREFIX}{name.upper()}" for name in log_ins)
            problems.append(f"{named}: set only one of them, because they are alternative ways to log in to Trino")
        if log_ins and self.trino_http_scheme == "http":
            problems.append(f"LAKEHOUSE_TRINO_HTTP_SCHEME: must be https, because {PREFIX}{log_ins[0].upper()} is set")
        if bool(self.trino_client_certificate) != bool(self.trino_client_key):
            missing = "trino_client_key" if self.trino_client_certificate else "trino_client_certificate"
            problems.append(f"{PREFIX}{missing.upper()}: not set; set both the client certificate and its key")
        for name in ("trino_ca_bundle", "trino_client_certificate", "trino_client_key"):
            path = getattr(self, name)
            if path and not os.access(path, os.R_OK):
                problems.append(f"{PREFIX}{name.upper()}: {brief(path, MAX_TEXT)} does not exist or cannot be read")
        return problems
