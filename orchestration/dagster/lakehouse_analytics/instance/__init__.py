"""Maintenance of Dagster itself: what a long-lived instance needs and Dagster does not do."""
