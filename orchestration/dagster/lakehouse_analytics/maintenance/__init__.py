"""Maintenance of Iceberg tables: policies, measured states, and the steps that are due.

No Dagster except in report.py.
"""
