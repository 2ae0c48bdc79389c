"""The Dagster code location of a lakehouse: a dbt project as gated, layered assets."""
