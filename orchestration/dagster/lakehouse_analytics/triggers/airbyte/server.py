"""The address of an Airbyte server, and the credentials for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import SecretStr

from lakehouse_analytics.settings import AirbyteAuth

_VARIABLES: dict[AirbyteAuth, str] = {
    "client_credentials": "check LAKEHOUSE_AIRBYTE_CLIENT_ID and LAKEHOUSE_AIRBYTE_CLIENT_SECRET",
    "bearer": "check LAKEHOUSE_AIRBYTE_TOKEN",
    "basic": "check LAKEHOUSE_AIRBYTE_USER and LAKEHOUSE_AIRBYTE_PASSWORD",
    "none": "set LAKEHOUSE_AIRBYTE_CLIENT_ID and LAKEHOUSE_AIRBYTE_CLIENT_SECRET if it requires authentication",
}


@dataclass(frozen=True)
class AirbyteServer:
    """An Airbyte server.

    Attributes:
        url: Base URL of its public API, such as `https://api.airbyte.com/v1` or
            `https://airbyte.example.com/api/public/v1`.
        auth: How to authenticate.
        user: Client id or user name, depending on `auth`.
        secret: Client secret, token or password, depending on `auth`.
        workspaces: Ids of the workspaces to read; if empty, all that the credentials have access to.
        timeout: Seconds to wait for a response.
    """

    url: str
    auth: AirbyteAuth = "none"
    user: str = ""
    secret: SecretStr | None = field(default=None, repr=False)
    workspaces: tuple[str, ...] = ()
    timeout: float = 10.0

    def url_of(self, path: str) -> str:
        """Return the URL of a path of the API."""
        return f"{self.url.rstrip('/')}{path}"

    @property
    def secret_value(self) -> str:
        """The secret in clear text; empty if there is none."""
        return self.secret.get_secret_value() if self.secret else ""

    @property
    def credentials_advice(self) -> str:
        """The variables to check if the server rejects the credentials."""
        return _VARIABLES[self.auth]
