"""Your own Dagster assets and components.

All Python files and `defs.yaml` files in this folder are loaded: docs/python.md.
"""
