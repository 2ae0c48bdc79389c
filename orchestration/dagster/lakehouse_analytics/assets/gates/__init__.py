"""Gates: while a test or the row count of a table fails, nothing downstream of the table is built.

`plan` defines what dbt builds, and `edges` in which order. `run` records the results of dbt and of the row counts, and
explains what is missing. Imports neither Dagster nor dbt.
"""
