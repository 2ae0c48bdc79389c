"""Airbyte's public API as the settings describe it."""

from urllib.parse import urlsplit

from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteServer

CLOUD_API, CLOUD = "api.airbyte.com", "https://cloud.airbyte.com"


def airbyte_of(settings: Settings) -> Airbyte | None:
    """The client; None where no Airbyte is named. Nothing is asked yet."""
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
    """Where Airbyte's own UI most likely is."""
    parts = urlsplit(settings.airbyte_url or "")
    return CLOUD if parts.hostname == CLOUD_API else f"{parts.scheme}://{parts.netloc}"
