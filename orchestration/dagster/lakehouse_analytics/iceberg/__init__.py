"""Iceberg's own metadata. No Dagster in here."""
