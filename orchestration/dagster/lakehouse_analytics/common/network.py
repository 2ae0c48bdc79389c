"""Short reasons why an address cannot be reached, and dates of HTTP headers."""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime

#: Texts in the messages of `requests` and urllib3, and the reasons that they stand for.
_REASONS = (
    ("NameResolution", "its name is not known"),
    ("Name or service not known", "its name is not known"),
    ("Connection refused", "connection refused"),
    ("No route to host", "no route to host"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
    ("timed out", "no answer in time"),
    ("ConnectTimeout", "no answer in time"),
    ("reset by peer", "connection reset"),
    ("RemoteDisconnected", "the server closed the connection"),
    ("IncompleteRead", "the server closed the connection"),
)


def reason(error: BaseException) -> str:
    """Return the reason of an exception of `requests` in a few words."""
    text = f"{type(error).__name__}: {error}"
    return next((reason for words, reason in _REASONS if words in text), type(error).__name__)


def http_date(text: str | None) -> datetime | None:
    """Return the date of an HTTP header in UTC; None if the text is not a date."""
    try:
        found = email.utils.parsedate_to_datetime(text or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
