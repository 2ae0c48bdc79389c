"""Partitions: definitions, the partitions of a run, and the backlog of a schedule."""
