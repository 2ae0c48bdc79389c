"""Triggers start runs when a system outside Dagster has loaded data. See base.py."""
