"""Settings of notifications."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from lakehouse_analytics.common.environment import split
from lakehouse_analytics.common.mail import is_mail_address
from lakehouse_analytics.common.text import shortened


class NotificationSettings(BaseModel):
    """The part of `Settings` about notifications."""

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

    _notification_lists = field_validator("notify", "smtp_to", mode="before")(split)

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
        # The URL itself is the secret, so the message must not contain it.
        parts = urlsplit(value.get_secret_value()) if value else None
        if parts and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("expected a URL such as https://hooks.slack.com/services/…")
        return value
