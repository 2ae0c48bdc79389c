"""Airbyte: its finished jobs seen exactly once, its connections mapped to dbt sources. No Dagster in here."""
