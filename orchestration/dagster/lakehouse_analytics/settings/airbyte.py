"""Settings of the connection to Airbyte."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from lakehouse_analytics.common.environment import PREFIX, split
from lakehouse_analytics.contract.base import Duration

AirbyteAuth = Literal["none", "client_credentials", "bearer", "basic"]


class AirbyteSettings(BaseModel):
    """The part of `Settings` about Airbyte."""

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

    _airbyte_lists = field_validator("airbyte_workspaces", "airbyte_include", "airbyte_exclude", mode="before")(split)

    @field_validator("airbyte_url")
    @classmethod
    def _base_of_api(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value is None:
            return None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("expected a URL such as https://api.airbyte.com/v1")
        if parts.username or parts.password:
            raise ValueError("do not put credentials in the URL: set LAKEHOUSE_AIRBYTE_USER and _PASSWORD")
        return value.rstrip("/")

    @cached_property
    def airbyte_auth(self) -> AirbyteAuth:
        """The authentication method that the settings select."""
        if self.airbyte_client_id:
            return "client_credentials"
        return "bearer" if self.airbyte_token else "basic" if self.airbyte_user else "none"

    def airbyte_problems(self) -> list[str]:
        """Return one message per variable whose value does not fit the other settings for logging in to Airbyte."""
        problems = []
        for one, other in (("airbyte_client_id", "airbyte_client_secret"), ("airbyte_user", "airbyte_password")):
            if bool(getattr(self, one)) != bool(getattr(self, other)):
                missing = other if getattr(self, one) else one
                both = f"{PREFIX}{one.upper()} and {PREFIX}{other.upper()}"
                problems.append(f"{PREFIX}{missing.upper()}: not set; set both {both}")
        ways = [name for name in ("airbyte_client_id", "airbyte_token", "airbyte_user") if getattr(self, name)]
        if len(ways) > 1:
            named = ", ".join(f"{PREFIX}{name.upper()}" for name in ways)
            problems.append(f"{named}: set only one of them, because they are alternative ways to log in to Airbyte")
        if ways and not self.airbyte_url:
            problems.append(f"{PREFIX}AIRBYTE_URL: not set, although {PREFIX}{ways[0].upper()} is")
        return problems
