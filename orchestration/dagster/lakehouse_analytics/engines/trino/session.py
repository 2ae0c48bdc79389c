"""Trino's HTTP session: authentication, certificates, and the lifetime of tokens. Does not import Dagster."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field, SecretStr

from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.trino.connection import TrinoConnection
from lakehouse_analytics.engines.trino.errors import Failure, Kind, classify

if TYPE_CHECKING:
    import requests
    import trino

SOURCE = "lakehouse-analytics"


class TrinoError(RuntimeError):
    """A statement failed. `failure` has the reason and its classification."""

    def __init__(self, failure: Failure, message: str = "") -> None:
        super().__init__(message or str(failure))
        self.failure = failure


class TrinoUnavailableError(TrinoError, DatabaseError):
    """Trino cannot run any statement: it is down or starting, or the credentials are wrong."""


def failed(failure: Failure) -> TrinoError:
    """Return the exception for a failure."""
    return TrinoUnavailableError(failure) if failure.of_server else TrinoError(failure)


class TrinoServer(TrinoConnection, extra="forbid"):
    """A coordinator, and everything that a client needs to use it.

    Attributes:
        secret: The password or the token, depending on `auth`.
        statement_timeout: Time limit of a statement in seconds, including the time in the queue; None: no limit.
        token_needed_until: Time until which the token must be valid; None: it must only be valid now.
    """

    secret: SecretStr | None = Field(default=None, repr=False)
    statement_timeout: float | None = None
    token_needed_until: datetime | None = None

    def authentication(self, now: datetime | None = None) -> trino.auth.Authentication | None:
        """Return the client's authentication; None if Trino requires none.

        Raises:
            TrinoUnavailableError: The password or token is not set, or the token expires too early.
        """
        from trino.auth import BasicAuthentication, CertificateAuthentication, JWTAuthentication

        if self.auth == "password":
            return BasicAuthentication(self.user, self._secret("LAKEHOUSE_TRINO_PASSWORD"))
        if self.auth == "jwt":
            token = self._secret("LAKEHOUSE_TRINO_JWT")
            check_token(token, now=now or datetime.now(UTC), until=self.token_needed_until)
            return JWTAuthentication(token)
        if self.auth == "certificate":
            return CertificateAuthentication(str(self.client_certificate), str(self.client_key))
        return None

    def _secret(self, variable: str) -> str:
        if self.secret is None:
            raise _log_in(f"{variable} is not set in this process, although the resource logs in to Trino with it")
        return self.secret.get_secret_value()


def check_token(token: str, *, now: datetime, until: datetime | None) -> None:
    """Check that a token does not expire too early. A token without an expiry is accepted.

    Args:
        token: A JSON Web Token. Trino verifies its signature.
        now, until: The times between which the token must be valid.

    Raises:
        TrinoUnavailableError: The token expires too early. The message names the variable and the times, never the
            token.
    """
    import jwt

    try:
        expires = jwt.decode(token, options={"verify_signature": False, "verify_exp": False}).get("exp")
        expiry = None if expires is None else datetime.fromtimestamp(float(expires), UTC)
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, OSError):
        raise _log_in("LAKEHOUSE_TRINO_JWT is not a JSON Web Token (three parts, separated by dots)") from None
    if expiry is None:
        return
    if expiry <= now:
        raise _log_in(f"LAKEHOUSE_TRINO_JWT expired at {expiry:%Y-%m-%d %H:%M:%S} UTC")
    if until is not None and expiry < until:
        raise _log_in(
            f"LAKEHOUSE_TRINO_JWT expires at {expiry:%Y-%m-%d %H:%M:%S} UTC, but a run may last until "
            f"{until:%Y-%m-%d %H:%M:%S} UTC (LAKEHOUSE_MAX_RUNTIME)"
        )


def _log_in(message: str) -> TrinoUnavailableError:
    advice = "Set LAKEHOUSE_TRINO_JWT to a token that is valid for long enough." if "JWT" in message else "Set it."
    failure = Failure(Kind.PERMANENT, True, "LOG_IN", None, message, advice, of_server=True)
    return TrinoUnavailableError(failure, f"{message}. {advice}")


def http_session(server: TrinoServer) -> requests.Session:
    """Return an HTTP session that trusts the settings' certificates and fails at once if a retry cannot help."""
    import requests

    class Session(requests.Session):
        def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
            # REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE would override the session's certificates. Proxies are still used.
            verify = self.verify if verify is None else verify
            return super().merge_environment_settings(url, proxies, stream, verify, cert)

        def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
            # The client retries every failed request, so a permanent failure must not look like one.
            try:
                response = super().request(method, url, *args, **kwargs)
            except OSError as error:
                failure = classify(error)
                if failure.transient or failure.name == "UNKNOWN":
                    raise
                raise failed(failure) from None
            if response.status_code in (401, 403):
                raise failed(classify(RuntimeError(f"error {response.status_code}: {_message(response)}")))
            return response

    session = Session()
    session.verify = server.ca_bundle or True
    return session


def _message(response: requests.Response) -> str:
    return " ".join(response.text.split())[:200] or response.reason
