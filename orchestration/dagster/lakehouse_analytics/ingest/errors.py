"""The one error of a sync."""


class IngestError(Exception):
    """A sync did not happen; what it would have been read on from is as before. One line, without secrets."""
