"""Checks: results of dbt tests and row counts, the history they are compared with, and the queries that count."""
