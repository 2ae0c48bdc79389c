"""Gates: a failed test or row count of a table keeps everything below it from being built.

`plan` says what dbt builds, and `edges` in which order; `run` gets the results of dbt and of the row counts, and
explains what is missing. Pure: no Dagster, no dbt.
"""

#: Statuses of dbt's nodes. dbt has applied severity, `warn_if`, `error_if` and `warn_error` already: a failure stops
#: what lies below the test, whatever severity the manifest shows.
BUILT_STATUS = frozenset({"success"})
EVALUATED_STATUS = frozenset({"pass", "warn", "fail", "error"})
FAILED_STATUS = frozenset({"fail", "error"})
FINE_STATUS = frozenset({"success", "pass", "warn", "no-op"})
