"""Why an address cannot be reached, in few words."""

from __future__ import annotations

#: What `requests` and urllib3 write around it says nothing more.
_REASONS = (
    ("NameResolution", "its name is not known"),
    ("Name or service not known", "its name is not known"),
    ("Connection refused", "connection refused"),
    ("No route to host", "no route to host"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
    ("timed out", "no answer in time"),
    ("ConnectTimeout", "no answer in time"),
    ("reset by peer", "connection reset"),
    ("RemoteDisconnected", "it hung up"),
    ("IncompleteRead", "it hung up"),
)


def reason(error: BaseException) -> str:
    """One of `requests`' errors, short."""
    text = f"{type(error).__name__}: {error}"
    return next((reason for words, reason in _REASONS if words in text), type(error).__name__)
