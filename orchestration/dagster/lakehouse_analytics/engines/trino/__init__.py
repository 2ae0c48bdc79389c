"""Trino: its resource, its client, and what its failures mean."""
