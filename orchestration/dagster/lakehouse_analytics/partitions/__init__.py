"""Partitions: their definitions, the windows that one run builds, and what a schedule still owes."""
