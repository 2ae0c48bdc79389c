"""Asset checks: dbt tests, row counts and their history, source freshness, and the queries that count rows."""
