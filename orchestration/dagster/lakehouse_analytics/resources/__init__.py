"""Connections, nothing else."""
