"""Maintenance of Iceberg tables: policies, measured state, and the steps that are due. No Dagster in here."""
