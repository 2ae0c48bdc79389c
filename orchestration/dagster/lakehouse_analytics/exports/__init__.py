"""Exports: copies of the lakehouse's tables in ClickHouse or PostgreSQL, for dashboards.

`meta.lakehouse.serve` of a dbt model or exposure describes each; `contract/exports.py` has its keys.
"""
