"""Handles failures around a run: launches that fail halfway, lost databases, and retries that Dagster misses."""
