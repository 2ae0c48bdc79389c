"""Tools for development and tests, not for production."""
