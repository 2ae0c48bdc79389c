"""Findings about a dbt project: settings that expose half-written tables, and models that cannot be partitioned."""
