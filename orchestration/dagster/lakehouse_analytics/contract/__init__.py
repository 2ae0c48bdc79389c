"""The contract: `meta.lakehouse` of a dbt model or source."""
