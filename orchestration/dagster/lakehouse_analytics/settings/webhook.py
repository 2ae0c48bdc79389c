"""Settings of `lakehouse webhook`."""

from __future__ import annotations

from pydantic import BaseModel, Field, SecretStr, field_validator

#: A token can be guessed, so it must be longer than a word.
MIN_TOKEN = 16


class WebhookSettings(BaseModel):
    """The part of `Settings` about `lakehouse webhook`."""

    webhook_token: SecretStr | None = Field(
        None,
        description="Token with which other systems report loads to `lakehouse webhook`, which does not start without "
        "it. At least 16 characters.",
    )
    webhook_host: str = Field(
        "127.0.0.1", description="Address on which `lakehouse webhook` listens. In a pod, 0.0.0.0."
    )
    webhook_port: int = Field(8089, ge=1, le=65535, description="Port on which `lakehouse webhook` listens.")

    @field_validator("webhook_token")
    @classmethod
    def _long_token(cls, value: SecretStr | None) -> SecretStr | None:
        # The message must not contain the token, nor its length.
        token = value.get_secret_value() if value else ""
        if value and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
            raise ValueError(
                f"expected at least {MIN_TOKEN} printable ASCII characters without spaces, such as the output of "
                "`openssl rand -hex 32`"
            )
        return value
