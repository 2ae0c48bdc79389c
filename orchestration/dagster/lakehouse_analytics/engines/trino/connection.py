"""The connection to a Trino coordinator. The settings create it; the resource and the client extend it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TrinoConnection(BaseModel):
    """The address of a coordinator, the user, and timeouts. Each field is the setting `trino_<field>`.

    The types are those of Dagster's config, because they are fields of the resource. None of them is a secret.

    Attributes:
        auth: An `AuthMethod`.
        ca_bundle, client_certificate, client_key: Absolute paths.
        session_properties: Set for every query.
        request_timeout: Seconds to wait for an HTTP response.
        start_timeout: Seconds to wait for a server that is down or starting.
        queue_timeout: Seconds to retry while the queue of the resource group is full.
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
        """The base URL of the coordinator."""
        return f"{self.http_scheme}://{self.host}:{self.port}"
