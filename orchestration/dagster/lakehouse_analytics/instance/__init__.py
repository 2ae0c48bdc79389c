"""Maintenance tasks of a long-lived Dagster instance that Dagster itself does not perform."""
