"""Triggers: what starts runs from outside Dagster. See base.py."""
