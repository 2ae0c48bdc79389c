"""How to connect to a Trino coordinator. The settings make it, the resource and the client extend it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TrinoConnection(BaseModel):
    """A coordinator, the user and the patience; each field is the setting `trino_<field>`.

    The types are those of Dagster's config, because the resource has these fields. No field is a secret.

    Attributes:
        auth: An `AuthMethod`.
        ca_bundle, client_certificate, client_key: Absolute paths.
        session_properties: In force for every query.
        request_timeout: Seconds to wait for one HTTP response.
        start_timeout: Seconds to wait for a server that is down or starting.
        queue_timeout: Seconds to try again while the queue of the resource group is full.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    port: int = 8080
    http_scheme: str = "http"
    user: str
    catalog: str
    auth: str = "none"
    ca_bundle: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    session_properties: dict[str, str] = Field(default_factory=dict)
    request_timeout: float = 30.0
    start_timeout: float = 120.0
    queue_timeout: float = 1800.0

    @property
    def address(self) -> str:
        """Where the coordinator listens."""
        return f"{self.http_scheme}://{self.host}:{self.port}"
