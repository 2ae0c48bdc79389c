"""The Airbyte trigger: reports each finished job exactly once, and maps connections to dbt sources."""
