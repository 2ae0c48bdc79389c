"""The one error of a sync."""


class IngestError(Exception):
    """A sync did not happen; data and state are as before. The message is one line, without secrets."""
