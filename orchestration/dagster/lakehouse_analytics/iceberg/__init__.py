"""Access to Iceberg catalogs and metadata. No Dagster in here."""
