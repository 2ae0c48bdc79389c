"""Your own Dagster assets and components. Each Python file and each `defs.yaml` in here is loaded: docs/python.md."""
