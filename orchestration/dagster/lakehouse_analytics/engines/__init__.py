"""The databases that dbt builds in. `base` defines the interface of an engine, and `registry` lists all engines."""
