"""The error of `lakehouse diff`."""

from __future__ import annotations


class DiffError(ValueError):
    """Two states cannot be compared. The message says which, why, and what to do."""
