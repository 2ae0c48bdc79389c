"""Gates: if a test or the row count of a table fails, nothing downstream of the table is built.

`plan` defines what dbt builds, and `dependencies` in which order. `run` records the results of dbt and of the row
counts, and explains what was not built. The package imports neither Dagster nor dbt.
"""
