"""Creates the Airbyte client from the settings."""

from urllib.parse import urlsplit

from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteServer

CLOUD_API, CLOUD_UI = "api.airbyte.com", "https://cloud.airbyte.com"


def airbyte_of(settings: Settings) -> Airbyte | None:
    """Return the client; None if LAKEHOUSE_AIRBYTE_URL is not set. Does not send requests."""
    if settings.airbyte_url is None:
        return None
    secret = settings.airbyte_client_secret or settings.airbyte_token or settings.airbyte_password
    return Airbyte(
        AirbyteServer(
            url=settings.airbyte_url,
            auth=settings.airbyte_auth,
            user=settings.airbyte_client_id or settings.airbyte_user or "",
            secret=secret,
            workspaces=settings.airbyte_workspaces,
            timeout=settings.airbyte_timeout,
        )
    )


def ui_of(settings: Settings) -> str:
    """Return the base URL of Airbyte's UI: LAKEHOUSE_AIRBYTE_UI_URL, else that of Airbyte Cloud or the API's host."""
    if settings.airbyte_ui_url:
        return settings.airbyte_ui_url.rstrip("/")
    parts = urlsplit(settings.airbyte_url or "")
    return CLOUD_UI if parts.hostname == CLOUD_API else f"{parts.scheme}://{parts.netloc}"
