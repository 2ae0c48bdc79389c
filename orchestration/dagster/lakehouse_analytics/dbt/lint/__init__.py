"""Findings about a dbt project: settings that expose partially written tables, and models that cannot be partitioned.
"""
