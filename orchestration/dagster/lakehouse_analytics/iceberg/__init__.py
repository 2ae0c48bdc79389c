"""Iceberg's own metadata and upkeep. No Dagster in here."""
