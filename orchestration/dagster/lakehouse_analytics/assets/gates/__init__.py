"""Gates: while a test or the row count of a table fails, nothing downstream of the table is built.

`plan` defines what dbt builds, and `edges` in which order. `run` records the results of dbt and of the row counts, and
explains what is missing. Imports neither Dagster nor dbt.
"""

#: Statuses of dbt's nodes. dbt has already applied severity, `warn_if`, `error_if` and `warn_error`: a failure stops
#: what is downstream of the test, whatever severity the manifest shows.
BUILT_STATUS = frozenset({"success"})
EVALUATED_STATUS = frozenset({"pass", "warn", "fail", "error"})
FAILED_STATUS = frozenset({"fail", "error"})
FINE_STATUS = frozenset({"success", "pass", "warn", "no-op"})
